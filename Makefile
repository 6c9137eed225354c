# Everything runs in a virtual environment of its own; PYTHON is only used to make it. The package itself is installed
# there too, editable, so that a notebook's kernel imports it from any folder.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: help pipeline test check lint slow nightly bench gpu soak mlproject install

help:
	@echo "make pipeline   install, then train, forecast and backtest on the sample bars, tracked by MLflow"
	@echo "make test       install, then the fast tests"
	@echo "make check      lint, format, types, fast tests: before a push"
	@echo "make slow       the slow tests, a whole pipeline through mlflow run among them"
	@echo "make nightly    more cases of the slow tests, and long experiments, which CI leaves out"
	@echo "make bench      speed tables"
	@echo "make gpu        on a machine with a CUDA device: its tests, then the speed tables on it"
	@echo "make soak       50 pipelines in one process: memory, open files, threads, leftover folders"
	@echo "make mlproject  write MLproject and the READMEs' tables of fields from the code"

$(VENV)/.installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv "$(VENV)"
	$(PIP) -r requirements.txt
	$(PIP) --no-deps -e .
	@touch "$@"

# kronos-model-arch is the public model, held against ours in tests; its own pins are old, so it comes without them.
$(VENV)/.installed-test: $(VENV)/.installed pyproject.toml
	$(PIP) -e '.[test]'
	$(PIP) --no-deps kronos-model-arch==0.1.0
	@touch "$@"

install: $(VENV)/.installed

pipeline: $(VENV)/.installed
	python -m mlflow run . -e pipeline --env-manager local --experiment-name kronos

# Two test files at a time; each test takes one thread.
test: $(VENV)/.installed-test
	python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.installed-test
	ruff check .
	ruff format --check .
	mypy
	python -m kronos mlproject --check
	python -m kronos fields --check

check: lint test

slow: $(VENV)/.installed-test
	python -m pytest -m 'slow and not nightly' -n 2 --dist loadfile --no-loadscope-reorder

# What CI has no time for: more cases of slow tests, and long experiments.
nightly: $(VENV)/.installed-test
	python -m pytest -m nightly -n 2 --dist loadfile --no-loadscope-reorder

bench: $(VENV)/.installed-test
	python -m pytest tests/bench -m bench -s

gpu: $(VENV)/.installed-test
	python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "make gpu: this PyTorch finds no CUDA device")'
	python -m pytest tests/training/test_devices.py -k cuda
	KRONOS_BENCH_DEVICE=cuda python -m pytest tests/bench/test_training_speed.py tests/bench/test_forecast_speed.py -m bench -s

soak: $(VENV)/.installed-test
	python tests/soak.py 50

mlproject: $(VENV)/.installed
	python -m kronos mlproject --write
	python -m kronos fields --write
