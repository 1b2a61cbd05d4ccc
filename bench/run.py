"""`make bench`: every benchmark, interleaved, into JSON lines; from those the table of docs/figures.md and a plot.

`python bench/run.py --device cuda` (a step of bench/gpu.sh) measures the Triton kernels instead: JSON lines, plot and
table go into files of bench/results/ named after the GPU. A benchmark that fails is told at the end and the others go
on.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import subprocess
import sys
import time
import traceback
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
RESULTS = HERE / "results"
# Those whose rows make the table; crafts have a command and a table of their own.
SCRIPTS = sorted(path for path in HERE.glob("bench_*.py") if path.stem != "bench_craft")
PLAIN = {"eager": "eager", "compile": "torch.compile"}


def best(row: dict, kind: str) -> tuple[str, float] | None:
    """The fastest rival of a kind (eager, compile): its name and how many times as long as ours it takes."""
    found = {k.removeprefix("x_"): v for k, v in row.items() if k == f"x_{kind}" or k.startswith(f"x_{kind}_")}
    return min(found.items(), key=lambda item: item[1]) if found else None


def others(row: dict) -> dict[str, float]:
    """Every other rival: other libraries, and slower formulations."""
    taken = {f"x_{b[0]}" for kind in PLAIN if (b := best(row, kind))} | {"x_copy_time"}
    return {k.removeprefix("x_"): v for k, v in row.items() if k.startswith("x_") and k not in taken}


def table(rows: list[dict]) -> list[str]:
    head = ["op", "size", "ours, ms", "GB/s", "of copy speed", "ours / copy time"]
    head += [f"fastest {label} / ours" for label in PLAIN.values()] + ["others / ours"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [row["op"], row["size"], row["ours_ms"], row["gb_s"], f"{row['share_of_copy']:.0%}", row["x_copy_time"]]
        for kind in PLAIN:
            found = best(row, kind)
            cells.append("" if found is None else f"{found[1]}" + ("" if found[0] == kind else f" ({found[0]})"))
        cells.append(", ".join(f"{name} {value}" for name, value in others(row).items()))
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return lines


def plot(rows: list[dict], path: Path) -> None:
    """How many times as long as ours each rival takes, on a logarithmic scale."""
    import matplotlib
    from common import described

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "veilkern"
    from matplotlib import pyplot as plt

    bars = []  # (label, ratio, colour)
    for row in reversed(rows):
        for name, value in reversed(others(row).items()):
            bars.append((f"{name}", value, "#b8b8b8"))
        for kind, colour in (("compile", "#4c8bf5"), ("eager", "#f0a030")):
            if found := best(row, kind):
                bars.append((found[0], found[1], colour))
        bars.append((f"{row['op']}: {row['size']}", None, ""))
    figure, axes = plt.subplots(figsize=(9, 0.24 * len(bars) + 1))
    places = range(len(bars))
    axes.barh(places, [b[1] or 0 for b in bars], color=[b[2] or "none" for b in bars])
    axes.set_yticks(places, [b[0] for b in bars], fontsize=7)
    for place, (_, value, _) in zip(places, bars, strict=True):
        if value is None:
            axes.get_yticklabels()[place].set_fontweight("bold")
        else:
            axes.text(value * 1.05, place, f"{value:g} x", va="center", fontsize=7)
    axes.set_xscale("log")
    axes.set_xlim(0.5, 3 * max(b[1] or 1 for b in bars))
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("time / time of veilkern")
    axes.set_title(described(rows[0]), fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def results_file(device: str) -> Path:
    """Where the rows go: cpu.jsonl, or a file named after the GPU."""
    if device == "cpu":
        return RESULTS / "cpu.jsonl"
    import torch

    from veilkern.backends.launch_tables import file_name

    if not torch.cuda.is_available():
        sys.exit("no GPU here: nothing measured, nothing claimed")
    return RESULTS / file_name(torch.cuda.get_device_name()).replace(".json", ".jsonl")


def write_figures(text: str) -> None:
    """Put the table between its marks in docs/figures.md."""
    path, begin, end = HERE.parent / "docs" / "figures.md", "<!-- bench -->", "<!-- end of bench -->"
    old = path.read_text()
    path.write_text(old[: old.index(begin) + len(begin)] + "\n" + text + "\n" + old[old.index(end) :])


def in_a_process(script: Path, results: Path, seconds: float | None) -> bool:
    """Run a benchmark in a process of its own; whether it came to its end in time."""
    try:
        command = [sys.executable, script, "--out", results]
        return subprocess.run(command, check=False, timeout=seconds).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def in_this_process(script: Path, results: Path, seconds: float | None) -> bool:
    """Run a benchmark here: on a GPU the start of a process takes longer than what it measures."""
    command, sys.argv = sys.argv, [str(script), "--out", str(results)]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except Exception:  # a rival's, or the compiler's: the others go on
        traceback.print_exc()
        return False
    finally:
        sys.argv = command
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--seconds", type=float, help="begin no benchmark after this long (and, on the CPU, stop one that is running)"
    )
    options = parser.parse_args()
    device, begun = options.device, time.monotonic()
    results = results_file(device)
    results.unlink(missing_ok=True)
    os.environ["VEILKERN_BENCH_DEVICE"] = device
    failed = []
    for script in SCRIPTS:
        left = None if options.seconds is None else options.seconds - (time.monotonic() - begun)
        if left is not None and left < 0:
            failed.append(f"{script.name} (no time left)")
        elif not (in_this_process if device == "cuda" else in_a_process)(script, results, left):
            failed.append(script.name)
    if (failed and device == "cpu") or not results.exists():
        sys.exit(f"failed: {', '.join(failed)}")
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    plot(rows, results.with_suffix(".svg"))
    from common import described  # it looks at the device when it is loaded

    text = described(rows[0]) + "\n\n" + "\n".join(table(rows))
    if device == "cpu":
        write_figures(text)
    else:
        missing = f"\n\nFailed: {', '.join(failed)}." if failed else ""
        results.with_suffix(".md").write_text(f"Made by `bench/gpu.sh`. {text}{missing}\n")
        print(text + missing)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
