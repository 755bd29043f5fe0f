# What a developer types. Each target first makes the environment in .venv, with what that target needs.
# Needs Python 3.11 or newer and make: `make test PYTHON=python3.12 VENV=/tmp/venv`.

PYTHON ?= python3
VENV ?= .venv
FUZZ_SEED ?= 0
BIN := $(VENV)/bin
# A file's tests share what they compile, so they go to one worker (`loadgroup` puts no groups together with pytest
# 9.2, pytest-xdist's issue 1386); in the order of the folders small ones come last.
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq

.PHONY: help demo test test-slow conformance fuzz golden validate lint fmt clean

help:
	@echo "make demo       compile and run the digits network on a simulated IPU, dense and block-sparse"
	@echo "make test       the tests that take a few seconds each"
	@echo "make test-slow  the tests that take longer"
	@echo "make conformance  the backend tests of ONNX through compiled programs; writes docs/operators.md"
	@echo "make fuzz       random graphs against two oracles, without end or for FUZZ_MINUTES=30, from FUZZ_SEED=0 on"
	@echo "make golden     write the golden texts of tests/golden again"
	@echo "make validate   the cycle model against published measurements of real IPUs"
	@echo "make lint       ruff and mypy"
	@echo "make fmt        format the code"
	@echo "make clean      remove what builds and checks leave behind; the environment stays"

demo: $(VENV)/.installed-run
	$(BIN)/python samples/digits/demo.py

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q $(WORKERS) -m "not slow"

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q $(WORKERS) -m slow

conformance: $(VENV)/.installed-test
	$(BIN)/python benchmarks/conformance.py --json $(VENV)/conformance.json
	$(BIN)/python benchmarks/operators.py $(VENV)/conformance.json

fuzz: $(VENV)/.installed-test
	$(BIN)/python tests/fuzz/fuzz.py --seed $(FUZZ_SEED) $(if $(FUZZ_MINUTES),--minutes $(FUZZ_MINUTES))

golden: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q tests/golden --snapshot-update

validate: $(VENV)/.installed-test
	$(BIN)/python benchmarks/validate.py

lint: $(VENV)/.installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

fmt: $(VENV)/.installed-test
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ipucc needs Python 3.11 or newer: PYTHON=...")'
	@$(PYTHON) -m venv $(VENV)

# An environment that already has everything is taken as it is, without a network. setuptools is installed beside
# the project, so that this holds for the build of the project itself, and for the test that builds a wheel.
$(VENV)/.installed-run: pyproject.toml | $(BIN)/python
	@$(PIP) --no-index --no-build-isolation -e . 2>/dev/null \
	|| { $(PIP) "setuptools>=77" && $(PIP) --no-build-isolation -e .; }
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	@$(PIP) --no-index --no-build-isolation -e ".[test]" 2>/dev/null \
	|| { $(PIP) "setuptools>=77" && $(PIP) --no-build-isolation -e ".[test]"; }
	@touch $@ $(VENV)/.installed-run
