# Two commands are enough: `make demo` and `make test`. Both set everything up first.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: help install demo test check format bench docs clean

help:  ## what can be made here
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP)  ## make .venv with rota and everything it is developed with

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,ray,route,solve]'
	@touch $@

demo: install  ## a day of chat and code traffic on four replicas under eight policies, with a report
	@mkdir -p build
	$(BIN)/rota run examples/serving/demo.yaml --out $$(mktemp -d build/demo-XXXX)/study

test: install  ## the tests
	$(BIN)/python -m pytest -n 2

check: install  ## lint, formatting, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_imports.py

format: install  ## let ruff format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install  ## measured ratios and speeds,
	$(BIN)/python -m bench.speed
	$(BIN)/python -m bench.route

docs: install  ## the documentation, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "the documentation is in build/site/index.html"

clean:  ## remove what was made
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis
