# `make quick` (a minute) while you write, `make check` before every commit; `make test` is what CI runs.
PYTHON ?= python

.PHONY: check format lint types quick test parity tables page

check: lint types

format:
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

lint:
	$(PYTHON) -m ruff check .

types:
	$(PYTHON) -m mypy

quick: lint
	$(PYTHON) -m pytest -q -m "not slow and not parity" tests/unit tests/test_architecture.py

test: check
	$(PYTHON) -m pytest

parity:
	$(PYTHON) -m pytest -m parity

tables:
	for file in shapes-systems shapes-sweeps shapes-bfloat16; do \
	  $(PYTHON) -m genbench bench leaderboards/$$file.toml --output runs --leaderboard leaderboards/shapes.csv || exit; \
	done
	for file in zoo zoo-long zoo-likelihood zoo-exact; do \
	  $(PYTHON) -m genbench bench leaderboards/$$file.toml --output runs --leaderboard leaderboards/zoo.csv || exit; \
	done
	for name in shapes zoo; do \
	  $(PYTHON) -m genbench leaderboard render leaderboards/$$name.csv --output leaderboards/$$name.md || exit; \
	done

page:
	$(PYTHON) -m genbench report leaderboards/shapes.csv leaderboards/zoo.csv leaderboards/pictures/zoo-*.png \
	  --names leaderboards/names.toml --title "Leaderboards of genbench" --output leaderboards/index.html
