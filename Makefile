# make run ARGS="sparsity=banded fc1_band=256"   train, archive and report (builds .venv first)
# make test                                      the tests for every day: all but those marked slow
# make test-slow, make test-all                  the slow ones; both
# make check                                     lint and types
VENV := .venv
BIN := $(VENV)/bin
# The first interpreter that pyproject.toml allows.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
ARGS ?=

.PHONY: run test test-slow test-all check format clean
.DELETE_ON_ERROR:

run: $(VENV)/.installed
	@$(BIN)/python -m gpt2lab.run $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 -m "not slow" $(ARGS)

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 -m slow $(ARGS)

test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "gpt2lab needs Python 3.11, 3.12 or 3.13; name one with make PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing gpt2lab and its dependencies into $(VENV) (once)"
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing gpt2lab with what its tests need into $(VENV) (once)"
	@$(INSTALL) -e '.[dev,hf,offline]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
