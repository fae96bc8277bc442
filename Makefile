# Everything a fresh machine needs: `make distill` runs the main job, `make test` the tests.
# The one thing asked for is Python 3.11 or 3.12; uv is fetched into .uv/, all else into .venv/.

PYTHON ?= python3
UV := .uv/bin/uv
RUN := .venv/bin
export DO_NOT_TRACK := true
export UV_PYTHON_DOWNLOADS := never

.PHONY: install distill test test-long lint lock clean

install: .venv/installed

.venv/installed: requirements.lock pyproject.toml $(UV)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
	VIRTUAL_ENV=$(CURDIR)/.venv $(UV) pip sync --require-hashes --compile-bytecode requirements.lock
	VIRTUAL_ENV=$(CURDIR)/.venv $(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

$(UV):
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet "uv>=0.13,<0.14"

distill: install
	$(RUN)/kedro run --pipeline=distill

test: install
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-long: install
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -m long -n auto --maxprocesses 4

lint: install
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

lock: $(UV)
	$(UV) pip compile --quiet --universal --generate-hashes --python-version 3.11 --extra dev \
		--no-emit-index-url --no-header --constraints constraints.txt pyproject.toml -o requirements.lock

clean:
	rm -rf .venv .uv
