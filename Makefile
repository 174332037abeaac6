# rshell: every command a developer or a new user needs. `make help` lists them.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
JOBS   ?= $(shell nproc 2>/dev/null || echo 2)
# Narrow a test run: make trial TESTS=tests.link
TESTS  ?= tests

STAMP  := $(VENV)/.installed

.PHONY: help demo test lint trial bench wheels clean

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The virtual environment holds both distributions, editable, and the tools of the tests.
$(STAMP): setup.cfg agent/setup.cfg pyproject.toml agent/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "rshell needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) 2>/dev/null || { \
	  rm -rf $(VENV); \
	  test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	    && echo "installing python3-venv, which Debian keeps apart from python3" \
	    && apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null \
	    && $(PYTHON) -m venv $(VENV); } || { \
	  rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv"; \
	  exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -e '.[gateway,dev]' -e ./agent
	@touch $@

demo: $(STAMP) ## A gateway, three local agents and commands run on them (ONCE=1 ends by itself)
	$(BIN)/rshell demo $(if $(ONCE),--once)

test: lint trial ## Lint, types and every test

lint: $(STAMP) ## ruff, mypy strict and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

trial: $(STAMP) ## Every test, in parallel (TESTS=tests.link narrows)
	$(BIN)/python -m twisted.trial -j$(JOBS) $(TESTS)

bench: $(STAMP) ## Measure, as root, for 45 minutes: make bench SECTIONS="echo bulk" (QUICK=1)
	$(BIN)/python -m benchmarks.tools
	$(BIN)/python -m benchmarks $(SECTIONS) $(if $(QUICK),--quick)

wheels: $(STAMP) ## Build both distributions into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist . ./agent

clean: ## Remove what the other targets made
	rm -rf $(VENV) dist build agent/build *.egg-info agent/*.egg-info _trial_temp* \
	  .mypy_cache .ruff_cache .import_linter_cache .hypothesis
