# make run    set-up, the pipeline, then recommendations over gRPC from the pushed model
# make test   set-up, then the tests (unit and e2e); make test-slow holds the rest
# make lint   ruff and mypy
# make bench  the benchmarks, their peers in an environment of their own
# make bench-torch  the tokenizer and decoding benchmarks against PyTorch (2.2 GB of downloads)

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.requirements-installed
PEERS := .bench-venv/.requirements-installed
TORCH := .bench-torch-venv/.requirements-installed
CONFIG ?= configs/sample.yaml
# Processes that tests run in; the tests of a file stay together, for they share what they set up.
WORKERS ?= 2
RUN_ARGS := --config $(CONFIG) $(if $(ADS),--ads "$(ADS)") $(if $(EVENTS),--events "$(EVENTS)") $(ARGS)

# Native libraries write a page of notices per process; what goes wrong raises in Python.
export TF_CPP_MIN_LOG_LEVEL ?= 3
export TF_USE_LEGACY_KERAS := 1

.PHONY: run test test-slow lint format bench bench-torch lock setup clean

run: setup
	@$(PY) pipeline.py run $(RUN_ARGS) --then-query

test: setup
	@$(PY) -m pytest -n $(WORKERS) --dist loadfile -m "not slow" $(ARGS)

test-slow: setup
	@$(PY) -m pytest -n $(WORKERS) --dist loadfile -m slow $(ARGS)

lint: setup
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@# pipeline.py and the package pipeline/ have one module name, so mypy needs two calls.
	@$(VENV)/bin/mypy sid_tfx pipeline components serving benchmarks examples tests
	@$(VENV)/bin/mypy pipeline.py

format: setup
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

bench: setup
	@# The peers' environment is a file target of its own, but without it the rest still runs.
	@$(MAKE) --no-print-directory $(PEERS) || echo "make: the peers could not be installed; the benchmarks run without them."
	@$(PY) -m benchmarks $(ARGS)

bench-torch: setup $(TORCH)
	@$(PY) -m benchmarks --only tokenizers --only decoding $(ARGS)

$(PEERS): benchmarks/requirements.txt
$(TORCH): benchmarks/requirements-torch.txt
$(PEERS) $(TORCH): .python-version
	@echo "Creating $(@D) with the peers ..."
	@UV=$$(command -v uv || echo .uv/bin/uv); \
	$$UV venv --quiet --clear --python $$(cat .python-version) $(@D) && \
	VIRTUAL_ENV=$(@D) $$UV pip sync --quiet $(filter %.txt,$^) && touch $@ || { rm -rf $(@D); exit 1; }

setup: $(STAMP)

$(STAMP): requirements.txt pyproject.toml
	@command -v g++ >/dev/null || { echo "make: g++ is missing: two dependencies of TFX build from source. Install it (Debian: apt-get install g++) and run make again."; exit 1; }
	@UV=$$(command -v uv || true); \
	if [ -z "$$UV" ]; then \
	  [ -x .uv/bin/uv ] || { echo "Installing uv from PyPI into .uv ..."; $(PYTHON) -m venv .uv && .uv/bin/pip install --quiet uv; } || exit 1; \
	  UV=.uv/bin/uv; \
	fi; \
	echo "Creating $(VENV) with Python $$(cat .python-version) and the locked requirements ..."; \
	$$UV venv --quiet --clear $(VENV) || { echo "make: Python $$(cat .python-version) was not found. Install it (pyenv install $$(cat .python-version), or uv python install $$(cat .python-version)) and run make again."; exit 1; }; \
	VIRTUAL_ENV=$(VENV) $$UV pip sync --quiet --compile-bytecode requirements.txt && \
	VIRTUAL_ENV=$(VENV) $$UV pip install --quiet --no-deps -e . && touch $@

lock:
	@# Resolves pyproject.toml anew; pins that still fit are kept.
	@UV=$$(command -v uv || echo .uv/bin/uv); \
	$$UV pip compile --quiet --python-version $$(cat .python-version) --extra dev pyproject.toml -o requirements.txt

clean:
	rm -rf $(VENV) .bench-venv .bench-torch-venv .uv runs
