# `make train` and `make test` need Python 3.11 or later and nothing else; both make their own environment.
PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet

.PHONY: train test check bench conformance clean

train: $(VENV)/.train
	$(VENV)/bin/firepot train $(ARGS)

test: $(VENV)/.test check
	$(VENV)/bin/python -m pytest -n 2 $(ARGS)

check: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

conformance: $(VENV)/.test
	$(VENV)/bin/python -m conformance $(ARGS)

bench: $(VENV)/.bench
	$(VENV)/bin/python -m benchmarks $(ARGS)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Firepot needs Python 3.11 or later; name one with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: $(VENV)/bin/python pyproject.toml
	$(PIP) -e '.[train]'
	@touch $@

$(VENV)/.test: $(VENV)/bin/python pyproject.toml
	$(PIP) -e '.[test]'
	@touch $@

$(VENV)/.bench: $(VENV)/bin/python pyproject.toml
	$(PIP) -e '.[bench]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
