# Everything a fresh machine needs. `make run` shows live candles; `make test` proves the rest.
# Needs: Linux, Python 3.11 or 3.12 (with venv), make, and a way to the package registries.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.12 >/dev/null 2>&1 && python3.12 -c 'import venv' 2>/dev/null && echo python3.12 || { command -v python3.11 >/dev/null 2>&1 && echo python3.11; } || echo python3)
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 3

.PHONY: run test test-random test-full test-peers bench lint types setup clean help docs

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

run: setup ## Watch live candles from a loopback venue (Ctrl-C ends it and leaves nothing)
	@$(BIN)/piker demo

test: setup-dev ## Run lint, types, floors, sizes and every test that fits into CI
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "not full" $(ARGS)

test-full: setup-dev ## Run the counted tests at their full counts (takes long)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(ARGS)

test-peers: setup-dev ## Run third-party clients against the loopback venues, each in its own environment
	@bash tools/peers.sh

bench: setup-dev ## Run every benchmark; each prints one JSON line with its ratios
	@bash tools/bench.sh

docs: setup-dev ## Rewrite the generated parts of the documents from the code
	@$(BIN)/python tools/gendocs.py

setup: $(VENV)/.setup ## Make the virtual environment
setup-dev: $(VENV)/.setup-dev

$(VENV)/.uv:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
	  || { echo "piker needs Python 3.11 or 3.12; '$(PYTHON)' is not. Install one, or run: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "Python's venv module is missing. On Debian: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5' \
	  || { echo "The Python package index can not be reached: check the network, then run make again."; exit 1; }
	@touch $@

$(VENV)/.setup: setup.py pyproject.toml | $(VENV)/.uv
	@echo "Setting piker up (about half a minute, once) ..."
	@$(BIN)/uv pip install --quiet --python $(VENV) -e .
	@touch $@

$(VENV)/.setup-dev: setup.py pyproject.toml | $(VENV)/.uv
	@$(BIN)/uv pip install --quiet --python $(VENV) -e '.[dev]'
	@touch $@ $(VENV)/.setup

clean: ## Remove the virtual environment and caches
	@rm -rf $(VENV) .peers .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	@find . -name __pycache__ -prune -exec rm -rf {} +
