"""`make bench`: every benchmark, interleaved, into JSON lines; from those the table of docs/figures.md and a plot.

A benchmark that fails is told at the end and the others go on. `python bench/run.py --rows FOLDER/rows.jsonl` measures
nothing: of what bench/gpu.sh wrote on a GPU it makes JSON lines, plot and table in bench/results/, named after the GPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from rows import append, best, described, merged, others, read, report, table

HERE = Path(__file__).parent
RESULTS = HERE / "results"
# Those whose rows make the table; crafts have a command and a table of their own.
SCRIPTS = sorted(path for path in HERE.glob("bench_*.py") if path.stem != "bench_craft")


def plot(rows: list[dict], path: Path) -> None:
    """How many times as long as ours each rival takes, on a logarithmic scale."""
    import matplotlib

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


def write_between(path: Path, text: str) -> None:
    """Put the text between its marks in a page; at its end, with marks, where it has none."""
    begin, end = "<!-- bench -->", "<!-- end of bench -->"
    old = path.read_text() if path.is_file() else ""
    if begin not in old:
        old = f"{old.rstrip()}\n\n{begin}\n{end}\n".lstrip()
    path.write_text(old[: old.index(begin) + len(begin)] + "\n" + text + "\n" + old[old.index(end) :])


def in_a_process(script: Path, results: Path, seconds: float | None) -> bool:
    """Run a benchmark in a process of its own; whether it came to its end in time."""
    try:
        command = [sys.executable, script, "--out", results]
        return subprocess.run(command, check=False, timeout=seconds).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def of_a_gpu(path: Path, results: Path) -> None:
    """What bench/gpu.sh has measured, into files of `results` named after the GPU."""
    from veilkern.backends.launch_tables import file_name

    rows = read(path)
    cases = merged(rows)
    if not cases or any(row.get("dry") for row in rows):
        sys.exit(f"{path}: {'nothing that was measured' if not cases else 'a dry run'}: nothing is claimed")
    page = results / file_name(cases[0]["gpu"]).replace(".json", ".md")
    kept = page.with_suffix(".jsonl")
    kept.unlink(missing_ok=True)
    for row in cases:
        append(kept, row)
    write_between(page, f"Made by `bench/gpu.sh`. {report(rows)}")
    plot(cases, page.with_suffix(".svg"))
    print(page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, help="measure nothing: the table of what bench/gpu.sh wrote here")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where that table goes")
    parser.add_argument("--seconds", type=float, help="begin no benchmark after this long, stop one that is running")
    options = parser.parse_args()
    if options.rows is not None:
        of_a_gpu(options.rows, options.results)
        return
    results, begun, failed = RESULTS / "cpu.jsonl", time.monotonic(), []
    results.unlink(missing_ok=True)
    for script in SCRIPTS:
        left = None if options.seconds is None else options.seconds - (time.monotonic() - begun)
        if left is not None and left < 0:
            failed.append(f"{script.name} (no time left)")
        elif not in_a_process(script, results, left):
            failed.append(script.name)
    if failed or not results.exists():
        sys.exit(f"failed: {', '.join(failed)}")
    rows = read(results)
    plot(rows, results.with_suffix(".svg"))
    write_between(HERE.parent / "docs" / "figures.md", described(rows[0]) + "\n\n" + "\n".join(table(rows)))


if __name__ == "__main__":
    main()
