# Two commands on a fresh machine: `make demo` and `make test`. Each sets up .venv by itself.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
QUICK ?=

.PHONY: demo test lint types check real bench sanitize wheel clean

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
$(VENV)/dev.done: pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*.cpp csrc/cpu/* kernels/*.py) $(VENV)/pip.done
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

# The C++ kernels built with AddressSanitizer and UndefinedBehaviorSanitizer, in a virtual environment that finds all else
# in .venv, run over their tests. Tests that only exercise torch.compile or fork are left out: they add no kernel.
SANITIZED = build/sanitize
SANITIZED_TESTS = blend blend_normalize recover block_variance hull_distance ssim veil_step
sanitize: $(VENV)/dev.done
	rm -rf $(SANITIZED) && $(PYTHON) -m venv $(SANITIZED)
	$(BIN)/python -c "import site; print(site.getsitepackages()[0])" \
	  > $$($(SANITIZED)/bin/python -c "import site; print(site.getsitepackages()[0])")/base.pth
	$(SANITIZED)/bin/python -m pip install --quiet --no-deps --no-build-isolation \
	  --config-settings=cmake.define.VEILKERN_SANITIZE=ON --config-settings=build-dir=$(SANITIZED)/cmake .
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1 VEILKERN_REQUIRE_NATIVE=1 \
	  $(SANITIZED)/bin/python -P -m pytest -p no:cacheprovider -k "not compile and not schema and not fork and not triton" \
	  $(SANITIZED_TESTS:%=tests/test_%.py)

wheel: $(VENV)/dev.done
	$(BIN)/python -m build --wheel

clean:
	rm -rf build dist demo
