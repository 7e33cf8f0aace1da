# make demo    score the embedded data set with the embedded model, and draw the result
# make test    every test; ARGS='-k dropout' chooses among them
# make lint    style, format and types
# make bench   our engine against hand-written loops
# make clean   remove the environment and the tools' caches; results in out/ stay

# Each makes what it needs in .venv, with Python 3.11 or later (make test PYTHON=python3.12 names another one), and
# brings it up to date only when pyproject.toml, constraints.txt, that Python or the checkout's folder has changed.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=

# Which Python, in which folder: a copied environment would run the code of the checkout that it was copied from.
SHOW_STATE = import os, sys, zlib; print("%d.%d-%08x" % (sys.version_info[:2] + (zlib.crc32(os.getcwd().encode()),)))
STATE := $(lastword $(shell $(PYTHON) -c '$(SHOW_STATE)' 2>&1))
RUN := $(VENV)/.run-$(STATE)
DEV := $(VENV)/.dev-$(STATE)

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable
IS_OURS := test ! -e "$(VENV)" -o -f "$(VENV)/pyvenv.cfg" || \
  { echo "$(VENV) is there and is no virtual environment: move it, or name another one with VENV=" >&2; exit 1; }

.PHONY: help demo test lint bench clean

help:
	@sed -n '/^$$/q; s/^# //p' Makefile

demo: $(RUN)
	@$(BIN)/unc-score
	@$(BIN)/unc-heatmap out/demo --top epistemic --format terminal

test: $(DEV)
	@$(BIN)/python -m pytest $(ARGS)

lint: $(DEV)
	@$(BIN)/python -m ruff check
	@$(BIN)/python -m ruff format --check
	@$(BIN)/python -m mypy

bench: $(DEV)
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

clean:
	@$(IS_OURS)
	@rm -rf "$(VENV)" build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find uncertainty analysis figures benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Where the stamp is there but old, the packages are changed in place; without it the environment is made anew.
$(RUN): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or later is needed and $(PYTHON) is not: make ... PYTHON=python3.12" >&2; exit 1; }
	@$(IS_OURS)
	@test -e $@ || { \
	  echo "Setting up $(VENV) from pyproject.toml and constraints.txt: some minutes, once" >&2; \
	  $(PYTHON) -m venv --clear "$(VENV)"; }
	@$(INSTALL) .
	@touch $@

$(DEV): $(RUN)
	@$(INSTALL) '.[dev]'
	@touch $@
