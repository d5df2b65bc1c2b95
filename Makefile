# `make train` and `make test` do everything on a machine that has only Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO := 0

.PHONY: train test lint install benchmarks reliability clean

train: $(STAMP)  ## train MAT on mpe/simple_spread, evaluate it, and draw what it learned
	$(BIN)/rllib quickstart

test: $(STAMP)  ## run the test suite
	$(BIN)/python -m pytest

lint: $(STAMP)  ## style, types and import rules
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

benchmarks: $(STAMP)  ## the scan, decoding, the update, and throughput against references
	$(BIN)/python benchmarks/scan.py && $(BIN)/python benchmarks/decode.py
	$(BIN)/python benchmarks/update.py && $(BIN)/python benchmarks/throughput.py

reliability: $(STAMP)  ## kill, damage and misspell things, and write what became of it to docs/reliability.md
	$(BIN)/python benchmarks/reliability.py --out docs/reliability.md

install: $(STAMP)  ## create the environment

# torch first and pinned: the pin takes the CPU build where one is on offer; anything newer would draw CUDA.
$(STAMP): setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) results build *.egg-info
