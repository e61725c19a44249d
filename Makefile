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
	$(PYTHON) -m scripts.measure_leaderboard
	$(PYTHON) -m scripts.render_leaderboards
