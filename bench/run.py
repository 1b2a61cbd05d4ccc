"""`make bench`: every benchmark, interleaved, into JSON lines and the table of docs/figures.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from common import described  # noqa: E402


def main() -> None:
    out = HERE / "results" / "cpu.jsonl"
    out.unlink(missing_ok=True)
    for script in sorted(HERE.glob("bench_*.py")):
        subprocess.run([sys.executable, script, "--out", out], check=True)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    head = [
        "op",
        "size",
        "ours, ms",
        "GB/s",
        "eager / ours",
        "eager float / ours",
        "torch.compile / ours",
        "ours / copy",
    ]
    keys = ["op", "size", "ours_ms", "gb_s", "x_eager", "x_eager_float", "x_compile", "x_copy_time"]
    table = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    table += ["| " + " | ".join(str(row[k]) for k in keys) + " |" for row in rows]
    text = described(rows[0]) + "\n\n" + "\n".join(table)
    path, begin, end = HERE.parent / "docs" / "figures.md", "<!-- bench -->", "<!-- end of bench -->"
    old = path.read_text()
    path.write_text(old[: old.index(begin) + len(begin)] + "\n" + text + "\n" + old[old.index(end) :])


if __name__ == "__main__":
    main()
