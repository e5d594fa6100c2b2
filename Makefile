# `make demo` and `make test` set up everything they need in .venv: the demo what trains, the tests
# the developers' tools as well.
VENV ?= .venv
BIN := $(VENV)/bin
RUNS := $(VENV)/.runs
READY := $(VENV)/.ready
PIP := $(BIN)/pip install --disable-pip-version-check -q
# verl holds other versions of the same packages, so it gets an environment of its own.
VERL ?= .venv-verl
# The site's builder, apart from what the package needs.
DOCS ?= .venv-docs
# The first of these that is there and new enough; `make PYTHON=...` chooses another.
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)

.PHONY: demo test test-all test-verl test-verl-all lint format docs clean

demo: $(RUNS) ## data -> training -> evaluation -> report, offline, under 5 minutes
	$(BIN)/modgap demo --out demo

test: $(READY) ## the test suite, under 3 minutes on 2 cores
	@# Compiled tests and modules are kept: each worker and each child process would compile them again.
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist worksteal

test-all: $(READY) ## and the slow tests
	$(BIN)/python -m pytest -m "not gpu" --timeout 1200

test-verl: $(VERL)/.ready ## the verl engine on CPU, with verl 0.9.1 in .venv-verl
	$(VERL)/bin/python -m pytest tests/training/on_verl tests/training/test_verl_config.py --timeout 1200

test-verl-all: $(VERL)/.ready ## and whole trainings on verl, with a replica in vLLM's place; 10 minutes or more on 2 cores
	$(VERL)/bin/python -m pytest tests/training/on_verl tests/training/test_verl_config.py -m "not gpu" --timeout 1200

lint: $(READY) ## style, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY) $(DOCS)/.ready ## the generated pages, then the site in site/ with its links checked, and a word count
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet
	$(BIN)/python docs/words.py

# Without an NVIDIA driver the CPU build of torch will do, a twentieth of the size: from the index
# that pip uses, else from PyTorch's own. Where neither has it, torch comes with the rest.
TORCH := torch==$(shell sed -n 's/^torch==//p' constraints.txt)
CPU_INDEX := https://download.pytorch.org/whl/cpu

$(RUNS): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "modgap needs Python 3.11 or later: apt-get install python3 python3-venv" >&2; exit 1; }
	@# Debian and Ubuntu ship venv apart; get it where we may, say so where we may not.
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { \
		rm -rf $(VENV); \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && apt-get install -y -qq python3-venv; \
		fi; \
		$(PYTHON) -m venv $(VENV) || { echo "venv is missing: apt-get install python3-venv" >&2; exit 1; }; }
	@if [ "$$(uname)" = Linux ] && ! command -v nvidia-smi >/dev/null; then \
		$(PIP) -c constraints.txt $(TORCH)+cpu 2>/dev/null || \
		$(PIP) -c constraints.txt --retries 0 --timeout 15 --extra-index-url $(CPU_INDEX) $(TORCH)+cpu 2>/dev/null || \
		true; \
	fi
	$(PIP) -c constraints.txt -e '.[train]'
	@touch $@

$(READY): $(RUNS)
	$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

$(VERL)/.ready: pyproject.toml constraints-verl.txt
	$(PYTHON) -m venv $(VERL)
	$(VERL)/bin/pip install --disable-pip-version-check -q -c constraints-verl.txt torch
	$(VERL)/bin/pip install --disable-pip-version-check -q --no-deps -r constraints-verl.txt -e .
	@touch $@

$(DOCS)/.ready: docs/requirements.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install --disable-pip-version-check -q -r docs/requirements.txt
	@touch $@

clean:
	rm -rf $(VENV) $(VERL) $(DOCS) demo site
