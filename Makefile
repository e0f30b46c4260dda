# make help: what there is to make. PYTHON=python3.12 picks another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Scripts that import jax before metarun: else XLA tells of every program that it reads (metarun/__init__.py).
export TF_CPP_MIN_LOG_LEVEL ?= 3

.DEFAULT_GOAL := help
.PHONY: help install demo test lint types tests slow format ready figures compare bench profile start reproduce queue costs soak sweeps scale mutants wheel clean

help: ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("metarun needs Python 3.11 or newer: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

install: $(VENV)/installed ## .venv with metarun in it

demo: $(VENV)/installed ## train MAML on hand-drawn-like characters, about 3 minutes on 2 cores
	$(BIN)/metarun experiment=demo

test: lint types tests ## all that CI checks

lint: $(VENV)/installed-dev ## ruff, the linter and the formatter; import-linter, the arrows between the wings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/installed-dev ## mypy
	$(BIN)/mypy

# One more than CI has cores: while a test waits for a process of its own, another has its turn.
tests: $(VENV)/installed-dev ## pytest
	$(BIN)/python -m pytest --numprocesses 3 --dist worksteal

slow: $(VENV)/installed-dev ## the longer tests: every learner learns, and goes on after a break
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m slow

format: $(VENV)/installed-dev ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ready: $(VENV)/installed-dev ## train the learners that come with metarun, metarun/ready/: about half an hour
	$(BIN)/python scripts/make_ready.py

figures: $(VENV)/installed-dev ## the pictures of README and docs, drawn anew
	$(BIN)/python scripts/draw_episodes.py
	$(BIN)/python scripts/draw_report.py
	$(BIN)/python scripts/draw_serve.py
	$(BIN)/python scripts/draw_wings.py

compare: $(VENV)/installed-dev ## every learner on Omniglot, a few minutes each: docs/results.md, over an hour
	$(BIN)/python scripts/compare_learners.py

bench: $(VENV)/installed-dev ## beside PyTorch: docs/benchmarks.md, about 25 minutes on an idle machine, and on no other
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python scripts/bench_torch.py

profile: $(VENV)/installed-dev ## where a meta-step's time goes: docs/speed.md, a minute on an idle machine (Linux)
	taskset -c 0 $(BIN)/python scripts/profile_meta_step.py

start: $(VENV)/installed-dev ## what a start costs by stage, cold and warm: docs/start.md, about 5 minutes on an idle machine
	$(BIN)/python scripts/measure_start.py

BUDGET ?= 1
reproduce: $(VENV)/installed-dev ## every paper's row: docs/results.md and README's table, days on a CPU; make reproduce BUDGET=0.05 for a part
	$(BIN)/python scripts/reproduce.py --budget $(BUDGET)

queue: $(VENV)/installed-dev ## the rows of scripts/plan.yaml in full, one by one at the lowest priority (setsid make queue: below all sessions); stop it and go on when you like
	$(BIN)/python scripts/reproduce.py --plan

costs: $(VENV)/installed-dev ## time and memory of every learner's meta-step: docs/learners.md, about 5 minutes
	$(BIN)/python scripts/measure_costs.py

soak: $(VENV)/installed-dev ## up to 50 kills, 1,000 random configurations, 200,000 meta-steps: docs/reliability.md, over an hour
	$(BIN)/python scripts/soak.py

sweeps: $(VENV)/installed-dev ## sweeps killed and started again, by every launcher, and what they cost: docs/sweeps.md, about 30 minutes
	$(BIN)/python scripts/measure_sweeps.py

scale: $(VENV)/installed-dev ## time by devices, processes, seeds and jobs, and an estimate for 256 devices: docs/scale.md, about 15 minutes on an idle machine
	$(BIN)/python scripts/measure_scale.py

mutants: $(VENV)/installed-dev ## break metarun in over 500 ways, one at a time: what does no test notice? docs/mutants.md, about half an hour
	$(BIN)/python scripts/mutants.py

wheel: $(VENV)/installed-dev ## build the wheel and try it in an empty directory
	scripts/try_wheel.sh $(BIN)/python

clean: ## remove .venv and caches; runs/ stays
	rm -rf $(VENV) dist .pytest_cache .ruff_cache .mypy_cache
