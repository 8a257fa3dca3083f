# Everything in one virtual environment that these targets make themselves; pip's own environment variables
# (PIP_INDEX_URL, PIP_FIND_LINKS, ...) are honoured. The vendor's toolkit gets environments of its own beside it.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= build/demo
export EDGELUNG_HOME ?= $(abspath $(VENV))/edgelung

.PHONY: demo test check lint env toolkit toolkits clean

## demo: a phantom CT through a bundle made from a real torch U-Net, to findings, pictures and a latency table
demo: toolkit
	$(BIN)/python examples/demo.py --output $(DEMO)

## test: everything CI runs
test: toolkits lint
	$(BIN)/pytest

## check: the fast suite, for every change
check: env lint
	$(BIN)/pytest -m "not slow"

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

## toolkit: the vendor's compiler for the NPU, in an environment of its own; kept when it is there
toolkit: env
	$(BIN)/edgelung toolkit install 2.3.2

toolkits: toolkit
	$(BIN)/edgelung toolkit install 2.5.0

## env: the virtual environment, renewed when the project's dependencies change
env: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[convert,dicom,test]"
	touch $@

clean:
	rm -rf $(VENV) build
