# Everything a fresh machine needs: `make distill` runs the main job, `make test` the tests.
# The one thing asked for is some Python 3 with venv: it fetches uv into .uv/, and uv all else into
# .venv/, on the first Python found that the locked versions are made for. Where none fits, uv fetches
# one; `make PYTHON=3.13` or `make PYTHON=/path/to/python` asks for a certain one.

PYTHON ?= >=3.11,<3.15
BOOTSTRAP ?= python3
UV ?= .uv/bin/uv
RUN := .venv/bin
export DO_NOT_TRACK := true
# Where Python may keep no bytecode, every process of the tests compiles the project again.
unexport PYTHONDONTWRITEBYTECODE

# The tests of what the project computes; the others are of files, commands and messages.
NUMERIC := $(addprefix tests/,parity mst compare training evaluate diagnose nets bench media)

.PHONY: help install distill fast test test-portable test-long lint lock clean

help: ## this list
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

distill: install ## runs the main job, kedro run --pipeline=distill
	$(RUN)/kedro run --pipeline=distill

fast: install ## the tests that need no whole run: under five minutes on two cores
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile \
		$(addprefix --ignore tests/,pipelines bench artifacts/test_checkpoint.py artifacts/test_lock.py)

test: install ## all tests but the long ones: ten minutes on two cores
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Once more as on a processor without AVX, and with two threads: what only one kind of processor or
# one number of threads computes so fails here or in `make test`. Idle threads sleep: those of several
# tests share the cores, and would wait for one another in loops, eight times as long.
test-portable: install ## the numeric tests as on a processor without AVX
	ATEN_CPU_CAPABILITY=default DNNL_MAX_CPU_ISA=SSE41 OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive \
		$(RUN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(NUMERIC)

test-long: install ## whole runs of benchmarks, runs that are killed
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -m long -n auto --maxprocesses 4

lint: install ## ruff and mypy
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

lock: $(UV) ## resolves the versions anew
	$(UV) pip compile --quiet --universal --generate-hashes --python-version 3.11 --extra dev \
		--no-emit-index-url --no-header --constraints constraints.txt pyproject.toml -o requirements.lock

clean: ## removes .venv and .uv
	rm -rf .venv .uv
