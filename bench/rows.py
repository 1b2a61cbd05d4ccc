"""Rows of measurements: JSON lines written one by one, put together by case, as tables. Needs nothing but Python.

A row of a benchmark is what common.row_of makes, with machine() beside it. bench/gpu.sh measures a case in several
stages (ours; eager PyTorch; torch.compile): each is a row of its own with `stage` and `case`, its ratios those of its
own interleaved run, and `merged` puts them together.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

PLAIN = {"eager": "eager", "compile": "torch.compile"}


def commit() -> str:
    """VEILKERN_COMMIT, or what git says: a copy of the tree may have no history, and a machine no git."""
    if given := os.environ.get("VEILKERN_COMMIT"):
        return given
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        said = ""
    return said or "unknown"


def append(path: Path, row: dict) -> None:
    """One line, in the file at once: whoever is killed next has left it there."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def read(path: Path) -> list[dict]:
    """The rows of a file, none where there is none; the last line may have been cut off."""
    lines = path.read_text().splitlines() if path.is_file() else []
    if lines and not lines[-1].endswith("}"):
        del lines[-1]
    return [json.loads(line) for line in lines]


def replace_between(path: Path, marker: str, lines: list[str]) -> None:
    """Put the lines between the marks of this name in a page."""
    begin, end = f"<!-- {marker} -->", f"<!-- end of {marker} -->"
    old = path.read_text()
    after = old[old.index(end) :]
    path.write_text(old[: old.index(begin) + len(begin)] + "\n" + "\n".join(lines) + "\n" + after)


def measured(rows: list[dict], stage: str) -> list[dict]:
    """The rows of a stage that hold figures."""
    return [row for row in rows if row.get("stage") == stage and "ours_ms" in row]


def merged(rows: list[dict]) -> list[dict]:
    """A row a case: what the stage `time` has measured, and the ratios of the rivals from the stages after it."""
    found = {(row["op"], row["case"]): dict(row) for row in measured(rows, "time")}
    for stage in PLAIN:
        for row in measured(rows, stage):
            into = found.setdefault((row["op"], row["case"]), dict(row))
            into |= {k: v for k, v in row.items() if k.startswith("x_") and k not in into}
    return sorted(found.values(), key=lambda row: (row["op"], row["case"]))


def best(row: dict, kind: str) -> tuple[str, float] | None:
    """The fastest rival of a kind (eager, compile): its name and how many times as long as ours it takes."""
    found = {k.removeprefix("x_"): v for k, v in row.items() if k == f"x_{kind}" or k.startswith(f"x_{kind}_")}
    return min(found.items(), key=lambda item: item[1]) if found else None


def others(row: dict) -> dict[str, float]:
    """Every other rival: other libraries, slower formulations, and the backend that does not serve."""
    taken = {f"x_{b[0]}" for kind in PLAIN if (b := best(row, kind))} | {"x_copy_time"}
    return {k.removeprefix("x_"): v for k, v in row.items() if k.startswith("x_") and k not in taken}


def table(rows: list[dict]) -> list[str]:
    """A line a case; the backend that served it, where several could, behind the op."""
    head = ["op", "size", "ours, ms", "GB/s", "of copy speed", "ours / copy time"]
    head += [f"fastest {label} / ours" for label in PLAIN.values()] + ["others / ours"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        op = row["op"] + (f" ({row['served']})" if row.get("served") else "")
        cells = [op, row["size"], row["ours_ms"], row["gb_s"], f"{row['share_of_copy']:.0%}", row["x_copy_time"]]
        for kind in PLAIN:
            found = best(row, kind)
            cells.append("" if found is None else f"{found[1]}" + ("" if found[0] == kind else f" ({found[0]})"))
        cells.append(", ".join(f"{name} {value}" for name, value in others(row).items()))
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return lines


def described(about: dict) -> str:
    """common.machine() as a line of text."""
    gpu = f"{about['gpu']}, CUDA {about['cuda']}, torch.compile {about['compile']}; " if "gpu" in about else ""
    return (
        f"{gpu}{about['cpu']}, {about['threads']} threads, {about['backend']}, torch {about['torch']}, Python "
        f"{about['python']}, commit {about['commit']}."
    )


def served(rows: list[dict]) -> list[str]:
    """Which backend gives the right values for what, or why it does not serve it: the stage `smoke`."""
    seen = [row for row in rows if row.get("stage") == "smoke"]
    names = sorted({row["backend"] for row in seen})
    lines = ["| op | " + " | ".join(names) + " |", "|" + "---|" * (1 + len(names))] if seen else []
    for op in sorted({row["op"] for row in seen}):
        cells = {row["backend"]: row["result"].replace("|", "/") for row in seen if row["op"] == op}
        lines.append(f"| {op} | " + " | ".join(cells.get(name, "not tried") for name in names) + " |")
    return lines


def missing(rows: list[dict]) -> list[str]:
    """What failed, and what there was no time for."""
    found = []
    for row in rows:
        case = ": ".join(row[k] for k in ("stage", "op", "size") if k in row)
        if "left_out" in row:
            found.append(f"{case}: left out, {row['left_out']}")
        found += [f"{case}: {name} failed, {why}" for name, why in row.get("failed", {}).items()]
    return found


def report(rows: list[dict]) -> str:
    """All of that as a page in Markdown; nothing where nothing was measured."""
    cases, parts = merged(rows), []
    if cases:
        copies = [row for row in rows if row.get("stage") == "copy"]
        copy = f" A copy on the device: {copies[0]['gb_s']} GB/s read and written." if copies else ""
        parts += [described(cases[0]) + copy, "\n".join(table(cases))]
    if lines := served(rows):
        parts.append("\n".join(lines))
    if lines := missing(rows):
        parts.append("\n".join(f"- {line}" for line in lines))
    return "\n\n".join(parts)
