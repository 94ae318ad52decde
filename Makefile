# Every target sets itself up: the first one run creates .venv and installs the project into it.
# Variables: PYTHON (interpreter to build .venv with), ARGS (passed on to demo, pytest or bench),
# SEEDS and FIRST (for sim), ONLY and SHARE (for chaos).

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
LOG   := $(VENV)/install.log
SEEDS ?= 1000
FIRST ?= 0
ONLY  ?=
SHARE ?= 1
SHELL := /bin/sh

CHECK := import sys; sys.exit(sys.version_info < (3, 11))
FOUND := $(shell for p in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	     if "$$p" -c '$(CHECK)' 2>/dev/null; then echo "$$p"; break; fi; done)
QUIET := PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore

.DEFAULT_GOAL := help
.PHONY: help demo test lint sim chaos handlers bench clean

help:
	@echo "make demo    parse, stream and rank the imports of every installed Python file"
	@echo "make test    ruff, mypy and pytest"
	@echo "make lint    ruff and mypy only"
	@echo "make sim     SEEDS=1000 FIRST=0: the engine's machines in simulated time, with faults"
	@echo "make handlers which except bodies of the engine no test runs"
	@echo "make chaos   ONLY=R17 SHARE=0.1: kills, damage, full disks, overload; 4 hours with neither"
	@echo "make bench   the core benchmark, against the standard library"
	@echo "make clean   remove .venv and everything generated"

$(STAMP): pyproject.toml
	@if [ -z "$(FOUND)" ]; then \
	    echo "error: Python 3.11 or newer is needed; found: $$(python3 --version 2>&1)." >&2; \
	    echo "       Install it, or name one: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; fi
	@echo "setting up $(VENV) with $$($(FOUND) --version) (once, a minute or two) ..."
	@$(FOUND) -m venv $(VENV) || { \
	    echo "error: '$(FOUND) -m venv' failed; on Debian: apt-get install python3-venv." >&2; \
	    exit 1; }
	@if $(QUIET) $(BIN)/python -m pip install --progress-bar off -e '.[test]' >$(LOG) 2>&1; \
	 then touch $@; \
	 else echo "error: installing failed; the end of $(LOG):" >&2; tail -n 25 $(LOG) >&2; exit 1; fi

demo: $(STAMP)
	@$(BIN)/python -m examples.imports $(ARGS)

test: lint
	@$(BIN)/python -m pytest -q $(ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/mypy

sim: $(STAMP)
	@$(BIN)/python -m tests.sim --seeds $(SEEDS) --first $(FIRST)

handlers: $(STAMP)
	@$(BIN)/python -m tests.handlers $(ARGS)

chaos: $(STAMP)
	@$(BIN)/python -m tests.chaos --only $(ONLY) --share $(SHARE); held=$$?; \
	    $(BIN)/python -m tests.chaos.report && exit $$held

bench: $(STAMP)
	@$(BIN)/python -m benchmarks.core --peer stdlib $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
