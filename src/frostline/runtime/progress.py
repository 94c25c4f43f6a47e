"""Progress for people: a bar with rate and time left on a terminal, one plain line elsewhere."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_log = logging.getLogger(__name__)

CONSOLE = Console(stderr=True, markup=False, emoji=False)
"""One for all, so that the bars of the work at hand appear below a table that is live on it."""
_WIDE = 140  # columns


@contextmanager
def track(name: str, total: int, unit: str, start: int = 0) -> Iterator[Callable[..., None]]:
    """Yield a function that reports that so many more `unit`s of `total` are done; `start` were done before.

    It also takes a text, which is shown beside the bar where the terminal is wide enough.
    """
    begun, done = time.monotonic(), 0
    progress = Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        *([TextColumn("{task.fields[told]}")] if CONSOLE.width >= _WIDE else []),
        console=CONSOLE,
        disable=not (CONSOLE.is_terminal and _log.isEnabledFor(logging.INFO)),
        transient=True,
    )
    task = progress.add_task(name, total=total, completed=start, rate="", told="")

    def rate() -> str:
        return f"{done / max(time.monotonic() - begun, 1e-9):,.0f} {unit}/s"

    def advance(count: int, told: str = "") -> None:
        nonlocal done
        done += count
        progress.update(task, advance=count, rate=rate(), told=told)

    with progress:
        yield advance
    _log.info("%s: %s %s in %.1f s (%s)", name, f"{done:,}", unit, time.monotonic() - begun, rate())
