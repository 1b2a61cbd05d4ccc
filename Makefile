# Two commands on a fresh machine: `make demo` and `make test`. Each sets up .venv by itself.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
QUICK ?=

.PHONY: demo test lint types check real bench wheel clean

$(VENV)/pip.done:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

# A plain install: the demo runs what users get. constraints.txt keeps torch to its CPU build's version.
$(VENV)/demo.done: pyproject.toml constraints.txt $(VENV)/pip.done $(shell find csrc kernels veilkern -type f -not -path '*/__pycache__/*')
	$(BIN)/python -m pip install --quiet -c constraints.txt ".[cli]"
	rm -f $(VENV)/dev.done
	touch $@

demo: $(VENV)/demo.done
	$(BIN)/veilkern demo --out demo

# An editable install for work on the code; build isolation off, so that the C++ module is built by the venv's own tools.
$(VENV)/dev.done: pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*.cpp csrc/cpu/*) $(VENV)/pip.done
	$(BIN)/python -m pip install --quiet -c constraints.txt scikit-build-core pybind11
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps onnx2torch  # without the torchvision it names: none fits every torch
	rm -f $(VENV)/demo.done
	touch $@

test: $(VENV)/dev.done
	$(BIN)/python -m pytest

lint: $(VENV)/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.done
	$(BIN)/mypy

check: lint types test

# Needs real faces: make real VEILKERN_REAL_FACES=../shared/faces
real: $(VENV)/dev.done
	$(BIN)/python bench/real_faces.py $(if $(QUICK),--quick)

bench: $(VENV)/dev.done
	$(BIN)/python bench/run.py

wheel: $(VENV)/dev.done
	$(BIN)/python -m build --wheel

clean:
	rm -rf build dist demo
