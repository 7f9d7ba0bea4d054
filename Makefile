# `make demo` and `make test` work on a fresh machine, and do nothing twice.

PYTHON ?= python3
VENV = .venv
IN_VENV = $(VENV)/bin/python

.PHONY: help demo test lint screenshots clean

help:
	@echo 'make demo    start the app on the data that comes with it; its address is printed'
	@echo 'make test    check style and run all tests'
	@echo 'make lint    check style only'
	@echo 'make screenshots  pictures of every page, in screenshots/ (needs chromium)'
	@echo 'make clean   remove .venv and everything the tools made'
	@echo
	@echo 'The first two install into .venv what they need.  PYTHON=python3.12 make … picks the Python.'

demo: $(VENV)/.installed
	$(IN_VENV) -m anounet app

test: lint
	$(IN_VENV) -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed-test
	$(IN_VENV) -m ruff check .
	$(IN_VENV) -m ruff format --check .

screenshots: $(VENV)/.installed-test
	$(IN_VENV) tools/screenshots.py

clean:
	rm -rf $(VENV) build dist anounet.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are newer than what they were installed from. A .venv without pip is one whose making failed.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'Ano-Unet needs Python 3.11 or newer: name one, as in  make PYTHON=python3.12' >&2; exit 1; }
	@$(IN_VENV) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(IN_VENV) -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(IN_VENV) -m pip install --quiet --editable '.[test]'
	@touch $@
