# Every target does its own set-up, inside this folder: .venv/ (Python), node_modules/ (anvil), .trace/ (state).
# A second call does nothing that is already done. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

# Import time is most of a run worker's start: bytecode is compiled once, at set-up.
unexport PYTHONDONTWRITEBYTECODE PYTHONPATH PYTHONHOME VIRTUAL_ENV
export PYTHONUNBUFFERED := 1

PORT ?= 3000
UI ?= yes
WORKERS ?= 2
PYTEST_ARGS ?=
BIN := .venv/bin

# The demo and the tests bring their own settings; the caller's must not leak in.
CALLERS := $(filter TRACE_% AWS_% DAGSTER_%,$(.VARIABLES))
CLEAN := env $(foreach name,$(CALLERS),-u $(name))

# A .venv that was moved, or whose Python is gone, is made anew.
ifneq ($(wildcard .venv/.requirements),)
ifneq ($(shell cat .venv/.requirements; .venv/bin/python -c 'print("runs")' 2>&1),$(CURDIR) runs)
$(info ==> .venv belongs to another place or Python: making it anew)
$(shell rm -rf .venv)
endif
endif

.PHONY: help demo test dev lint fmt type lock clean setup node chromium

help:  ## Show this list
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

demo: setup node  ## Real chain, real Cryo, Dagster, Parquet, checked against the node; about a minute
	@$(CLEAN) $(BIN)/trace demo $(DEMO_ARGS)

test: setup node $(if $(filter yes,$(UI)),chromium)  ## All tests; UI=no leaves out the browser, WORKERS=1 is one after another
	@echo "==> Tests"
	@$(CLEAN) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(if $(filter yes,$(UI)),,-m "not ui") $(PYTEST_ARGS)

dev: setup  ## Dagster UI, daemon and code location on http://127.0.0.1:$PORT, state in .trace/
	@.ci/dev "$(PORT)"

lint: setup  ## ruff, import layers, dependencies
	@echo "==> ruff check" && $(BIN)/ruff check
	@echo "==> ruff format --check" && $(BIN)/ruff format --check
	@echo "==> import layers" && $(BIN)/lint-imports
	@echo "==> dependencies" && $(BIN)/deptry .

type: setup  ## mypy --strict
	@echo "==> mypy --strict" && $(BIN)/mypy

fmt: setup  ## Format and mend what ruff can
	@$(BIN)/ruff check --fix-only --quiet && $(BIN)/ruff format

lock:  ## Write requirements.txt and package-lock.json anew
	@.ci/lock

clean:  ## Remove everything that make and the runs made in this folder
	@.ci/clean

setup: .venv/.project
	@:

.venv/bin/python:
	@.ci/setup venv

.venv/.requirements: requirements.txt | .venv/bin/python
	@.ci/setup requirements

.venv/.project: pyproject.toml trace_dagster/chain/decoding/_kernel.c .venv/.requirements
	@.ci/setup project

node:
	@.ci/setup node

chromium:
	@.ci/setup chromium
