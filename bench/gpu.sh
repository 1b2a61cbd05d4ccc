#!/usr/bin/env bash
# The one chance on a GPU, in one command of less than ten minutes: bench/gpu.sh [folder, default $OUT or build/gpu]
#
#   build      the package from this checkout with its CUDA kernels, nothing fetched
#   smoke      every op by every backend for GPUs on a few values, against the reference: who serves what, and why not
#   time       ours, by the CUDA and by the Triton kernels, beside a copy on the device
#   tests      those that run something on the GPU
#   eager      plain PyTorch beside ours
#   sanitize   compute-sanitizer: memcheck, and racecheck of the CUDA kernels
#   tune       veilkern tune, op by op
#   large      more than 2^31 values
#   compile    torch.compile beside ours, then in its max-autotune mode
#   craft, faces (by name only)    image-steps a second of a craft; real faces, where VEILKERN_REAL_FACES says where
#
# --stages build,smoke (or STEPS="build smoke") runs these only; DEADLINE=300 is another number of seconds; PYTHON
# another Python. --dry needs no GPU: all stages on a few values, by the kernels emulated on the CPU, in a minute.
# The folder holds at most eight files: log.txt, summary.txt, rows.jsonl (a row as soon as it is measured), table.md,
# failures.txt and failures_large.txt of the tests, the table of `veilkern tune`. Of the rows
# `python bench/run.py --rows FOLDER/rows.jsonl` makes bench/results/<gpu>.md, on any machine.
# It needs torch with CUDA, Triton, nvcc, pytest, hypothesis, scipy, scikit-build-core and pybind11, and no network.
# Exit status: 0, 1 where a stage failed, 2 without a GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" bench/gpu.py "$@"
