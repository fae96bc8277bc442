# Installs and runs everything on a fresh machine: `make distill` runs the main pipeline, and
# `make test` the tests. The only requirement is a Python 3 with venv, which installs uv into .uv/.
# Then uv installs all packages into .venv/, with the first Python found that the locked versions
# support. If there is none, uv downloads one. `make PYTHON=3.13` or
# `make PYTHON=/path/to/python` selects one.

PYTHON ?= >=3.11,<3.15
BOOTSTRAP ?= python3
UV ?= .uv/bin/uv
RUN := .venv/bin
export DO_NOT_TRACK := true
# If Python may not write bytecode, every test process compiles the whole project again.
unexport PYTHONDONTWRITEBYTECODE

# The tests of computed values; the other tests are about files, commands and messages.
NUMERIC := $(addprefix tests/,parity mst compare training evaluate diagnose nets bench media)

.PHONY: help install engines distill few-labels fast test test-portable test-long coverage lint docs lock clean

help: ## prints this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

install: .venv/installed ## installs the locked versions into .venv

.venv/installed: requirements.lock pyproject.toml $(UV)
	$(UV) venv --quiet --allow-existing --python "$(PYTHON)" .venv
	VIRTUAL_ENV=$(CURDIR)/.venv $(UV) pip sync --require-hashes --compile-bytecode requirements.lock
	VIRTUAL_ENV=$(CURDIR)/.venv $(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

.uv/bin/uv:
	@$(BOOTSTRAP) -c "import ensurepip, venv" || { echo "make needs a Python 3.8 or later with venv \
	to fetch uv (on Debian and Ubuntu: apt install python3-venv), or uv itself: make UV=/path/to/uv"; exit 1; }
	$(BOOTSTRAP) -m venv .uv
	.uv/bin/python -m pip install --quiet "uv>=0.13,<0.14"

engines: .venv/engines ## installs Ray and submitit, to compare on clusters

.venv/engines: requirements-engines.lock .venv/installed
	VIRTUAL_ENV=$(CURDIR)/.venv $(UV) pip install --require-hashes --compile-bytecode -r $<
	touch $@

distill: install ## runs the main pipeline, kedro run --pipeline=distill
	$(RUN)/kedro run --pipeline=distill

few-labels: install ## the same for the audio student, with 5 % of the labels
	$(RUN)/kedro run --pipeline=distill --params=target=audio,labelled=0.05

fast: install ## runs the tests without whole pipelines: under five minutes on two cores
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile \
		$(addprefix --ignore tests/,pipelines bench artifacts/test_checkpoint.py artifacts/test_lock.py)

test: install ## runs all tests except the long ones: ten minutes on two cores
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Simulates a processor without AVX, with two threads. A test that depends on the processor or on
# the number of threads fails either here or in `make test`. OMP_WAIT_POLICY=passive lets idle
# threads sleep: several tests share the cores, and threads that wait actively take eight times as
# long.
test-portable: install ## runs the numeric tests as on a processor without AVX
	ATEN_CPU_CAPABILITY=default DNNL_MAX_CPU_ISA=SSE41 OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive \
		$(RUN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(NUMERIC)

test-long: install ## runs the long tests: whole runs of benchmarks, and runs that are killed
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -m long -n auto --maxprocesses 4 --dist worksteal

coverage: install ## lists the lines and branches that `make test` does not run
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
		--cov --cov-report=term:skip-covered

docs: install ## builds the documentation site in build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(RUN)/mkdocs build --strict --quiet

lint: install ## runs ruff and mypy
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

lock: $(UV) ## resolves the versions again and updates both lock files
	$(UV) pip compile --quiet --universal --generate-hashes --python-version 3.11 --extra dev \
		--no-emit-index-url --no-header --constraints constraints.txt pyproject.toml -o requirements.lock
	sed -nE 's/^(ray|slurm) = \["(.*)"\]$$/\2/p' pyproject.toml | $(UV) pip compile --quiet --universal \
		--generate-hashes --python-version 3.11 --no-emit-index-url --no-header \
		--constraints requirements.lock - -o requirements-engines.lock

clean: ## removes .venv and .uv
	rm -rf .venv .uv
