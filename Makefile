# Thin wrappers, so that uv and conda users can do the same by hand; see README.md.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test test-extras check style types suite full faults

.venv/bin/python:
	$(PYTHON) -m venv .venv

# Modules are compiled when they are first imported: most of what comes with torch and ray never is. Containers often
# forbid Python to keep what it compiled; then each process compiles all that it imports again (torch and diffusers: 8 s
# in place of 3).
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(BIN)/pip install -q --no-compile -c constraints.txt

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) -e .
	touch $@

.venv/installed-test: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) -e '.[test]'
	touch .venv/installed $@

run: .venv/installed
	$(BIN)/saeuron run

full: .venv/installed
	$(BIN)/saeuron run canvas_full

check: style types

style: .venv/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/installed-test
	$(BIN)/mypy
	$(BIN)/lint-imports

suite: .venv/installed-test
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

# Types are checked beside the tests: one core is enough for them, and they take half a minute.
test: style
	$(MAKE) --no-print-directory -j 2 types suite

# Tests that are skipped without packages which the tests' extra leaves out: peft, nudenet, pandas. They stay in .venv, and
# Arrow and diffusers then import pandas and peft in every process. The test against torch-fidelity stays out: it needs
# the torchvision of the same build as torch, and with another transformers cannot be imported.
test-extras: .venv/installed-test
	$(INSTALL) -e '.[nudenet,notebook]' peft
	$(BIN)/pytest tests/saeuron/judges/test_nudenet.py tests/saeuron/pipelines/test_everyday.py \
		tests/storage/catalog/test_notebook.py

# Everything that can befall a run, more than a hundred kills among it; docs/log.md says how long it takes. What
# queries without end may take, given time. Killed workers of Dask and Ray, kernels for GPUs and compiled networks too.
faults: .venv/installed-test
	$(BIN)/pytest -n 2 --dist loadfile tests/faults tests/storage/catalog/test_attacks.py \
		tests/benchmarks/test_kernels.py tests/end_to_end/test_runners.py \
		tests/saeuron/pipelines/test_compiled.py -m "full or not full"
