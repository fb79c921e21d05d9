# Every target works on a fresh machine with Python 3.11+ and pip: the first target that needs .venv makes it.

PYTHON ?= python3
# The file with the versions to install; CONSTRAINTS= installs the newest that pyproject.toml allows.
CONSTRAINTS ?= constraints.txt
METHOD ?= mokus
FORCE ?=
STAGES ?=
NAME ?= eta
METHODS ?= base,leak,anchor,mokus,naive_db,enc_ft
ARGS ?=
# ray: a worker for every GPU, or for every core without GPUs; local: this process alone.
ENGINE ?= ray

VENV := .venv
BIN := $(VENV)/bin
WORKERS = $(if $(findstring engine=,$(ARGS)),,engine=$(ENGINE))
# Packages for runs, and further packages for tests, style, types and documentation.
BENCH := $(VENV)/.installed-bench
DEV := $(VENV)/.installed-dev
# pip shows its progress on a terminal only; a log gets one line.
QUIET = $(if $(MAKE_TERMOUT),,--quiet)

.DEFAULT_GOAL := help
.PHONY: help bench sweep ablation probe plan report timing check-gpu benchmark-gpu gpu-bundle doctor toybox toybox-eval drill check test test-browser docs wheel lint update clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  make bench METHOD=mokus ARGS=\"benchmark=directory benchmark.path=DIR grid.seeds=[0,1] run.name=mine\""

bench: $(BENCH) ## run one method (METHOD=), from plan to leaderboard
	$(BIN)/knowcusbench bench method=$(METHOD) $(WORKERS) $(ARGS)

sweep: $(BENCH) ## run and compare several methods (METHODS=) in one run directory
	$(BIN)/knowcusbench bench -m method=$(METHODS) $(WORKERS) $(ARGS)

ablation: $(BENCH) ## run an ablation (NAME=items|eta|layers|editors|scope) with its controls
	$(BIN)/knowcusbench bench ablation=$(NAME) $(WORKERS) $(ARGS)
	$(BIN)/knowcusbench bench -m method=base,anchor run.name=ablation-$(NAME) $(WORKERS) $(ARGS)

probe: $(BENCH) ## edit one fact and draw its phrase before and after
	$(BIN)/knowcusbench probe $(ARGS)

plan: $(BENCH) ## count the samples and estimate the cost
	$(BIN)/knowcusbench plan method=$(METHOD) $(ARGS)

report: $(BENCH) ## write the report of a run again
	$(BIN)/knowcusbench report method=$(METHOD) $(ARGS)

timing: $(BENCH) ## time edits, metrics, drawing, workers and the report of the full grid, each against an alternative
	$(BIN)/python -m knowcusbench.timing.edits $(ARGS)
	$(BIN)/python -m knowcusbench.timing.metrics
	$(BIN)/python -m knowcusbench.timing.drawing
	$(BIN)/python -m knowcusbench.timing.floor
	$(BIN)/python -m knowcusbench.timing.report

check-gpu: $(BENCH) ## check that a GPU computes what the CPU computes (without a GPU: the CPU against itself)
	$(BIN)/python -m knowcusbench.gpu.check $(ARGS)

benchmark-gpu: $(BENCH) ## time every stage at full size on random weights against the hardware's lower bound (without a GPU: small shapes)
	$(BIN)/python -m knowcusbench.gpu.benchmark $(ARGS)

gpu-bundle: $(BENCH) ## build the folder that a bare machine with a GPU needs for both, build/gpu-bundle (ARGS="--python 3.12")
	$(BIN)/python -m knowcusbench.gpu.bundle $(ARGS)

doctor: $(BENCH) ## compare this machine with the needs of the configuration, and name the remedies
	$(BIN)/knowcusbench doctor $(ARGS)

toybox: $(BENCH) ## train the embedded world's weights again (FORCE=1 replaces the shipped ones; STAGES= runs some stages)
	$(BIN)/python -m knowcusbench.toymaker $(if $(FORCE),--force) $(STAGES)

toybox-eval: $(BENCH) ## compute all figures of the embedded world's weights and write their card
	$(BIN)/python -m knowcusbench.toymaker.card $(ARGS)

drill: $(DEV) ## kill a run at 100 random moments, run two commands in one directory, fill a disk (half an hour)
	$(BIN)/python -m tests.drill $(ARGS)

check: lint ## check style and types, and run the tests without models (two minutes)
	$(BIN)/python -m pytest -m unit $(ARGS)

test: $(DEV) ## run the tests
	$(BIN)/python -m pytest $(ARGS)

test-browser: $(DEV) ## install Chromium if there is none, and run the tests of the report's pages
	command -v chromium || command -v chromium-browser || command -v google-chrome \
		|| $(BIN)/python -m playwright install --with-deps chromium
	$(BIN)/python -m pytest tests/report/pages $(ARGS)

docs: $(DEV) ## build the documentation into build/docs; a broken link or anchor is an error
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html docs build/docs

wheel: $(DEV) ## build the installable package into dist/
	rm -rf build/lib build/bdist.*
	$(BIN)/python -m pip wheel $(QUIET) --no-deps --no-build-isolation --wheel-dir dist .

lint: $(DEV) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

update: ## install the newest versions that pyproject.toml allows and write them to constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(QUIET) --upgrade --upgrade-strategy eager pip --editable ".[dev]"
	$(BIN)/python .ci/constraints.py > $(VENV)/constraints.txt
	mv $(VENV)/constraints.txt constraints.txt
	@touch $(BENCH) $(DEV)

clean: ## remove the environment and caches (results stay)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Runs again only when the dependencies or their tested versions change.
define install
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing .[$(1)] into $(VENV): some minutes and gigabytes, most of them PyTorch's"
	$(BIN)/python -m pip install $(QUIET) --upgrade pip
	$(BIN)/python -m pip install $(QUIET) $(addprefix --constraint ,$(CONSTRAINTS)) --editable ".[$(1)]"
	@touch $@
endef

$(BENCH): pyproject.toml $(CONSTRAINTS)
	$(call install,cluster)

$(DEV): pyproject.toml $(CONSTRAINTS)
	$(call install,dev)
	@touch $(BENCH)
