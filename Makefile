# Each target alone on a machine that has only Python >= 3.10, pip and make:
#   make demo    the whole job on a made-up corpus; says what to open
#   make test    the test suite; make test-slow adds the tests of more than a quarter of a minute
#   make docs    the site of docs/, into site/; a warning is an error
#   make slurm-test   the commands on a real Slurm cluster on this machine: installs it (Debian, as root), tests, stops it
#   make faults  what mepipe survives: every fault made on purpose, long; writes benchmarks/results/faults.json
# PYTHON chooses the interpreter, PIP_FLAGS goes to every pip install (an index of your own, say).
PYTHON ?= python3
PIP_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin

PYTEST := $(BIN)/python -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder

.PHONY: demo test test-slow slurm-test docs faults lint format clean

demo: $(VENV)/.demo
	$(BIN)/mepipe demo

test: $(VENV)/.test
	$(PYTEST) -m 'not slow'

test-slow: $(VENV)/.test
	$(PYTEST) -m slow

slurm-test: $(VENV)/.test
	tests/slurm/install.sh
	MEPIPE_SLURM_TEST=1 $(BIN)/python -m pytest tests/slurm --durations=0

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

faults: $(VENV)/.test
	$(BIN)/python benchmarks/faults.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# one stamp file per set of extras; it is made anew when what it was made from changes
$(VENV)/.%: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(BIN)/pip install $(PIP_FLAGS) -c constraints.txt -e '.[$*]'
	@touch $@

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit("mepipe needs Python 3.10 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 10) else 0'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(PIP_FLAGS) -c constraints.txt --upgrade pip setuptools

clean:
	rm -rf $(VENV) build dist *.egg-info
