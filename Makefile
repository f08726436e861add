# Everything a developer or CI does. `make help` lists it; each target sets up what it needs.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The first CPython >= 3.11 that runs; `make PYTHON=/path/to/python ...` takes another.
PYTHON ?= $(shell .ci/pythons | head -n 1)
JOBS ?= 2

# What the core of the suite is: run on every CPython, with generated tests at a small part of their number.
CORE := $(wildcard tests/unit tests/contract tests/property $(addprefix tests/integration/test_, $(addsuffix .py, \
	hard_cases hostile_code interruptions parallel_branches quiescence sync_threads timeouts unwinding)))
PIP := pip --disable-pip-version-check install --quiet --constraint constraints.txt
export PIP_ROOT_USER_ACTION := ignore

.DEFAULT_GOAL := help
.PHONY: help demo test test-long test-pythons simulate check format bench clean

help: ## List these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

demo: $(READY) ## Run jobs, kill the process in the middle, watch them go on (ten seconds)
	@$(BIN)/python -m examples.demo

test: $(READY) ## Run all tests, then their core on every other CPython found (six minutes)
	$(BIN)/python -m pytest -n $(JOBS) tests
	@$(MAKE) --no-print-directory test-pythons

SCALE ?= 5

test-long: $(READY) ## Run what is generated or simulated five times as often (SCALE=5; half an hour)
	PERDURE_TEST_SCALE=$(SCALE) $(BIN)/python -m pytest -n $(JOBS) --timeout 1800 tests/property tests/simulation

test-pythons: $(READY) ## Run the core of the tests on every other CPython found
	@used=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	for python in $$(.ci/pythons); do \
	  minor=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	  test $$minor != $$used || continue; \
	  $$python -c 'import ensurepip, venv' 2>/dev/null || { echo "--- CPython $$minor has no venv: left out"; continue; }; \
	  $(MAKE) --no-print-directory .venv-$$minor/.ready PYTHON=$$python || exit 1; \
	  echo "--- CPython $$minor"; \
	  PERDURE_TEST_SCALE=0.05 .venv-$$minor/bin/python -m pytest -q -n $(JOBS) -m "not slow" $(CORE) || exit 1; \
	done

SEEDS ?= 500
FIRST ?= 0

simulate: $(READY) ## Simulate engines, clients and faults: SEEDS=500 from FIRST=0 (docs/reliability.md)
	$(BIN)/python -m perdure.testing.simulation --seeds $(SEEDS) --first $(FIRST) --jobs $(JOBS)

check: $(READY) ## Check formatting, style, types and which part imports which
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(READY) ## Format the code and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## Measure nine workloads, beside the floor of this machine (five minutes)
	$(BIN)/python -m bench

clean: ## Remove the virtual environments and what tools left
	rm -rf .venv .venv-3.* .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Made once, and again when what is installed changes.
$(READY): pyproject.toml constraints.txt | has-venv
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m $(PIP) hatchling editables
	$(BIN)/python -m $(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@

.venv-3.%/.ready: pyproject.toml constraints.txt | has-venv
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m $(PIP) hatchling editables
	$(@D)/bin/python -m $(PIP) --no-build-isolation --editable '.[test]'
	@touch $@

.PHONY: has-venv
has-venv:
	@test -n "$(PYTHON)" || { echo "perdure needs CPython 3.11 or later, and none was found. Install one \
	(Debian, Ubuntu: apt-get install python3 python3-venv; macOS: brew install python), or name it: make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) can't make virtual environments: its \
	module venv or ensurepip is missing. Debian, Ubuntu: apt-get install python3-venv"; exit 1; }
