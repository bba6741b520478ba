# `make demo` and `make test` do all their own set-up: a virtual environment in .venv with pinned versions.
# Another Python: make demo PYTHON=python3.12

SHELL := /bin/sh
VENV := .venv
RUN := $(VENV)/bin/python
SIDE_BY_SIDE := --numprocesses auto --maxprocesses 4 --dist loadfile

# Nothing of the surrounding environment may leak into .venv.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV CONDA_PREFIX PIP_USER PIP_TARGET PIP_PREFIX PIP_CONSTRAINT PIP_REQUIREMENT

# An editable install remembers where the sources lie: install again if this folder was moved.
ifneq ($(shell cat $(VENV)/.installed-at 2>/dev/null),$(CURDIR))
.PHONY: $(VENV)/.demo $(VENV)/.dev
endif

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-slow lint format docs clean

help:  ## say what can be made
	@echo "make demo       train a convex CNN on photographs and build its report (minutes)"
	@echo "make test       lint, type-check and run all tests but the slow ones"
	@echo "make test-fast  run the tests that take least: under three minutes on two cores"
	@echo "make test-slow  run the slow tests"
	@echo "make docs       build the documentation into docs/_build"
	@echo "make format     format the code"
	@echo "make clean      remove .venv, docs/_build and caches (runs/ is kept)"

demo: $(VENV)/.demo
	@$(RUN) -m convexcnn demo
	@echo "Your own pictures: $(VENV)/bin/convexcnn fit FOLDER --out runs/mine --image-size 32"

test: lint
	$(RUN) -m pytest $(SIDE_BY_SIDE)

test-fast: $(VENV)/.dev
	$(RUN) -m pytest $(SIDE_BY_SIDE) -m 'not slow and not thorough'

test-slow: $(VENV)/.dev
	$(RUN) -m pytest -m slow --timeout 3600

lint: $(VENV)/.dev
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy

format: $(VENV)/.dev
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format

docs: $(VENV)/.dev
	$(RUN) -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build
	@echo "Open docs/_build/index.html"

clean:
	rm -rf docs/_build $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.demo $(VENV)/.dev: $(VENV)/.%: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing convexcnn with its '$*' extras into $(VENV) (a few minutes the first time)"
	@$(RUN) -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[$*]' \
	  || { echo "Error: pip could not install; see its message above; 'make clean' starts afresh" >&2; exit 1; }
	@pwd -P > $(VENV)/.installed-at
	@touch $@

# The interpreter asked for with PYTHON=..., else the first one on the path that is new enough.
$(VENV)/bin/python:
	@for python in $(if $(PYTHON),'$(PYTHON)',python3 python3.11 python3.12 python3.13); do \
	  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	  echo "Making $(VENV) with $$("$$python" --version) ($$python)"; \
	  "$$python" -m venv $(VENV) && exit 0; \
	  rm -rf $(VENV); \
	  echo "Error: $$python cannot make virtual environments; install its venv module" \
	    "(Debian and Ubuntu: sudo apt install python3-venv), then run make again" >&2; \
	  exit 1; \
	done; \
	echo "Error: convexcnn needs Python 3.11 or newer, and" \
	  "$(if $(PYTHON),$(PYTHON) is not,none was found);" \
	  "install one and name it: make demo PYTHON=/path/to/python3.12" >&2; \
	exit 1
