# make demo   train the main example on real data
# make test   lint, then the test suite, in two processes; in one: make test WORKERS=0
# make test-long   the few tests that take minutes, of each of which the suite has a short form
# make newcomer   follow README, Getting started and tutorial word by word in a fresh environment (20 minutes)
# make lint   ruff and mypy
# make sanitize   the kernels in C++ under the address and undefined-behaviour sanitizers, on 5000 random shapes
# make bench  time jboat beside its peers, and its parts, on this machine
# make bench-quick  the same in a few minutes
# make gpu-check    what runs on this machine's GPU, in 9 minutes; a part of it: make gpu-check STEPS="tour l2" LIMIT=300
# make cuda-compile  compile and load every CUDA kernel of every method, without a GPU (an hour and more)
# make test-pythons  lint and the main tests under every Python from 3.10 to 3.12 that is found
# make coverage  the tests once more, and which lines they run
# make dist   the wheel and the source distribution, each tried in an environment of its own, in dist/
# make docs   the site, guide and reference together, in build/docs (make docs EXTRAS=docs installs no more than it needs)

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= examples,test
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: demo test test-long newcomer sanitize test-pythons lint bench bench-quick gpu-check cuda-compile docs clean coverage dist
.DELETE_ON_ERROR:

demo: $(VENV)/.ready-examples
	$(BIN)/python examples/data_hyper_cleaning.py

test: lint
	@test -d .jittor-lab || echo "A first run compiles Jittor's core and every kernel: about 20 minutes on two cores."
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-long: $(VENV)/.ready
	$(BIN)/python -m pytest -m long

newcomer: $(VENV)/.ready
	$(BIN)/python tests/newcomer.py

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p jboat

sanitize: $(VENV)/.ready
	$(BIN)/python tests/sanitize.py --shapes 5000

coverage: $(VENV)/.ready
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage report --skip-covered --sort=cover

dist: $(VENV)/.ready
	rm -rf dist build/dist && $(BIN)/python -m build --outdir dist .
	for file in dist/*.whl dist/*.tar.gz; do \
		rm -rf build/dist && $(PYTHON) -m venv build/dist && build/dist/bin/pip install --quiet $$file || exit 1; \
		(cd build && dist/bin/jboat --version && dist/bin/jboat ops > /dev/null) || exit 1; \
	done

test-pythons:
	$(PYTHON) tests/every_python.py

bench: $(VENV)/.ready
	$(BIN)/python benchmarks/step_costs.py
	$(BIN)/python benchmarks/cpu_ops.py
	$(BIN)/python benchmarks/logging_overhead.py
	$(BIN)/python benchmarks/replay_memory.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/cold_start.py
	$(BIN)/python benchmarks/peers.py
	$(BIN)/python benchmarks/peers.py --problems l2 --lower-iters 50 --name k50_
	$(BIN)/python benchmarks/peers.py --problems l2 --chains CG NS --iterations 5 --slow --name solver5_

bench-quick: $(VENV)/.ready
	$(BIN)/python benchmarks/peers.py --problems l2 --chains RAD CG --only jboat jittor torch --name quick_
	$(BIN)/python benchmarks/logging_overhead.py --steps 100

gpu-check: $(VENV)/.ready
	$(BIN)/python benchmarks/gpu_check.py $(if $(STEPS),--steps $(STEPS)) $(if $(LIMIT),--limit $(LIMIT))

cuda-compile:
	$(MAKE) VENV=.venv-cuda EXTRAS=cuda13,test .venv-cuda/.ready
	.venv-cuda/bin/python tests/cuda_compile.py

docs: $(VENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

$(VENV)/.ready-examples: EXTRAS = examples
$(VENV)/.ready $(VENV)/.ready-examples: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; (3, 10) <= v[:2] < (3, 13) or sys.exit("jboat needs Python 3.10, \
	3.11 or 3.12, and $(PYTHON) is %d.%d: name another one, as in make PYTHON=python3.11" % v[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	touch $@

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
