# `make demo` and `make test` do all their own set-up; `make help` lists the rest.
PYTHON ?=
VENV ?= .venv
BIN = $(VENV)/bin
# Tests write inside the checkout only.
SCRATCH = $(CURDIR)/.cache/tmp

.DEFAULT_GOAL := help
.PHONY: help setup lock up demo check check-style check-types check-house check-tests test test-engines soak bench

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

setup: ## make the virtual environment from the lock file
	@sh scripts/setup.sh "$(VENV)" "$(PYTHON)"

lock: setup ## write requirements.lock again from pyproject.toml
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --all-extras --generate-hashes --no-header --no-annotate -o requirements.lock pyproject.toml

up: setup ## start everything on this machine and stay up
	@exec $(BIN)/aiwm up

demo: setup ## the main job end to end, on a stack of its own
	@sh scripts/libpython.sh $(VENV) fetch
	@exec $(BIN)/aiwm demo

check: setup ## format, lint, types, import contracts, sizes, unit tests and contract suites on embedded parts
	@$(MAKE) -s -k -j 2 -O check-tests check-types check-style check-house

check-style:
	$(BIN)/ruff format --check
	$(BIN)/ruff check

check-types:
	$(BIN)/mypy

check-house:
	$(BIN)/lint-imports --no-logo
	$(BIN)/python scripts/house.py

check-tests: $(SCRATCH)
	TMPDIR=$(SCRATCH) AIWM_TEST_EMBEDDED_ONLY=1 $(BIN)/python -m pytest tests/unit tests/contract

test: setup $(SCRATCH) ## every test
	TMPDIR=$(SCRATCH) $(BIN)/python -m pytest tests

test-engines: setup $(SCRATCH) ## the real engines, from nothing: Triton and vLLM, in Docker and as processes
	@sh scripts/engines/vllm.sh .cache/vllm $(BIN)/python
	TMPDIR=$(SCRATCH) $(BIN)/python -m pytest tests/engines

soak: setup $(SCRATCH) ## what takes hours or millions of items
	TMPDIR=$(SCRATCH) $(BIN)/python -m pytest tests -m soak -s

$(SCRATCH):
	@mkdir -p $@

bench: setup ## measurements, as tables
	@for each in bench/*.py; do echo "## $$each"; PYTHONPATH=. $(BIN)/python "$$each" || exit 1; done
