# Two commands: `make demo` shows the product at work, `make test` runs every test.
# Both make their own environment in .venv; nothing else on the machine is touched.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Photographs where the machine has any (Debian: tuxpaint-stamps-default), else scans of digits.
DATA ?= $(if $(wildcard /usr/share/tuxpaint/stamps/animals/birds),sample:stamps,sample:digits)
# A sample is looked at in a minute; your own pictures get what `fit` does unless told otherwise.
BUDGET ?= $(if $(filter sample:%,$(DATA)),fast,balanced)

.PHONY: demo test lint docs pictures clean

demo: $(VENV)/installed
	@$(BIN)/warmstart fit "$(DATA)" --budget $(BUDGET)
	@echo "         (first: . $(BIN)/activate)"

# Two at a time, one thread each: threads of several tests would only wait for each other.
test: $(VENV)/installed-test
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(VENV)/installed-dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# The pages as a site in build/site, which needs no other host; strict: a dead link ends it.
docs: $(VENV)/installed-docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open build/site/index.html"

# The animated pictures of README and docs, from real runs; needs a Chromium.
pictures: $(VENV)/installed-dev
	@OMP_NUM_THREADS=2 $(BIN)/python -m bench.screenshots

$(VENV)/python-ok:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "warmstart needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "python3-venv is missing; on Debian: apt-get install python3-venv"; exit 2; }
	@touch $@

$(VENV)/installed: pyproject.toml | $(VENV)/python-ok
	@echo "installing warmstart into $(VENV) (torch is large: some minutes the first time)"
	@$(BIN)/python -m pip install --quiet --editable '.[serve]'
	@touch $@

$(VENV)/installed-test: pyproject.toml | $(VENV)/python-ok
	@$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@ $(VENV)/installed

$(VENV)/installed-docs: pyproject.toml | $(VENV)/python-ok
	@$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(VENV)/python-ok
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/installed $(VENV)/installed-test

clean:
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
