# Every target does its own set-up (scripts/setup.sh) and is quick the second time.
# ARGS is handed on: make test ARGS="tests/unit -k merkle"

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench fuzz interop mutants soak lock clean
PYTHON ?= python3
export PYTHON

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## virtual environment with everything a developer needs
	@scripts/setup.sh dev

demo:  ## the whole story on an embedded PostgreSQL: no root, nothing to configure
	@scripts/setup.sh run
	.venv/bin/pgseal demo $(ARGS)

test:  ## all tests, on real servers (as root it installs Debian's PostgreSQL and pgaudit)
	@scripts/setup.sh dev postgres token contrib
	.venv/bin/python -m pytest -n auto --dist worksteal $(ARGS)

check:  ## lint, format, types, import contract
	@scripts/setup.sh dev
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	PYRIGHT_PYTHON_GLOBAL_NODE=off PYRIGHT_PYTHON_IGNORE_WARNINGS=1 .venv/bin/pyright
	.venv/bin/lint-imports

format:  ## let ruff mend what it can
	@scripts/setup.sh dev
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

bench:  ## measure; writes build/bench.json
	@scripts/setup.sh dev postgres
	.venv/bin/python -m benchmarks $(ARGS)

fuzz:  ## every parser under atheris (FUZZ_SECONDS=60 each), then property tests with FUZZ_EXAMPLES=20000
	@scripts/setup.sh dev fuzz
	nice .venv/bin/python -m tests.fuzz
	nice .venv/bin/python -m pytest -m hypothesis --hypothesis-profile=fuzz $(ARGS)

interop:  ## implementations of others (Go, Python) read what we sign, and we what they sign
	@scripts/setup.sh dev interop
	.venv/bin/python -m pytest tests/interop $(ARGS)

mutants:  ## take every check against an attack away, one at a time: its tests must fail
	@scripts/setup.sh dev postgres
	.venv/bin/python -m tests.mutants $(ARGS)

soak:  ## the tests that run for as long as they are told (SOAK_SECONDS=600)
	@scripts/setup.sh dev postgres
	.venv/bin/python -m pytest -m soak $(ARGS)

lock:  ## resolve the dependencies anew into requirements/
	@scripts/setup.sh run
	scripts/lock.sh $(ARGS)

clean:  ## remove everything that make made
	rm -rf .venv build dist .hypothesis .import_linter_cache .pytest_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
