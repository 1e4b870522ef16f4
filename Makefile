# Two commands do everything: `make demo` and `make test`. Each sets up its own virtual environment first.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin

.PHONY: demo test test-scatter bench lint clean

demo: $(VENV)/.installed
	$(BIN)/python scripts/demo.py

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto

# The optional torch-scatter: compiles for about ten minutes, then runs its tests.
test-scatter: $(VENV)/.installed
	$(BIN)/pip install --quiet --no-build-isolation torch-scatter==2.1.2
	$(BIN)/python -m pytest -m scatter tests/test_scatter.py

# All benchmarks (hours; about half an hour with BENCH=--quick), and the page that is made of their tables.
bench: $(VENV)/.installed
	$(BIN)/mpnn bench all $(BENCH); status=$$?; $(BIN)/mpnn bench page && exit $$status

lint: $(VENV)/.installed
	$(BIN)/ruff check .

# torch goes first and alone: left to a resolver it may come as another build, several gigabytes large.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[test,bench]"
	touch $@

clean:
	rm -rf $(VENV) out build dist
