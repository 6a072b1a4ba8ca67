# Everything is installed into .venv; PYTHON=python3.12 make ... chooses another interpreter (>= 3.11).
PYTHON ?= python3
STORE ?= kdstudy-store
BIN := .venv/bin

.PHONY: demo test test-faults test-slow lint bench audit clean
.DELETE_ON_ERROR:

demo: .venv/installed
	$(BIN)/kdstudy demo --out $(STORE)

# One thread a worker: the models of the tests are too small for more.
test: .venv/installed-dev lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --ignore tests/faults

# Kills, signals, full and broken disks, damaged files, clocks that jump (docs/reliability.md).
test-faults: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal tests/faults

# Sweeps: every architecture that can be built small, every table through TeX where there is one.
test-slow: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m slow

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Each side by side with its peer (docs/benchmarks.md); an hour on two cores, alone on the machine.
bench: .venv/installed-bench
	for name in step head sweep decode epoch; do $(BIN)/python bench/run.py $$name || exit 1; done

# Known holes in what is pinned; asks the public advisories, so it needs the network, and says so
# (--strict) when it gets no answer. The pins, not what is installed: a CPU build of torch has a
# version of its own, which no advisory names.
audit: .venv/audit/bin/pip-audit
	.venv/audit/bin/pip-audit --strict --progress-spinner off --disable-pip --no-deps \
	    --requirement constraints.txt

clean:
	rm -rf .venv build *.egg-info src/*.egg-info

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kdstudy needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

.venv/installed-bench: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $@

# On its own, so that the packages it brings are not audited or mixed with ours.
.venv/audit/bin/pip-audit: .venv/installed
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
