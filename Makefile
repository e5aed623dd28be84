# demo, docs, test, lint and bench each make .venv if there is none and install what they need; a second call is instant.
# Your own Python:                make PYTHON=python3.12 CONSTRAINTS= test
# Your own releases or torch:     make clean; make CONSTRAINTS= test   (or a constraints file of yours)
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints/tested.txt
RUN_DIR ?= runs/demo
ARGS ?=
# Processes of the tests.
JOBS ?= 2

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LINTED := sgool tests experiments docs notebooks $(wildcard benchmarks)

.DEFAULT_GOAL := help
.PHONY: help install demo docs test test-slow test-lowest lint format bench package clean

# Tests reach for no network.
test test-slow test-lowest: export HF_HUB_OFFLINE = 1
test test-slow test-lowest: export WANDB_MODE = offline

help:
	@echo "make demo       repair eight prompts of the embedded world; minutes, no GPU, no downloads of weights"
	@echo "make docs       builds the documentation site into site/; site/index.html opens from disk"
	@echo "make test       all tests but the slow ones; ARGS='-k NAME' picks some, JOBS=4 takes four processes"
	@echo "make test-slow  the slow tests"
	@echo "make test-lowest   all tests but the slow ones, with the lowest releases that pyproject.toml allows"
	@echo "make lint       ruff and mypy; make format mends what ruff can"
	@echo "make bench      the benchmarks"
	@echo "make package    sdist and wheel in dist/, checked, installed into an empty environment and run there"
	@echo "make clean      removes .venv, caches and builds; runs/ stays"

install: $(STAMP)

# The stamp depends on what decides the installation; sources need no new one, the install is editable.
$(STAMP): pyproject.toml $(CONSTRAINTS)
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) --editable '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/sgool fit experiment=demo run_dir=$(RUN_DIR) $(ARGS)
	$(BIN)/sgool report $(RUN_DIR)

# The variable turns off an advertisement of the theme's, which is no warning about this site.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --clean $(ARGS)

# Files are dealt out whole, so that what a file's tests share is made once.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile $(ARGS)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow -s $(ARGS)

# uv resolves to the lowest releases, which pip cannot; torch 2.6 has no builds for Python 3.14 and later.
test-lowest:
	test -x .venv-lowest/bin/uv || { $(PYTHON) -m venv --clear .venv-lowest && .venv-lowest/bin/python -m pip install uv; }
	.venv-lowest/bin/uv pip install --python .venv-lowest/bin/python --resolution lowest-direct --editable '.[dev]'
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check $(LINTED)
	$(BIN)/ruff format --check $(LINTED)
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix $(LINTED)
	$(BIN)/ruff format $(LINTED)

bench: $(STAMP)
	@set -e; ran=0; for script in benchmarks/*.py; do \
		test -f "$$script" || continue; \
		case "$$script" in */_*) continue;; esac; \
		echo "== $$script"; $(BIN)/python "$$script" $(ARGS); ran=1; \
	done; test $$ran = 1 || { echo "benchmarks/ holds no script" >&2; exit 1; }

package: $(STAMP)
	rm -rf dist build/package
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv build/package/venv
	build/package/venv/bin/python -m pip install $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) dist/*.whl
	mkdir build/package/empty
	cd build/package/empty && ../venv/bin/sgool fit --prompt "a green cat" models=emoji_world_turbo run_dir=run
	cd build/package/empty && ../venv/bin/sgool report run && test -f run/report/index.html

clean:
	rm -rf $(VENV) .venv-lowest build dist site .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
