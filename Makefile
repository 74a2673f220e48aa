# Two commands matter: `make demo` and `make test`. Both set up what they need, once.
#
# On Linux the package registry's `torch` is a CUDA build of several gigabytes. On a machine without a GPU a CPU build
# of the same version is enough, and pip takes it wherever it finds one:
#   PIP_FIND_LINKS=/folder/with/wheels make setup
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make setup

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UI_PORT ?= 5000
TEST_PROCESSES ?= 2
TESTS ?= tests/unit tests/contracts tests/golden tests/integration tests/gpu
PYTEST_ARGS ?=

# Anything that cannot make a virtual environment (Debian without python3-venv) does not count.
PROBE := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))

export PYTHONPATH := $(CURDIR)

.DEFAULT_GOAL := help
.PHONY: help setup demo test suite chaos nodes lint ui clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with the exact versions of requirements.lock (does nothing when that is done)

demo: $(STAMP) ## Raw signals to captions: the whole pipeline on the miniature suite, report in runs/demo
	@$(BIN)/python -m jobs.demo

test: $(STAMP) ## Unit, contract, golden and integration tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadscope -q --durations 5 \
		$(TESTS) $(PYTEST_ARGS)

suite: $(STAMP) ## Whether the miniature suite is a benchmark (minutes; after a change of its data or models)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 -q -m suite tests/integration/test_miniature_suite.py $(PYTEST_ARGS)

chaos: $(STAMP) ## Kill extractions and training at random moments: minutes, so `make test` leaves it out
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -s -m chaos tests/integration $(PYTEST_ARGS)

nodes: $(STAMP) ## Submit jobs to a Ray cluster of three nodes and lose one of them, and to one that grows: minutes
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -s -n 0 -m nodes tests/integration $(PYTEST_ARGS)

lint: $(STAMP) ## Style, format, types and layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy pipeline jobs
	@$(BIN)/lint-imports

ui: $(STAMP) ## Serve the runs' records on localhost
	@$(BIN)/python -m jobs.ui --port $(UI_PORT)

clean: ## Remove results and caches, not .venv
	@rm -rf runs .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find pipeline jobs tests -type d -name __pycache__ -prune -exec rm -rf {} +

$(STAMP): requirements.lock
	@set -e; \
	if [ ! -x $(BIN)/python ]; then \
		for python in $(PYTHON) python3.11 python3.12 python3 python; do \
			if "$$python" -c '$(PROBE)' >/dev/null 2>&1; then found="$$python"; break; fi; \
		done; \
		if [ -z "$${found:-}" ]; then \
			echo "error: no Python 3.11 or 3.12 that can make virtual environments was found (on Debian and Ubuntu" \
				"install python3.11-venv or python3.12-venv), or name one: make setup PYTHON=/path/to/python3.11" >&2; \
			exit 2; \
		fi; \
		echo "making $(VENV) with $$("$$found" --version)"; \
		"$$found" -m venv $(VENV); \
	fi; \
	$(BIN)/python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || { \
		echo "error: $(VENV) holds $$($(BIN)/python --version), needed is 3.11 or 3.12: remove $(VENV) and try again" >&2; \
		exit 2; \
	}; \
	echo "installing requirements.lock into $(VENV): some minutes the first time"; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock; \
	touch $@
