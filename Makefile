# Two commands on a fresh machine: `make quickstart` runs the main job, `make test` runs the tests.
# Needs Python 3.11, a C++ compiler and pip.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
RECIPE ?= recipes/quickstart.yaml
# The CPU build where the index has one; TORCH="torch==2.13.0" takes the index's default build (CUDA on Linux).
TORCH  ?= torch==2.13.0+cpu
# llama.cpp without the parts that a library user does not need.
LLAMA_CMAKE ?= -DLLAVA_BUILD=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_HTTPLIB=OFF

export CMAKE_ARGS ?= $(LLAMA_CMAKE)
export TOKENIZERS_PARALLELISM ?= false

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev quickstart test test-slow quality format docs bars bench clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.runtime  ## virtual environment with the pinned packages

setup-dev: $(VENV)/.dev  ## the same, with the tools for tests and quality

# A stamp for each step: nothing is done twice unless what it depends on has changed.
$(VENV)/.runtime: constraints.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV): a few minutes the first time (llama.cpp is compiled)"
	@$(PIP) install -q "$(TORCH)" || { \
	    echo "no $(TORCH) in this index: taking torch==2.13.0 as it comes"; \
	    $(PIP) install -q torch==2.13.0; }
	@$(PIP) install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@$(PIP) install -q -c constraints.txt -e '.[dev]'
	@touch $@

quickstart: $(VENV)/.runtime  ## set up, then distil, export, verify and measure a real model
	@$(BIN)/distill2edge run $(RECIPE)

test: $(VENV)/.dev  ## set up, then the fast tests (offline once their model is here)
	@$(BIN)/distill2edge fetch smollm2-135m-instruct movie-sentiment
	@$(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/.dev  ## real runs of minutes
	@$(BIN)/distill2edge fetch smollm2-135m-instruct movie-sentiment
	@$(BIN)/python -m pytest -m slow

quality: $(VENV)/.dev  ## lint, format, types, import direction, docs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest tests/test_import_direction.py
	@$(BIN)/python docs/generate.py --check

format: $(VENV)/.dev  ## format, and mend what the linter can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: $(VENV)/.dev  ## write the generated pages: recipe reference, CLI help
	@$(BIN)/python docs/generate.py

bars:  ## every target with its measured value
	@$(BIN)/python benchmarks/bars.py

clean:  ## the virtual environment and the runs; the store stays
	rm -rf $(VENV) runs
