# Two commands on a fresh machine: `make quickstart` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/quickstart
INSTALL := $(BIN)/uv pip install --python $(BIN)/python --constraint constraints.txt

.PHONY: quickstart test setup lint types tests speed docs clean

quickstart: $(VENV)/.installed
	@echo "training the quick start in $(RUN); the first start in a new environment takes a few seconds longer"
	$(BIN)/hjepa train --output-dir $(RUN) --resume auto $(ARGS)

# Lint and types beside the tests: mypy keeps one core busy for half a minute, and the tests wait for processes now and then.
test: $(VENV)/.installed-dev
	$(MAKE) --no-print-directory --jobs 3 --output-sync=target lint types tests

setup: $(VENV)/.installed-dev

# uv resolves and installs in a fraction of pip's time; it comes from the same package index.
$(VENV)/bin/uv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hjepa needs Python 3.11 or newer; set PYTHON=python3.x")'
	@echo "creating $(VENV)"
	$(PYTHON) -m venv $(VENV)
	@echo "installing uv, which installs the rest"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

# Says how many packages are to come: the installer itself is quiet, and PyTorch takes a while to download.
define install
@count=$$($(INSTALL) --dry-run $(1) 2>&1 | sed -n 's/^Would install \([0-9]*\) package.*/\1/p'); \
echo "installing $${count:-the} packages into $(VENV); the largest, PyTorch, may take minutes to download"
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

# One thread per process: tiny tensors gain nothing from more, and threads that spin slow each other down.
# Coverage of subprocesses (the command line, data workers) is combined with that of the tests themselves.
tests: $(VENV)/.installed-dev
# The tests of a file stay together, so that what they share is made once.
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile --durations=40 --cov --cov-report=term

# Every figure of speed, about a quarter of an hour on two cores that do nothing else; then the tables of the results page.
speed: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.all --json-dir docs/results/speed
	$(BIN)/python -m benchmarks.tables

clean:
	rm -rf $(VENV) runs .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache
