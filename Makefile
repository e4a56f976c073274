# Two commands for a machine with nothing but Python >= 3.11:
#   make section5   Section 5 of the DRO paper with its exact validation (torch is not needed)
#   make test       the whole test suite
PYTHON ?= python3
VENV ?= .venv
OUT ?= results/section5
SEED ?= 0
export PIP_DISABLE_PIP_VERSION_CHECK = 1
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable

.PHONY: section5 test slow test-core test-oldest test-matrix test-wheel test-extras fuzz benchmarks docs format clean

section5: $(VENV)/.installed
	$(BIN)/python -m validation section5 --out $(OUT)

test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
	  $(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist worksteal

slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow

# The core's tests on other arithmetic and other versions: test-core on one other BLAS kernel with
# two threads, test-matrix on all of them, on the oldest versions and on newer interpreters.
test-core: $(VENV)/.installed-test
	MATRIX_THREADS=2 tests/matrix.sh kernels $(BIN)/python Haswell

test-oldest:
	tests/matrix.sh oldest $(PYTHON)

test-matrix: $(VENV)/.installed-test
	tests/matrix.sh kernels $(BIN)/python
	tests/matrix.sh oldest $(PYTHON)
	tests/matrix.sh interpreters

# What a user installs: distributions built and checked, the wheel tried in a fresh environment;
# and every extra alone with the oldest versions that it allows.
test-wheel: $(VENV)/.installed-test
	tests/wheel.sh $(BIN)/python

test-extras:
	tests/matrix.sh extras $(PYTHON)

fuzz: $(VENV)/.installed-test
	$(BIN)/python tests/fuzz/hostile.py --calls 10000 --seed $(SEED)

benchmarks: $(VENV)/.installed
	$(BIN)/python -m validation benchmarks core
	$(BIN)/python -m validation benchmarks matrix-free
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m validation benchmarks headline

docs: $(VENV)/.installed-test
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

format: $(VENV)/.installed-test
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix .

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) '.[validation]'
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) '.[test]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) results docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
