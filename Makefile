# Everything is run through .venv, built from requirements.lock; nothing is installed outside this folder.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MARK := $(VENV)/.locked
GPU_MARK := $(VENV)/.locked-gpu
# Once there, CuPy stays when .venv is built anew.
GPU ?= $(wildcard $(GPU_MARK))

# An interpreter named on the command line replaces the one that .venv was built with, if their versions differ.
ifeq ($(findstring command,$(origin PYTHON)),command)
VERSION := import sys; print(*sys.version_info[:2], sep='.')
ifneq ($(shell $(PYTHON) -c "$(VERSION)" 2>/dev/null || echo none),$(shell $(BIN)/python -c "$(VERSION)" 2>/dev/null))
$(shell rm -f $(MARK))
endif
endif

.PHONY: setup sandbox demo test coverage lint bench lock clean

setup: $(MARK) $(if $(GPU),$(GPU_MARK))  ## Everything that is locked; GPU=1 adds CuPy.

$(MARK): requirements.lock pyproject.toml
	@./deployments/preflight.sh "$(PYTHON)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(MARK)

$(GPU_MARK): $(MARK) requirements-gpu.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-gpu.lock
	@touch $(GPU_MARK)

sandbox:
	@./deployments/preflight.sh "$(PYTHON)" sandbox

demo: sandbox setup  ## The whole life of several jobs on local stand-ins; KEEP=1 leaves it running.
	@$(BIN)/millrace demo $(if $(KEEP),--keep)

test: setup  ## Every test.
	@$(BIN)/python -m pytest $(ARGS)

# Not what CI runs: CPython 3.11 can loop for ever where a traced weak reference's callback runs in a pending call, as
# greenlet's do when a thread with a database connection has ended.
coverage: setup  ## Every test, and which lines they reach.
	@$(BIN)/python -m pytest --cov --cov-report=term:skip-covered $(ARGS)

lint: setup  ## Format, lint, types and the arrows between the packages.
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: setup  ## Every bench; NAME=discover for one.
	@for name in $(or $(NAME),$(basename $(notdir $(filter-out bench/__init__.py bench/report.py,$(wildcard bench/*.py))))); do \
		$(BIN)/python -m bench.$$name || exit 1; done

lock:  ## Resolve the dependencies anew (needs uv).
	uv pip compile pyproject.toml --universal --python-version 3.11 --extra dev --generate-hashes \
		--no-emit-index-url --no-strip-extras --no-header --quiet -o requirements.lock
	uv pip compile pyproject.toml --universal --python-version 3.11 --extra gpu --constraint requirements.lock \
		--generate-hashes --no-emit-index-url --no-strip-extras --no-header --quiet -o requirements-gpu.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
