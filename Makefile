# make demo   sets everything up and runs the recipes on embedded data: texts, then images (no download beyond pip)
# make test   sets everything up, checks style and types, and runs the tests
# make slow   tests that take long, and those on real data; CASC_DATA names its folder
# make sanitize   the compiled kernels under AddressSanitizer and UndefinedBehaviorSanitizer, with forged networks (needs gcc)
# make wheel   the wheel of this platform and the source distribution, into dist/, each tried in a clean environment
# make docs   sets up what the documentation needs and builds it into site/

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# What an installation is made from: pyproject.toml and the compiled kernels.
SOURCES := pyproject.toml setup.py constraints.txt $(wildcard casc_core/engine/kernels/src/*.[ch])
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test slow docs sanitize wheel clean

demo: $(VENV)/.demo
	$(BIN)/python recipes/agnews_rnn.py --q 2 --T 8 --data sample --out results/demo $(OPTIONS)
	$(BIN)/python recipes/cifar_cnn.py --q 8 --T 32 --data digits --out results/demo_cnn

# Processes that share the tests. One thread each: what needs more sets it itself.
WORKERS ?= 2

test: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist worksteal

slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow tests

SANITIZED := build/sanitized
# Seconds of forged networks.
FUZZ      ?= 300
SANITIZE  := -fsanitize=address,undefined -fno-omit-frame-pointer -g
# The sanitizers come before everything else that Python loads. Theirs are the copies, found before what is installed.
RUN_SANITIZED := cd $(SANITIZED) && LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 PYTHONPATH=. $(abspath $(BIN))/python

sanitize: $(VENV)/.dev
	rm -rf $(SANITIZED) && mkdir -p $(SANITIZED)
	cp -r casc_core casc_lab casc_seq recipes tests tools setup.py pyproject.toml README.md LICENSE $(SANITIZED)
	rm -f $(SANITIZED)/casc_core/engine/kernels/*.so
	cd $(SANITIZED) && CFLAGS="$(SANITIZE)" LDFLAGS="$(SANITIZE)" $(abspath $(BIN))/python setup.py -q build_ext --inplace -f
	$(RUN_SANITIZED) -m pytest -q tests/casc_core/engine/kernels --deselect tests/casc_core/engine/kernels/test_triton.py
	$(RUN_SANITIZED) tests/casc_core/conversion/test_load_fuzz.py --seconds $(FUZZ) --gigabytes 0

# Neither needs a compiler to be installed; without one, the source distribution goes on and says so.
TRIED := build/tried
WITHOUT_COMPILER := CC=/bin/false $(TRIED)/bin/python -m pip install --disable-pip-version-check -c constraints.txt

wheel: $(VENV)/.dev
	rm -rf dist $(TRIED)
	$(BIN)/python -m build --no-isolation
	! ls dist/casc-*-py3-none-any.whl 2>/dev/null
	$(BIN)/python -m venv $(TRIED)
	$(WITHOUT_COMPILER) --quiet dist/casc-*-py3-none-*.whl
	$(TRIED)/bin/python -I tools/smoke_test.py
	$(TRIED)/bin/python -m pip uninstall --quiet --yes casc
	$(WITHOUT_COMPILER) --verbose dist/casc-*.tar.gz 2>&1 | grep "casc: the kernels could not be compiled"
	$(TRIED)/bin/python -I tools/smoke_test.py --without

# A warning is an error; the two packages are imported for the names that they make public.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python $(SOURCES)
	$(INSTALL) -e ".[digits]"
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python $(SOURCES)
	$(INSTALL) -e ".[dev,digits,torchtext]"
	@touch $@ $(VENV)/.demo

$(VENV)/.docs: $(VENV)/bin/python $(SOURCES)
	$(INSTALL) -e ".[docs]"
	@touch $@

clean:
	rm -rf $(VENV) results build dist site casc_core/engine/kernels/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
