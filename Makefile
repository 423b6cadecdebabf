# Everything from nothing: Debian packages, a virtual environment, then the work.
# `make demo` shows the main job on real images; `make test` runs the tests.

VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo demo-lvm test test-lvm lint bench fuzz soak clean setup

setup: $(VENV)/.installed

$(VENV)/.installed: setup.cfg pyproject.toml
	@./.ci/packages
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup
	@$(BIN)/python tests/demo/run.py

# Thin volumes, on this machine's device-mapper or in a guest that has one.
demo-lvm: setup
	@$(BIN)/python -m tests.demo.lvm

test: setup
	$(BIN)/pytest -n auto --dist worksteal
	$(BIN)/python -m tests.support.uml.run_suite -q

# What needs a device-mapper: on this machine's own, or in a guest that has one.
test-lvm: setup
	$(BIN)/python -m tests.support.uml.run_suite

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m tests.bench

# Mutated images for an hour, or as long as FUZZ_SECONDS says; FUZZ_FIRST is the first seed.
FUZZ_SECONDS := 3600
FUZZ_FIRST := 0

fuzz: setup
	$(BIN)/python -m tests.hostile.fuzz --seconds $(FUZZ_SECONDS) --first $(FUZZ_FIRST)

# Random kills and races: so many rounds each; SM_SEED repeats a run.
SM_ROUNDS := 100
# How long, and with how many processes, one SR is raced for.
SM_SECONDS := 180
SM_PROCESSES := 8

soak: setup
	SM_SECONDS=$(SM_SECONDS) SM_PROCESSES=$(SM_PROCESSES) $(BIN)/pytest -s tests/stress tests/lvm/outside/soak_shared_group.py
	SM_ROUNDS=$(SM_ROUNDS) SM_EXAMPLES=$(SM_ROUNDS) $(BIN)/pytest -n auto -rP tests/soak \
		tests/machine tests/hosts/test_races.py tests/gc/merges/test_collector_faults.py tests/outside
	SM_ROUNDS=$(SM_ROUNDS) $(BIN)/python -m tests.support.uml.run_suite -s tests/lvm

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
