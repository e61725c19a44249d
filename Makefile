# `make check` before every commit; `make test` is what CI runs.
PYTHON ?= python

.PHONY: check format lint types test parity tables

check: lint types

format:
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

lint:
	$(PYTHON) -m ruff check .

types:
	$(PYTHON) -m mypy

test: check
	$(PYTHON) -m pytest

parity:
	$(PYTHON) -m pytest -m parity

tables:
	for file in shapes-systems shapes-sweeps shapes-bfloat16; do \
	  $(PYTHON) -m genbench bench leaderboards/$$file.toml --output runs --leaderboard leaderboards/shapes.csv || exit; \
	done
	$(PYTHON) -m genbench bench leaderboards/zoo.toml --output runs --leaderboard leaderboards/zoo.csv
	for name in shapes zoo; do \
	  $(PYTHON) -m genbench leaderboard render leaderboards/$$name.csv --output leaderboards/$$name.md || exit; \
	done
