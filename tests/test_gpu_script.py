"""bench/gpu.sh without a GPU: order, time, files, what is left when it is ended, and what becomes of its rows."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import BACKENDS

from veilkern import ops
from veilkern.testing.table import TABLE

BENCH = Path(__file__).parents[1] / "bench"
SCRIPT = BENCH / "gpu.sh"
STAGES = ["build", "smoke", "time", "tests", "eager", "sanitize", "tune", "large", "compile"]
MOST_FILES = 8  # that come back from a lent machine, with names of these letters
NAMES = re.compile(r"[A-Za-z0-9._-]+")
CASE = {"op": "blend", "case": 0, "size": "9 photos", "bytes": 18, "gb_s": 1.0, "copy_ms": 1.0, "share_of_copy": 0.5}
MACHINE = {"gpu": "NVIDIA Z9", "cuda": "13.0", "compile": "default", "cpu": "a processor", "threads": 4}
MACHINE |= {"backend": "CUDA C++", "torch": "2.11", "python": "3.12", "commit": "abc"}
interpreted = pytest.mark.skipif("triton" not in BACKENDS, reason="Triton is not installed")


@pytest.fixture
def bench(monkeypatch):
    """load(name) -> a module of bench/."""

    def load(name: str):
        monkeypatch.syspath_prepend(BENCH)
        spec = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


def environment(**more: str) -> dict[str, str]:
    """That of a user, without what pytest and these tests set, and no thread more than is needed."""
    ours = ("TRITON_INTERPRET", "VEILKERN_CUDA_EMULATE", "VEILKERN_COMMIT", "OUT", "STEPS", "DEADLINE")
    return {k: v for k, v in os.environ.items() if k not in ours} | {"PYTHON": sys.executable} | more


def script(*arguments: object, **more: str) -> subprocess.CompletedProcess:
    command = [SCRIPT, *map(str, arguments)]
    return subprocess.run(command, env=environment(**more), capture_output=True, text=True, check=False)


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


@pytest.mark.slow
@interpreted
def test_a_dry_run_goes_through_all_stages(tmp_path):
    done = script("--dry", tmp_path)
    log, summary = ((tmp_path / name).read_text() for name in ("log.txt", "summary.txt"))
    assert done.returncode == 0, summary + log[-5000:]
    assert re.findall(r"^== (\w+), \d+ s at most", log, re.MULTILINE) == STAGES
    assert re.findall(r"^(\w+): (?:passed, \d+ s|needs a device)", summary, re.MULTILINE) == STAGES, summary
    for tool in ("memcheck", "racecheck"):
        assert re.search(rf"would run: compute-sanitizer --tool {tool} .* --calls cuda", log)
    assert "-m large" in re.search(r"^large: needs a device, would run: (.*)$", summary, re.MULTILINE)[1]
    assert re.search(r"^tests: passed.* passed", summary, re.MULTILINE), "no test ran"

    files = list(tmp_path.iterdir())
    assert len(files) <= MOST_FILES and all(path.is_file() and NAMES.fullmatch(path.name) for path in files), files
    assert (tmp_path / "interpreter.json").is_file(), "tune left no table"

    rows = rows_of(tmp_path)
    assert all(row["dry"] for row in rows)
    assert list(dict.fromkeys(row["stage"] for row in rows)) == ["smoke", "copy", "time", "eager", "tune", "compile"]
    smoke = {(row["op"], row["backend"]): row["result"] for row in rows if row["stage"] == "smoke"}
    assert set(smoke) == {(op, backend) for op in TABLE for backend in ("cuda", "triton")}
    assert all(smoke[op, "triton"].startswith("right, 1 of 1") for op in TABLE), smoke
    figures = [row for row in rows if "ours_ms" in row]
    assert not any("failed" in row or "left_out" in row for row in rows)
    for stage, other in (("time", "x_triton"), ("eager", "x_eager"), ("compile", "x_compile")):
        of_stage = [row for row in figures if row["stage"] == stage]
        assert len(of_stage) > 10 and all(any(k.startswith(other) for k in row) for row in of_stage), stage
    if "cuda" in BACKENDS:  # emulated: what has a CUDA kernel was called and timed by it
        served = {op for (op, backend), result in smoke.items() if backend == "cuda" and result.startswith("right")}
        assert served and {row["op"] for row in figures if "x_cuda" in row} & served

    table = tmp_path / "table.md"
    assert table.read_text().startswith("A dry run: no figures.") and "| triton |" in table.read_text()
    command = [sys.executable, BENCH / "run.py", "--rows", tmp_path / "rows.jsonl", "--results", tmp_path / "results"]
    refused = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and "dry run: nothing is claimed" in refused.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.thorough
@interpreted
def test_rows_are_there_when_it_is_killed(tmp_path):
    """SIGKILL, as at the end of a lease: what was measured is in the file, and nothing runs on."""
    running = subprocess.Popen(
        [SCRIPT, "--dry", "--stages", "time", tmp_path], env=environment(), stdout=subprocess.DEVNULL
    )
    rows, until = tmp_path / "rows.jsonl", time.monotonic() + 120
    try:
        while not rows.is_file() or rows.read_text().count("\n") < 3:
            assert running.poll() is None and time.monotonic() < until, "it ended, or measured nothing for minutes"
            time.sleep(0.02)
    finally:
        running.kill()
        running.wait()
    time.sleep(0.5)
    found = rows.read_text()
    copy, *cases = (json.loads(line) for line in found.splitlines())
    assert copy["stage"] == "copy" and 2 <= len(cases) < 10  # of 16
    assert all(row["ours_ms"] > 0 and row["stage"] == "time" for row in cases)
    time.sleep(3)
    assert rows.read_text() == found, "the stage runs on"


def test_too_short_a_deadline_names_what_is_left_out(tmp_path):
    done = script("--dry", tmp_path, DEADLINE="3")
    assert done.returncode == 0
    assert re.findall(r"^(\w+): LEFT OUT, it needs \d+ s", (tmp_path / "summary.txt").read_text(), re.M) == STAGES
    assert "== " not in (tmp_path / "log.txt").read_text() and not (tmp_path / "rows.jsonl").read_text()
    assert "build: LEFT OUT" in done.stdout


def test_a_measuring_stage_names_what_it_leaves_out(tmp_path):
    command = [sys.executable, BENCH / "gpu_time.py", "compile", "--rows", tmp_path / "rows.jsonl", "--until", "0"]
    dry = environment(VEILKERN_BENCH_DRY="1", TRITON_INTERPRET="1")
    done = subprocess.run(command, env=dry, capture_output=True, text=True, check=True)
    rows = rows_of(tmp_path)
    assert len(rows) > 5 and all(row["left_out"] == "no time" and "ours_ms" not in row for row in rows)
    assert not {"seal", "unseal"} & {row["op"] for row in rows}, "torch.compile has no rival there"
    last = done.stdout.splitlines()[-1]
    assert last.startswith("0 cases measured; left out, no time: ") and "veil_step_ (" in last


@pytest.fixture
def run_of(bench, tmp_path, monkeypatch):
    """run(stages...) -> what main returns, with these stages in place of its own, and the summary."""
    gpu = bench("gpu")

    def run(*stages: tuple, deadline: float = 60):
        monkeypatch.setattr(gpu, "STAGES", tuple(gpu.Stage(*stage) for stage in stages))
        monkeypatch.setenv("DEADLINE", str(deadline))
        status = gpu.main(["--dry", str(tmp_path / "out")])
        return status, (tmp_path / "out" / "summary.txt").read_text()

    before = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, before)


def test_a_stage_that_fails_gives_status_1_and_the_others_go_on(run_of, tmp_path, capfd):
    good, bad = ("good", 10, 1, "-c 'print(1 + 1)'"), ("bad", 10, 1, "-c 'print(\"told\"); raise SystemExit(7)'")
    assert run_of(good)[0] == 0
    status, summary = run_of(bad, good)
    assert status == 1
    assert re.search(r"^bad: FAILED \(exit 7\), \d+ s: told$", summary, re.M), summary
    assert re.search(r"^good: passed, \d+ s: 2$", summary, re.M) and "\nFAILED, " in summary
    assert "told" in capfd.readouterr().out and "told" in (tmp_path / "out" / "log.txt").read_text()


def test_a_stage_has_its_share_and_what_was_left_before_it(run_of, tmp_path):
    """One that does not end is stopped, with what it began; the next still has its own time, and the last the rest."""
    hangs = "-c 'import subprocess, sys, time; subprocess.Popen([sys.executable, *sys.argv[1:]]); time.sleep(60)' -c "
    mark = tmp_path / "mark"
    hangs += f'\'import time; time.sleep(5); open("{mark}", "w")\''
    told = "-c 'import sys, time; print(round(float(sys.argv[1]) - time.time()))' {until}"
    began = time.monotonic()
    status, summary = run_of(
        ("hangs", 2, 1, hangs), ("kept", 2, 1, "-c 'import time; time.sleep(60)'", {}, True), ("next", 6, 1, told),
        ("large", 1, 50, told), ("last", 1, 1, told), deadline=20,
    )  # fmt: skip
    assert time.monotonic() - began < 10 and status == 1
    assert re.search(r"^hangs: FAILED \(stopped at its limit\), [23] s", summary, re.M), summary
    assert re.search(r"^kept: stopped at its limit, [12] s", summary, re.M)
    assert 3 <= int(re.search(r"^next: passed, \d s: (\d+)$", summary, re.M)[1]) <= 4  # two seconds before its end
    assert re.search(r"^large: LEFT OUT, it needs 50 s at least and has [67]$", summary, re.M)
    assert 12 <= int(re.search(r"^last: passed, \d s: (\d+)$", summary, re.M)[1]) <= 14
    time.sleep(max(6 - (time.monotonic() - began), 0))
    assert not mark.exists(), "what a stage has begun runs on"


def test_its_own_limits_fit_its_time(bench):
    gpu = bench("gpu")
    assert [stage.name for stage in gpu.STAGES] == STAGES
    assert sum(stage.share for stage in gpu.STAGES) <= gpu.DEADLINE < 600
    assert all(0 < stage.least <= stage.share for stage in gpu.STAGES)


def test_stages_by_name(bench):
    gpu = bench("gpu")
    for names in ("time,build", "time build"):
        assert [stage.name for stage in gpu.chosen(names)] == ["build", "time"]  # in their own order
    assert [stage.name for stage in gpu.chosen("craft")] == ["craft"]
    with pytest.raises(SystemExit, match="no stage bild; there are build, smoke"):
        gpu.chosen("bild,smoke")


def test_without_a_gpu_it_claims_nothing(bench, tmp_path, monkeypatch):
    gpu = bench("gpu")
    monkeypatch.setattr(gpu, "gpu", lambda: None)
    assert gpu.main([str(tmp_path)]) == 2
    assert "nothing claimed" in (tmp_path / "summary.txt").read_text() and not (tmp_path / "log.txt").read_text()


def test_the_commit_without_git(bench, monkeypatch, tmp_path):
    rows = bench("rows")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("VEILKERN_COMMIT", raising=False)
    assert rows.commit() == "unknown"
    monkeypatch.setenv("VEILKERN_COMMIT", "1234abc")
    assert rows.commit() == "1234abc"


def test_nothing_looks_at_the_gpu_before_processes_part():
    """A process that begins as a copy of one that has looked cannot use it; is_available() is a look."""
    code = f"""
import sys, torch
def look(*_, **__): raise SystemExit("it looked at the GPU")
for name in ("is_available", "device_count", "init", "_lazy_init", "get_device_name", "synchronize"):
    setattr(torch.cuda, name, look)
sys.path.insert(0, {str(BENCH)!r})
import gpu_smoke, gpu_time
assert sum(len(gpu_smoke.samples(entry, "triton")) for entry in gpu_smoke.TABLE.values()) > 50
assert sum(len(gpu_time.cases_of(script)) for script in gpu_time.SCRIPTS) > 20
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(VEILKERN_BENCH_DEVICE="cuda"), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_processes_of_their_own(bench, tmp_path):
    """One that dies, one that fails, one that hangs and one that finds no time: the others come to their end."""
    every = bench("forked").every

    def good(name):
        (tmp_path / name).write_text("done")

    def dies():
        os.kill(os.getpid(), signal.SIGKILL)

    tasks = [(good, ("a",)), (dies, ()), (sys.exit, (3,)), (good, ("b",))]
    assert every(tasks, until=time.time() + 60, jobs=2) == [None, "died of SIGKILL", "ended with status 1", None]
    assert (tmp_path / "a").exists() and (tmp_path / "b").exists()
    tasks, began = [(time.sleep, (60,)), (good, ("c",))], time.monotonic()
    assert every(tasks, until=time.time() + 1, jobs=1) == ["did not end in time", "was not begun in time"]
    assert time.monotonic() - began < 30
    assert not (tmp_path / "c").exists()


@interpreted
def test_values_that_are_wrong_are_told(bench, tmp_path, monkeypatch):
    smoke, rows = bench("gpu_smoke"), tmp_path / "rows.jsonl"
    smoke.one(rows, TABLE["blend"], "triton")
    plain = ops.blend
    monkeypatch.setattr(ops, "blend", lambda *a, **k: plain(*a, **k) ^ 1)
    smoke.one(rows, TABLE["blend"], "triton")
    right, wrong = rows_of(tmp_path)
    assert right["result"] == "right, 4 of 4 samples", right
    assert wrong["result"].startswith("WRONG: AssertionError: result 0: "), wrong


def test_what_is_not_called_again(bench):
    spoiled = bench("gpu_smoke").spoiled
    both = {"cuda", "triton"}
    results = {
        "right, 4 of 4 samples": set(),
        "WRONG: AssertionError: result 0": set(),
        "NOT KNOWN: was not begun in time": set(),
        "NOT KNOWN: did not end in time": {"cuda"},  # Triton's was being compiled
        "WRONG: its process died of SIGABRT": both,
        "WRONG: RuntimeError: CUDA error: an illegal memory access": both,
    }
    for result, wanted in results.items():
        rows = [{"stage": "smoke", "op": "veil_step_", "backend": name, "result": result} for name in sorted(both)]
        assert spoiled("veil_step_", rows) == wanted, result
        assert spoiled("blend", rows) == set()


class Item(SimpleNamespace):
    """What of a test pytest's hooks are given."""

    __hash__, __eq__ = object.__hash__, object.__eq__


def test_tests_that_need_a_gpu_come_first_and_others_not_at_all(bench):
    gpu_tests = bench("gpu_tests")

    def item(file: str, function: str, gpu: bool = False, **params: str):
        found = Item(path=Path(file), nodeid=f"{file}::{function}[{'-'.join(params.values())}]")
        found.callspec = SimpleNamespace(params=params)
        found.get_closest_marker = {"gpu": gpu}.get
        return found

    cuda, triton = (item("test_ops.py", "test_values", path=path) for path in ("cuda", "triton"))
    second = item("test_ops.py", "test_values", path="triton", layout="crop")
    other = item("test_ops.py", "test_b", path="triton")
    alone, host = item("test_gpu.py", "test_a", True), item("test_ops.py", "test_values", path="avx2")
    left, items = [], [host, triton, second, other, cuda, alone]
    hook = SimpleNamespace(pytest_deselected=lambda items: left.extend(items))
    gpu_tests.pytest_collection_modifyitems(SimpleNamespace(hook=hook), items)
    assert items == [alone, cuda, triton, other, second] and left == [host]
    chosen = {path.stem for path in gpu_tests.files()}
    assert {"test_gpu", "test_gpu_protector", "test_ops", "test_triton", "test_cuda"} <= chosen
    assert not {"test_gpu_script", "test_bank", "test_paper"} & chosen


def test_rows_of_stages_become_a_row_a_case(bench):
    rows = bench("rows")
    stages = [
        {"stage": "time", "ours_ms": 2.0, "served": "cuda", "x_triton": 1.5, "x_copy_time": 2.0},
        {"stage": "eager", "ours_ms": 2.1, "x_eager": 9.0, "x_copy_time": 2.1},
        {"stage": "compile", "mode": "default", "ours_ms": 2.0, "x_compile": 3.0, "x_copy_time": 2.2},
        {"stage": "compile", "mode": "max-autotune", "ours_ms": 2.0, "x_compile_max_autotune": 2.5, "x_copy_time": 2.2},
        {"stage": "compile", "size": "9 photos", "left_out": "no time"},
    ]
    found = [CASE | MACHINE | stage for stage in stages]
    assert rows.merged(found[1:2])[0]["x_eager"] == 9.0  # without `time`, what there is
    (row,) = rows.merged(found)
    assert row["ours_ms"] == 2.0 and row["x_copy_time"] == 2.0 and row["x_eager"] == 9.0
    times = "2.0 | 1.0 | 50% | 2.0 | 9.0 | 2.5 (compile_max_autotune) | triton 1.5, compile 3.0"
    assert rows.table([row])[2] == f"| blend (cuda) | 9 photos | {times} |"
    page = rows.report([*found, {"stage": "copy", "gb_s": 4300.0}])
    assert "4300.0 GB/s" in page and "- compile: blend: 9 photos: left out, no time" in page


def test_the_table_of_a_gpu(bench, tmp_path):
    """Named after it; what people have written around the table stays; of a line that was cut off nothing is read."""
    run, measured = bench("run"), tmp_path / "rows.jsonl"
    case = CASE | MACHINE | {"stage": "time", "ours_ms": 2.0, "x_copy_time": 2.0, "served": "cuda", "x_triton": 1.5}
    measured.write_text(json.dumps(case) + "\n" + json.dumps(case | {"case": 1})[:-9])
    page = tmp_path / "nvidia-z9.md"
    page.write_text("# NVIDIA Z9\n\nWords of ours.\n")
    for speed in (2.0, 4.0):
        run.of_a_gpu(measured, tmp_path)
        text = page.read_text()
        assert text.startswith(
            "# NVIDIA Z9\n\nWords of ours.\n\n<!-- bench -->\nMade by `bench/gpu.sh`. NVIDIA Z9, CUDA 13.0"
        )
        assert text.count("| blend (cuda) |") == text.count("<!-- bench -->") == 1 and f"| {speed} |" in text, text
        measured.write_text(measured.read_text().replace('"ours_ms": 2.0', '"ours_ms": 4.0'))
    assert page.with_suffix(".svg").is_file() and page.with_suffix(".jsonl").read_text().count("\n") == 1
