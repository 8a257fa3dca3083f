# Everything in one virtual environment that these targets make themselves; pip's own environment variables
# (PIP_INDEX_URL, PIP_FIND_LINKS, ...) are honoured.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= build/demo

.PHONY: demo test check lint env clean

## demo: a phantom CT through a bundle made from a real torch U-Net, to findings, pictures and a latency table
demo: env
	$(BIN)/python examples/demo.py --output $(DEMO)

## test: everything CI runs
test: env lint
	$(BIN)/pytest

## check: the fast suite, for every change
check: env lint
	$(BIN)/pytest -m "not slow"

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

## env: the virtual environment, renewed when the project's dependencies change
env: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[convert,dicom,test]"
	touch $@

clean:
	rm -rf $(VENV) build
