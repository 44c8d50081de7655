# Every target does its own set-up; on a fresh Debian 12 nothing but python3 and make is needed.
BIN := .venv/bin
SOURCES := proto agent coordinator cli tools tests

.DEFAULT_GOAL := help
.PHONY: help setup demo test check proto docs lab lab-table lab-capture lab-shell lab-sabotage bench nightly pyz clean

help:
	@echo 'make demo    a coordinator, this host and replayed hosts: check, place, drift, cordon'
	@echo 'make test    everything CI runs: check, then all tests'
	@echo 'make check   lint, types, import rules, committed stubs, file sizes, docs/checks.md'
	@echo 'make proto   regenerate the committed stubs from proto/vfioctl/v1/*.proto'
	@echo 'make lab     all scenarios of the lab: real kernels, emulated IOMMUs (docs/lab.md)'
	@echo 'make lab-table    put the table of the last make lab into docs/lab.md'
	@echo 'make lab-capture  capture the hosts of tests/data/hosts again; NAMES="NAME..." some'
	@echo 'make lab-shell TOPOLOGY=NAME   a root shell in a lab machine; without NAME: the names'
	@echo 'make lab-sabotage  break the agent on purpose: the lab must notice; NAME="..." one'
	@echo 'make docs    regenerate docs/checks.md from the checks themselves'
	@echo 'make bench   the budgets, one line each: name value unit'
	@echo 'make nightly every parser against broken evidence, NIGHTLY_SECONDS each (default 30)'
	@echo 'make pyz     dist/vfioctl.pyz: check and all that needs no coordinator, in one file'
	@echo 'make setup   only make .venv (every other target does it when needed)'
	@echo 'make clean   remove .venv, caches and build results'

setup:
	@tools/setup.sh

demo: setup
	$(BIN)/python tools/demo.py

test: check
	@tools/setup.sh --tests
	@$(BIN)/python -m tests.lab.harness.prepare --optional 6.1
	$(BIN)/pytest

check: setup
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/gen_proto.py --check
	cd proto && ../$(BIN)/buf lint
	$(BIN)/python tools/check_file_sizes.py
	$(BIN)/python tools/gen_checks_doc.py --check

proto: setup
	$(BIN)/python tools/gen_proto.py

lab: setup
	@$(BIN)/python -m tests.lab.harness.lanes $(SCENARIOS)

lab-table:
	@$(BIN)/python -m tests.lab.harness.lanes --write-table

lab-capture: setup
	@$(BIN)/python -m tests.lab.harness.capture $(NAMES)

lab-shell: setup
	@$(BIN)/python -m tests.lab.harness.shell $(TOPOLOGY)

lab-sabotage: setup
	@$(BIN)/python -m tests.lab.sabotage $(if $(NAME),"$(NAME)")

docs: setup
	$(BIN)/python tools/gen_checks_doc.py

bench: setup
	$(BIN)/pytest -m bench --capture=no --quiet tests/bench

# 27 parsers, half a minute each
nightly: setup
	VFIOCTL_FUZZ_SECONDS=$${NIGHTLY_SECONDS:-30} $(BIN)/pytest --capture=no --quiet tests/fuzz

pyz: setup
	$(BIN)/python tools/build_pyz.py

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
