# make demo   sets everything up and runs the recipes on embedded data: texts, then images (no download beyond pip)
# make test   sets everything up, checks style and types, and runs the tests
# make slow   the tests on real data; CASC_DATA names its folder
# make docs   sets up what the documentation needs and builds it into site/

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# What an installation is made from: pyproject.toml and the compiled kernels.
SOURCES := pyproject.toml setup.py $(wildcard casc_core/kernels/_kernels*.[ch])

.PHONY: demo test slow docs clean

demo: $(VENV)/.demo
	$(BIN)/python recipes/agnews_rnn.py --q 2 --T 8 --data sample --out results/demo $(OPTIONS)
	$(BIN)/python recipes/cifar_cnn.py --q 8 --T 32 --data digits --out results/demo_cnn

test: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow"

slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow tests

# A warning is an error; the two packages are imported for the names that they make public.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[digits]"
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev,digits,torchtext]"
	@touch $@ $(VENV)/.demo

$(VENV)/.docs: $(VENV)/bin/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	@touch $@

clean:
	rm -rf $(VENV) results build site casc_core/kernels/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
