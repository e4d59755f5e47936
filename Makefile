# On a fresh machine, `make quickstart` installs hjepa and trains a first model; `make test` runs all checks.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/quickstart
INSTALL := $(BIN)/uv pip install --python $(BIN)/python --constraint constraints.txt

.PHONY: quickstart test setup lint types tests coverage speed docs clean

quickstart: $(VENV)/.installed
	@echo "training the quick start in $(RUN); the first start in a new environment takes a few seconds longer"
	$(BIN)/hjepa train --output-dir $(RUN) --resume auto $(ARGS)

# Linters and type checks run in parallel with the tests, which often wait for subprocesses; mypy needs half a minute of one core.
test: $(VENV)/.installed-dev
	$(MAKE) --no-print-directory --jobs 3 --output-sync=target lint types tests

setup: $(VENV)/.installed-dev

# uv installs much faster than pip and comes from the same package index.
$(VENV)/bin/uv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hjepa needs Python 3.11 or newer; set PYTHON=python3.x")'
	@echo "creating $(VENV)"
	$(PYTHON) -m venv $(VENV)
	@echo "installing uv, which then installs the packages"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

# Announces the number of packages, since the installer is quiet and PyTorch takes a while to download.
define install
@count=$$($(INSTALL) --dry-run $(1) 2>&1 | sed -n 's/^Would install \([0-9]*\) package.*/\1/p'); \
echo "installing $${count:-the} packages into $(VENV); PyTorch, the largest, may take minutes to download"
$(INSTALL) --quiet $(1)
endef

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/uv
	$(call install,--editable .)
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/uv
	$(call install,--editable '.[dev]')
	touch $@ $(VENV)/.installed

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.installed-dev
	$(BIN)/mypy

# One thread per process: tiny tensors do not run faster with more, and waiting threads slow each other down.
# Tests of a run with two threads share the cores with other tests, so idle threads sleep instead of spinning.
# The tests of a file run in one worker, so that shared fixtures are built once; files start in the order of
# tests/conftest.py.
PYTEST = OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive KMP_BLOCKTIME=0 $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder --durations=40

tests: $(VENV)/.installed-dev
	$(PYTEST)

# Apart from the tests: before Python 3.12, counting lines takes more than a third of their time.
coverage: $(VENV)/.installed-dev
	COVERAGE_CORE=$$($(BIN)/python -c 'import sys; print("sysmon" if sys.version_info >= (3, 12) else "ctrace")') \
	$(PYTEST) --cov --cov-report=term

# All speed measurements, about a quarter of an hour on two idle cores, and the tables of the speed page.
speed: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.all --json-dir docs/results/speed
	$(BIN)/python -m benchmarks.tables

clean:
	rm -rf $(VENV) runs .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache
