#!/usr/bin/env bash
# The proof on a GPU, in one command of less than ten minutes: bench/gpu.sh [folder for logs, default build/gpu]
#
#   1  build         the package from this checkout, nothing fetched
#   2  tests         the ops on the GPU against the reference, graphs, streams, reruns
#   3  large         more than 2^31 values
#   4  sanitizer     compute-sanitizer memcheck and racecheck on every kernel, where the tool works; meanwhile the tests
#                    that need no GPU, with this machine's torch and Python, and all that the benchmarks compile
#   5  faces, craft  real faces, where VEILKERN_REAL_FACES says where they are; image-steps a second of a craft, beside
#                    the customary loop and a careful one
#   6  benchmarks    every op beside eager, torch.compile (max-autotune, or as VEILKERN_BENCH_COMPILE says) and a device
#                    copy; JSON lines and a table
#
# STEPS="build tests" runs these only (names as in the logs: build tests large memcheck racecheck host faces craft bench).
# It needs torch with CUDA, Triton, pytest, hypothesis, scipy, scikit-build-core and pybind11, and no network. Every step runs
# and is timed, whatever the others did; the exit status is 1 where one failed. Without a GPU it says so and claims nothing.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
logs=${1:-${OUT:-build/gpu}}
mkdir -p "$logs"
logs=$(cd "$logs" && pwd)
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
unset TRITON_INTERPRET  # the compiler, not the interpreter
export VEILKERN_REQUIRE_NATIVE=1 VEILKERN_SLOW=1 VEILKERN_LARGE=1 OMP_NUM_THREADS=4
summary="$logs/summary.txt"
started="$logs/started"
: >"$summary"
: >"$started"

say() { echo "$*" | tee -a "$summary"; }
wanted() { case " ${STEPS:-$1} " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }
step() {  # step <name> <seconds at most> <command...>
  local name=$1 limit=$2 started=$SECONDS status=0
  shift 2
  wanted "$name" || return 0
  timeout --kill-after=10 "$limit" "$@" >"$logs/$name.log" 2>&1 || status=$?
  say "$name: $([ "$status" = 0 ] && echo passed || echo "FAILED (exit $status)"), $((SECONDS - started)) s: $(tail -1 "$logs/$name.log" | cut -c1-160)"
  [ "$status" = 0 ] || tail -30 "$logs/$name.log"
  return 0
}

if ! "$python" -c "import torch, sys; sys.exit(not torch.cuda.is_available())" 2>/dev/null; then
  say "no GPU that torch sees ($python): nothing is measured and nothing claimed"
  exit 2
fi
say "$("$python" - <<'PY'
import platform, torch, triton
print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Triton {triton.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}")
PY
), commit ${VEILKERN_COMMIT:-$(git rev-parse --short HEAD 2>/dev/null || echo unknown)}"

step build 90 "$python" -m pip install --quiet --no-deps --no-build-isolation --no-index --target "$site" .
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1
"$python" -c "import veilkern as vk; [print(f'{b.name}: {b.detail or b.reason}') for b in vk.list_backends()]" | tee -a "$summary"

# Tests whose own packages this machine lacks are left out by name. Large ones run alone: each takes tens of GiB.
left_out=$("$python" - <<'PY'
import ast, importlib.util, pathlib
own = {"helpers", "veilkern", "conftest"} | {path.stem for path in pathlib.Path("tests").glob("*.py")}
for path in sorted(pathlib.Path("tests").glob("test_*.py")):
    tree = ast.walk(ast.parse(path.read_text()))
    names = {a.name for n in tree if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom) and n.module}
    tops = {name.split(".")[0] for name in names} - own
    if missing := sorted(top for top in tops if importlib.util.find_spec(top) is None):
        print(f"{path}={'+'.join(missing)}")
PY
)
ignored=()
for entry in $left_out; do
  say "left out: ${entry%%=*} (no ${entry#*=} here)"
  ignored+=("--ignore=${entry%%=*}")
done
cores=$(nproc)
few=() many=()
"$python" -c "import xdist" 2>/dev/null && few=(-n $((cores / 2))) many=(-n $((cores > 4 ? cores - 3 : cores)))
options=(-p no:cacheprovider -q --timeout=120)
"$python" -c "import pytest_timeout" 2>/dev/null || options=(-p no:cacheprovider -q -o timeout=0)
"$python" -c "import pytest_benchmark" 2>/dev/null || options+=(-o "addopts=--import-mode=importlib -ra")

# The failures are written as they come: a machine may be lent for less time than the tests take.
step tests 230 "$python" -m pytest "${options[@]}" ${many[@]+"${many[@]}"} -m "not large" \
  -k "triton or test_gpu or test_launch_tables" --failures "$logs/failures.txt" ${ignored[@]+"${ignored[@]}"} tests
step large 45 "$python" -m pytest "${options[@]}" -m "large and gpu" tests/test_gpu.py

if wanted bench; then  # what is compiled for one process is there for the next: both compilers keep a cache on disk
  ls bench/bench_*.py | grep -v bench_craft | VEILKERN_BENCH_DEVICE=cuda VEILKERN_BENCH_ROUNDS=1 \
    xargs -P 4 -n 1 timeout 120 "$python" >"$logs/warm.log" 2>&1 &
fi
step host 100 env CUDA_VISIBLE_DEVICES= VEILKERN_SLOW= "$python" -m pytest "${options[@]}" ${few[@]+"${few[@]}"} \
  -m "not large" -k "not triton" --failures "$logs/failures_host.txt" ${ignored[@]+"${ignored[@]}"} tests &
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    step "$tool" 100 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
      compute-sanitizer --tool "$tool" --error-exitcode 1 "$python" bench/sanitize_gpu.py &
  done
else
  say "sanitizer: no compute-sanitizer here"
fi
wait

[ -z "${VEILKERN_REAL_FACES:-}" ] || step faces 60 "$python" bench/real_faces.py --device cuda --quick
step craft 90 env VEILKERN_BENCH_DEVICE=cuda VEILKERN_BENCH_COMPILE=default "$python" bench/bench_craft.py --out "$logs/craft.jsonl"
step bench 165 "$python" bench/run.py --device cuda --seconds 150
find bench/results -newer "$started" -type f -exec cp {} "$logs" \;
echo
cat "$summary"
[ ! -f "$logs/bench.log" ] || tail -25 "$logs/bench.log"
! grep -q FAILED "$summary"
