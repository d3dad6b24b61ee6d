# `make demo` runs the main job, `make test` the tests; each sets the environment up when that is still to do.

PYTHON ?= python3
OLDEST_PYTHON ?= python3.10
VENV := .venv
BIN := $(VENV)/bin
# What the package itself needs, then what its extras and the tests need.
PACKAGE := $(VENV)/.package
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# uv takes a fifth of the CPU time of pip. If it fails, for example because only pip knows the package index, pip installs.
EVERYTHING := ".[all,precisions,test]"
install = $(BIN)/uv pip install --quiet --python $(BIN)/python $(2) -e $(1) || $(PIP) -e $(1)
# Two processes; whoever has nothing left to do takes over tests of the other.
PYTEST := -m pytest -n 2 --dist worksteal
CHECK_TYPES := $(BIN)/basedpyright --pythonpath $(BIN)/python
# Otherwise, each process that a test starts would compile the package again.
unexport PYTHONDONTWRITEBYTECODE
# What runs on any Keras backend: `make test` compares with JAX, `make test-jax` runs these tests on it.
NEUTRAL := $(foreach room,ops layers models analysis,tests/$(room) keras_sharenets/$(room))

# The notebooks are run in copies, so that no file of theirs lies in docs/.
NOTEBOOKS := build/notebooks
# What TensorFlow's C++ writes while it starts is not an output, and times would make a difference of every run.
EXECUTE := --to notebook --inplace --execute --ExecutePreprocessor.record_timing=False \
	--ExecutePreprocessor.extra_arguments=--IPKernelApp.capture_fd_output=False

.PHONY: demo docs notebooks test test-jax test-all test-faults test-lowest test-clients lint style clean

demo: $(PACKAGE)
	rm -rf runs/demo
	$(BIN)/python -m trainers demo --output runs/demo

# The type checker runs beside the tests: alone, it keeps little more than one core busy. What it finds is printed last.
test: style
	mkdir -p build
	$(CHECK_TYPES) >build/types.txt 2>&1 & types=$$!; \
	KERAS_BACKEND=tensorflow $(BIN)/python $(PYTEST); tests=$$?; \
	wait $$types || { cat build/types.txt; exit 1; }; exit $$tests

test-jax: $(INSTALLED)
	KERAS_BACKEND=jax $(BIN)/python $(PYTEST) $(NEUTRAL)

test-all: lint
	KERAS_BACKEND=jax $(BIN)/python $(PYTEST) -m "" $(NEUTRAL)
	KERAS_BACKEND=tensorflow $(BIN)/python $(PYTEST) -m ""

# Puts wrong lines into a copy, one at a time: does a test notice?
test-faults: $(INSTALLED)
	$(BIN)/python -m tools.seeded_faults

# The oldest versions that setup.cfg allows, on the oldest Python.
test-lowest: $(INSTALLED)
	$(BIN)/uv venv --quiet --clear --python $(OLDEST_PYTHON) $(VENV)-lowest
	$(BIN)/uv pip install --quiet --python $(VENV)-lowest/bin/python --resolution lowest-direct -e ".[all,test]"
	KERAS_BACKEND=jax $(VENV)-lowest/bin/python $(PYTEST) $(NEUTRAL)
	KERAS_BACKEND=tensorflow $(VENV)-lowest/bin/python $(PYTEST)

# The programs that open our files, in an environment of their own; what they say of them goes into docs/clients.md.
# Chromium is Debian's. Ray Serve serves a SavedModel; compiled beforehand, because it waits for its own processes to start
# for 15 seconds only.
CLIENTS := mediapipe tflite-micro openvino ai-edge-quantizer ethos-u-vela playwright 'ray[serve]' tensorflow-serving-api pytest \
	hypothesis
test-clients: $(INSTALLED)
	$(BIN)/uv venv --quiet --clear $(VENV)-clients
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(VENV)-clients/bin/python -e ".[onnx]" $(CLIENTS)
	KERAS_BACKEND=tensorflow $(BIN)/python -m tools.clients.files runs/clients
	$(VENV)-clients/bin/python -m tools.clients.compare runs/clients docs/clients.md
	KERAS_BACKEND=tensorflow $(VENV)-clients/bin/python -m pytest -m clients tests/clients

# The pages of docs/ and a reference of all public names as a site that needs no network, in build/docs. A link that leads
# nowhere is an error.
docs: $(PACKAGE)
	$(call install,".[docs]")
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

# Runs docs/notebooks and keeps the outputs there.
notebooks: $(INSTALLED)
	rm -rf $(NOTEBOOKS) && mkdir -p $(NOTEBOOKS) && cp docs/notebooks/*.ipynb $(NOTEBOOKS)
	PATH="$(CURDIR)/$(BIN):$$PATH" KERAS_BACKEND=tensorflow $(BIN)/jupyter nbconvert $(EXECUTE) $(NOTEBOOKS)/*.ipynb
	$(BIN)/jupyter nbconvert --to notebook --inplace --coalesce-streams $(NOTEBOOKS)/*.ipynb
	cp $(NOTEBOOKS)/*.ipynb docs/notebooks

lint: style
	$(CHECK_TYPES)

style: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

$(PACKAGE): setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	-$(PIP) uv
	$(call install,.)
	touch $(PACKAGE)

# Compiled once here, as by pip, rather than by both test processes while they import it.
$(INSTALLED): $(PACKAGE)
	$(call install,$(EVERYTHING),--compile-bytecode)
	touch $(INSTALLED)

clean:
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-clients runs build *.egg-info .pytest_cache .ruff_cache .hypothesis
