"""Progress shown while something takes long: rich's bar in a terminal, a function of the caller's, or nothing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator


class Progress:
    """Counts what is done and tells whoever shows it."""

    def __init__(self, total: int, show: Callable[[int, int], None] | None):
        self.total, self.done, self._show = total, 0, show

    def advance(self, count: int = 1) -> None:
        """`count` more are done."""
        self.done += count
        if self._show is not None:
            self._show(self.done, self.total)


@contextlib.contextmanager
def progress_bar(wanted: bool | Callable[[int, int], None] | None, total: int, title: str) -> Iterator[Progress]:
    """A Progress over `total` things. wanted: a function of (done, total), True or False, or None: a bar if stderr is a
    terminal. Without rich (the cli extra) the bar is a plain line."""
    if callable(wanted):
        yield Progress(total, wanted)
        return
    if wanted is False or (wanted is None and not sys.stderr.isatty()):
        yield Progress(total, None)
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar
    except ImportError:
        yield Progress(
            total,
            lambda done, all_: print(
                f"\r{title}: {done}/{all_}", end="" if done < all_ else "\n", file=sys.stderr, flush=True
            ),
        )
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield Progress(total, lambda done, all_: bar.update(task, completed=done, total=all_))
