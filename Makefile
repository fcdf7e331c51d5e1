# Two commands on a fresh machine: `make quickstart` runs the main job, `make test` runs the tests.
# Needs Python 3.11, a C++ compiler and pip.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
RECIPE ?= recipes/quickstart.yaml
# The CPU build where the index has one; TORCH="torch==2.13.0" takes the index's default build (CUDA on Linux).
TORCH  ?= torch==2.13.0+cpu
# llama.cpp without the parts that a library user does not need.
LLAMA_CMAKE ?= -DLLAVA_BUILD=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_HTTPLIB=OFF

# Cores for the compiler and for the test processes.
JOBS   ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
# Shows "compiling llama.cpp: 20 of 140" now and then, from what the build says; fails where pip failed.
define COMPILING
/^ *\[[0-9]+\/[0-9]+\]/ { split($$1, n, /[^0-9]+/); step = int(10 * n[2] / n[3]); \
  if (step != last) { printf "  compiling llama.cpp: %d of %d\n", n[2], n[3]; fflush(); last = step } } \
/^pip failed/ { failed = 1 } END { exit failed }
endef

export CMAKE_ARGS ?= $(LLAMA_CMAKE)
export TOKENIZERS_PARALLELISM ?= false

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev quickstart test test-slow quality format docs resolve bars clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.runtime  ## virtual environment with the pinned packages

setup-dev: $(VENV)/.dev  ## the same, with the tools for tests and quality

# A stamp for each step: nothing is done twice unless what it depends on has changed.
$(VENV)/.runtime: constraints.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "set-up 1 of 3: PyTorch (about 200 MB)"
	@$(PIP) install -q "$(TORCH)" || { \
	    echo "no $(TORCH) in this index: taking torch==2.13.0 as it comes"; \
	    $(PIP) install -q torch==2.13.0; }
	@echo "set-up 2 of 3: llama.cpp, compiled on $(JOBS) cores: 4 to 30 minutes the first time, seconds from pip's cache"
	@log=$(VENV)/llama.cpp.log; { CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) $(PIP) install -v -c constraints.txt \
	    llama-cpp-python 2>&1 || echo "pip failed"; } | tee $$log | awk '$(COMPILING)' \
	    || { tail -n 40 $$log; echo "llama.cpp did not compile; all that the compiler said: $$log"; exit 1; }
	@echo "set-up 3 of 3: the other packages (about 400 MB)"
	@$(PIP) install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@$(PIP) install -q -c constraints.txt -e '.[dev]'
	@touch $@

quickstart: $(VENV)/.runtime  ## set up, then distil, export, verify and measure a real model
	@echo "running $(RECIPE): the quickstart takes 6 to 10 minutes on 2 free cores, longer beside other work"
	@$(BIN)/distill2edge run $(RECIPE)

test: $(VENV)/.dev  ## set up, then the fast tests (offline once their model is here)
	@$(BIN)/distill2edge fetch smollm2-135m-instruct movie-sentiment
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile

test-slow: $(VENV)/.dev  ## real runs of minutes
	@$(BIN)/distill2edge fetch smollm2-135m-instruct movie-sentiment
	@$(BIN)/python -m pytest -m slow

quality: $(VENV)/.dev  ## lint, format, types, import direction, docs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest tests/project/test_import_direction.py
	@$(BIN)/python benchmarks/pages/reference.py --check

format: $(VENV)/.dev  ## format, and fix what the linter can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: $(VENV)/.dev  ## write the generated pages: recipe reference, CLI help, models
	@$(BIN)/python benchmarks/pages/reference.py

resolve:  ## does constraints.txt hold on every Python that pyproject.toml names? Asks the index, installs nothing
	@for minor in 11 12 13; do python=python3.$$minor; command -v $$python > /dev/null || { echo "no $$python here"; continue; }; \
	    $$python -m pip --disable-pip-version-check install -q --dry-run --ignore-installed -c constraints.txt \
	    torch==2.13.0 '.[dev]' > /dev/null && echo "$$python: resolved" || exit 1; done

bars:  ## every target with its measured value
	@$(BIN)/python benchmarks/bars.py

clean:  ## the virtual environment and the runs; the store stays
	rm -rf $(VENV) runs
