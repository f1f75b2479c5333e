# Every target is one command a reader could type; `make help` lists them.
# Targets set up .venv themselves and do nothing when it is up to date.

PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))
BIN := .venv/bin
JOBS ?= 2
CXX ?= g++

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup setup-train demo test test-fast test-train mutants formal docs lint clean distclean lock check-python check-tools

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: .venv/.stamp  ## make .venv with the systola command in it

setup-train: .venv/.stamp-train  ## PyTorch into .venv, for `systola finetune`

demo: .venv/.stamp check-tools  ## real digits through quantizer, RTL and synthesis, into build/demo
	$(BIN)/systola demo -o build/demo

test: .venv/.stamp check-tools  ## all tests
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal

test-fast: .venv/.stamp  ## at every change: two cases of every quick test, in three to four minutes
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m 'not slow' --few 2

test-train: .venv/.stamp-train  ## tests of training, with PyTorch
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m torch

mutants: .venv/.stamp check-tools  ## plant single faults in hw/ and count those that the tests find
	$(BIN)/python tests/mutation/mutants.py --seed 5 --count 110 --jobs $(JOBS)

formal: .venv/.stamp  ## prove the stream rules, FIFOs, tokens, divider, root and packed products
	$(BIN)/python -m systola.sim.formal

docs: .venv/.stamp  ## renew the pages, tables and pictures of docs/ that are made from data
	$(BIN)/python tests/house/docs.py

lint: .venv/.stamp  ## style and import rules
	$(BIN)/ruff check .

clean:  ## remove generated files
	rm -rf build

distclean: clean  ## remove the environment, too
	rm -rf .venv systola.egg-info

lock:  ## renew requirements.lock from pyproject.toml
	@$(MAKE) --no-print-directory check-python
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install -q --disable-pip-version-check '.[dev]' setuptools
	{ sed -n '/^#/p' requirements.lock; build/lock/bin/python -m pip freeze --all \
		--exclude pip --exclude systola | tr A-Z a-z; } > build/lock/new
	mv build/lock/new requirements.lock

check-python:
	@test -n "$(PYTHON)" || { echo "systola needs Python 3.11 or newer: none of python3," \
		"python3.13, python3.12, python3.11 is (apt install python3, or PYTHON=/path/to/it)" >&2; \
		exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "systola needs" \
		"Python 3.11 or newer, not $$($(PYTHON) --version 2>&1)" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual" \
		"environments (apt install python3-venv)" >&2; exit 2; }

check-tools: .venv/.stamp
	@$(BIN)/python -m systola.sim.verilog.toolcheck

.venv/.stamp: pyproject.toml requirements.lock
	@$(MAKE) --no-print-directory check-python
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

.venv/.stamp-train: .venv/.stamp
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -e '.[train]'
	touch $@
