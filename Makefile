# Needs Python >= 3.11 and make; no compiler, no GPU. pip's own environment variables (PIP_INDEX_URL,
# PIP_EXTRA_INDEX_URL, ...) are passed through, so a mirror or a CPU build of torch is one variable away.

PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
# One thread per test process: the processes already use the cores, and a file's tests share its fixtures. In the order
# of their names the long files of docs/ and invariants/ come early, so that no process waits for them at the end.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder
QUICK := $(addprefix tests/unit/,leaves recipe data/order nn objectives optim distributed checkpoint compare) \
	tests/golden tests/invariants/test_0[12356]_*.py
DEMO_STAMP := $(VENV)/.installed-demo
TEST_STAMP := $(VENV)/.installed-test

.DEFAULT_GOAL := help
.PHONY: help demo test quick lint install install-test site clean

help: ## Show this list
	@echo "Targets (Python >= 3.11 is all that is needed; set PYTHON=... to choose one):"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 24

demo: $(DEMO_STAMP) ## Train a small pair on this machine, compare it, write a page
	$(BIN)/seqpair run $(DEMO) --workers 2

test: lint ## Run all checks and the CPU tests, one process per core
	$(PYTEST)

quick: $(TEST_STAMP) ## Run the fast unit tests only: the inner loop, under two minutes
	$(PYTEST) -q $(QUICK)

lint: $(TEST_STAMP) ## Import contracts, style, types, spelling
	$(BIN)/lint-imports --no-logo
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

install: $(DEMO_STAMP) ## Make .venv with what `make demo` needs
install-test: $(TEST_STAMP) ## Make .venv with what `make test` needs

site: $(TEST_STAMP) ## Build the documents and the reference as a site: site/build/index.html
	$(BIN)/mkdocs build --quiet --strict --config-file site/mkdocs.yml

clean: ## Remove .venv and caches; runs/ and stores/ stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build site/build src/*.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"Python >= 3.11 is needed, {sys.executable} is {sys.version.split()[0]}; set PYTHON=...")'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo 'on Debian and Ubuntu the module venv is the package python3-venv'; exit 1; }

$(DEMO_STAMP): requirements/demo.txt pyproject.toml | $(BIN)/python
	@echo "installing the locked requirements of the demo into $(VENV) (once; some minutes) ..."
	@$(PIP) install --quiet --quiet --requirement requirements/demo.txt
	@$(PIP) install --quiet --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(TEST_STAMP): requirements/test.txt $(DEMO_STAMP)
	@echo "installing the locked requirements of the tests into $(VENV) ..."
	@$(PIP) install --quiet --quiet --requirement requirements/test.txt
	@touch $@
