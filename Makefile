# `make demo` and `make test` need nothing but Python 3.11 and pip.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed

.PHONY: demo test test-oldest test-backends lint docs bench clean

demo: $(INSTALLED)
	$(BIN)/zoo demo

test: $(INSTALLED)
	$(BIN)/python -m pytest --cov=zoo --cov-report=term

# The oldest Keras and TensorFlow that setup.cfg admits.
test-oldest:
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS="-c tests/oldest.txt"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p zoo

# The tables in README.md and results.csv, from the cards.
docs: $(INSTALLED)
	$(BIN)/python docs/tables.py

bench: $(INSTALLED)
	$(BIN)/python benchmarks/latency.py

clean:
	rm -rf .venv* build dist demo *.egg-info .coverage .*_cache

$(INSTALLED): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]' $(CONSTRAINTS)
	touch $(INSTALLED)
