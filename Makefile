# `make demo` runs the main job, `make test` the tests; each sets the environment up when that is still to do.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# What runs on any Keras backend is tested on both.
NEUTRAL := $(foreach room,ops layers models analysis,tests/$(room) keras_sharenets/$(room))

.PHONY: demo test test-all lint clean

demo: $(INSTALLED)
	rm -rf runs/demo
	$(BIN)/python -m trainers demo --output runs/demo

test: lint
	KERAS_BACKEND=jax $(BIN)/python -m pytest $(NEUTRAL)
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest

test-all: lint
	KERAS_BACKEND=jax $(BIN)/python -m pytest -m "" $(NEUTRAL)
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest -m ""

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(INSTALLED): setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[all,test]"
	touch $(INSTALLED)

clean:
	rm -rf $(VENV) runs build *.egg-info .pytest_cache .ruff_cache .hypothesis
