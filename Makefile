# Every target works on a fresh machine with Python 3.11+ and pip: the first one that needs it makes .venv.

PYTHON ?= python3
METHOD ?= mokus
FORCE ?=
STAGES ?=
NAME ?= eta
METHODS ?= base,leak,anchor,mokus,naive_db,enc_ft
ARGS ?=
# A worker for every GPU, or for every core where there is none; ENGINE=local is this process alone.
ENGINE ?= ray

VENV := .venv
BIN := $(VENV)/bin
WORKERS = $(if $(findstring engine=,$(ARGS)),,engine=$(ENGINE))
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help bench sweep ablation probe plan report benchmark benchmark-gpu doctor toybox toybox-eval drill test test-browser docs lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  make bench METHOD=mokus ARGS=\"benchmark=directory benchmark.path=DIR grid.seeds=[0,1] run.name=mine\""

bench: $(INSTALLED) ## one method (METHOD=), from plan to leaderboard
	$(BIN)/knowcusbench bench method=$(METHOD) $(WORKERS) $(ARGS)

sweep: $(INSTALLED) ## all methods (METHODS=) into one run, compared
	$(BIN)/knowcusbench bench -m method=$(METHODS) $(WORKERS) $(ARGS)

ablation: $(INSTALLED) ## an ablation of the paper (NAME=items|eta|layers|editors|scope), with the controls
	$(BIN)/knowcusbench bench ablation=$(NAME) $(WORKERS) $(ARGS)
	$(BIN)/knowcusbench bench -m method=base,anchor run.name=ablation-$(NAME) $(WORKERS) $(ARGS)

probe: $(INSTALLED) ## edit one fact, and draw its phrase before and after
	$(BIN)/knowcusbench probe $(ARGS)

plan: $(INSTALLED) ## count the samples and estimate the cost
	$(BIN)/knowcusbench plan method=$(METHOD) $(ARGS)

report: $(INSTALLED) ## write the leaderboard of a run again
	$(BIN)/knowcusbench report method=$(METHOD) $(ARGS)

benchmark: $(INSTALLED) ## time the knowledge edit, the metrics, drawing and workers, and the report of the full grid, each beside another way
	$(BIN)/python -m knowcusbench.adaptation.benchmark $(ARGS)
	$(BIN)/python -m knowcusbench.metrics.benchmark
	$(BIN)/python -m knowcusbench.stages.benchmark
	$(BIN)/python -m knowcusbench.report.benchmark

benchmark-gpu: $(INSTALLED) ## time every stage at full size on random weights beside the hardware's floor (without a GPU: small shapes)
	$(BIN)/python -m knowcusbench.backbone.benchmark $(ARGS)

doctor: $(INSTALLED) ## what this machine has, what the configuration needs, and what to do about the rest
	$(BIN)/knowcusbench doctor $(ARGS)

toybox: $(INSTALLED) ## train the embedded world's weights anew (FORCE=1 replaces the shipped ones; STAGES= runs some stages)
	$(BIN)/python -m knowcusbench.toybox.training $(if $(FORCE),--force) $(STAGES)

toybox-eval: $(INSTALLED) ## compute all figures of the embedded world's weights, and write their card
	$(BIN)/python -m knowcusbench.toybox.card

drill: $(INSTALLED) ## kill a run at 100 random moments, run two commands in one directory, fill a disk (half an hour)
	$(BIN)/python -m tests.drill $(ARGS)

test: $(INSTALLED) ## run the tests
	$(BIN)/python -m pytest $(ARGS)

test-browser: $(INSTALLED) ## install Chromium if there is none, and run the tests of the report's pages
	command -v chromium || command -v chromium-browser || command -v google-chrome \
		|| $(BIN)/python -m playwright install --with-deps chromium
	$(BIN)/python -m pytest tests/report/html $(ARGS)

docs: $(INSTALLED) ## build the documentation into build/docs; a broken link or anchor is an error
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html docs build/docs

lint: $(INSTALLED) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## remove the environment and caches (results stay)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Installed again only when the dependencies change.
$(INSTALLED): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@
