"""A sweep on the terminal: the live table while it runs, and the ranking at its end."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from frostline.common.phase_names import PHASES
from frostline.runtime.durations import in_words
from frostline.runtime.progress import CONSOLE
from frostline.sweep.results import (
    AFTER,
    Record,
    Setting,
    counted_as,
    has_finished,
    headline,
    label,
    loss_text,
    rank,
    read_trials,
    reason,
    status,
    swept_keys,
    swept_values,
    test_line,
    unfinished,
)

if TYPE_CHECKING:
    from frostline.studies.answer import Answer

_POLL = 0.5  # seconds
_SHOWN = 10  # rows of the live table


@contextmanager
def watching(folder: Path, total: int) -> Iterator[None]:
    """Meanwhile show the trials that appear in `folder`, of `total`: a live table on a terminal, lines elsewhere.

    The folder is watched, not the trials' process: they may run in others.
    """
    stop = threading.Event()
    live = Live(console=CONSOLE, transient=True, auto_refresh=False) if CONSOLE.is_terminal else None
    watcher = threading.Thread(target=_watch, args=(folder, total, live, stop), daemon=True)
    if live:
        live.start()
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
        if live:
            live.stop()


def _watch(folder: Path, total: int, live: Live | None, stop: threading.Event) -> None:
    begun = last = time.monotonic()
    seen: set[str] = set()
    worked = 0
    ending = False
    while not ending:
        ending = stop.wait(_POLL)
        trials = read_trials(folder)
        new = [trial for trial in trials if trial["trial"] not in seen]
        now = time.monotonic()
        if new:
            worked += len(new) if now - last > 2 * _POLL else 0  # a trial that comes at once was taken from disk
            last = now
        seen.update(trial["trial"] for trial in new)
        seconds = (now - begun) / worked * (total - len(trials)) if worked else None
        if live:
            live.update(_live_table(trials, total, seconds), refresh=True)
        elif new:
            for trial in new:
                CONSOLE.print(_line(trial), soft_wrap=True, highlight=False, markup=False)
            CONSOLE.print(_progress(trials, total, seconds), soft_wrap=True, highlight=False, markup=False)


def _progress(trials: Sequence[Record], total: int, seconds: float | None) -> str:
    left = f"; about {in_words(seconds)} left" if seconds and len(trials) < total else ""
    return f"{len(trials)}/{total} trials{left}. {headline(trials)}"


def _line(trial: Record) -> str:
    values = label(swept_values(trial))
    if has_finished(trial):
        losses = ", ".join(f"{trial[phase]['validation/loss']:.4f} after {AFTER[phase]}" for phase in PHASES)
        return f"{values}: validation loss {losses}"
    return f"{values}: {status(trial)}, {reason(trial)}"


def _live_table(trials: Sequence[Record], total: int, seconds: float | None) -> Table:
    settings, lost = rank(trials), unfinished(trials)
    table = _table(f"{len(trials)} of {total} trials", settings[:_SHOWN], lost[-3:], trials)
    left = f"about {in_words(seconds)} left" if seconds else "time left unknown yet"
    table.caption = f"{left}; best first, by validation loss of the better phase"
    return table


def print_trials(trials: Sequence[Record]) -> None:
    """Print the ranking to stdout, best validation loss first, then the trials that did not finish and why."""
    lost = unfinished(trials)
    title = f"{len(trials)} trial{'s' * (len(trials) != 1)} by validation loss of the better phase"
    console = Console(markup=False, emoji=False)  # a class or an error may have brackets
    if not console.is_terminal:  # a log file has room for long names
        console = Console(width=200, markup=False, emoji=False)
    console.print(_table(title, rank(trials), lost, trials))


def _table(title: str, settings: Sequence[Setting], lost: Sequence[Record], trials: Sequence[Record]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD)
    table.add_column("setting", overflow="fold")
    counted = counted_as(trials)
    for column in (counted, "transfer loss", "fine-tuning loss", "accuracy"):
        table.add_column(column, justify="right", no_wrap=True)
    if lost or any(setting.unfinished for setting in settings):
        table.add_column("", overflow="fold")
    for setting in settings:
        table.add_row(
            setting.label,
            str(len(setting.trials)),
            *(loss_text(setting, phase) for phase in PHASES),
            f"{setting.mean(figure='accuracy'):.4f}",
            *([f"{setting.unfinished} more {counted} did not finish"] if setting.unfinished else []),
        )
    keys = swept_keys(trials)
    for trial in lost:
        values = {key: value for key, value in swept_values(trial).items() if key in keys}
        style = "red" if status(trial) == "failed" else "dim"
        table.add_row(label(values), "", "", "", "", f"{status(trial)}: {reason(trial)}", style=style)
    return table


def print_answer(answer: "Answer", page: Path, rebuild: str) -> None:
    """Print to stdout what a study answers, what to do next, and where its page is; `rebuild`: see `describe`."""
    lines = [answer.sentence, *answer.notes]
    if answer.take is not None:
        lines.append(f"Train it on the prepared splits, with a model to use: {rebuild}")
    Console().print(*lines, f"Report: {page}", sep="\n", soft_wrap=True, highlight=False, markup=False)


def print_summary(
    trials: Sequence[Record], test: Mapping[str, float] | None, close: str, folder: Path, rebuild: str
) -> None:
    """Print to stdout which trial won, and, apart from the ranking, how it does on the test set; `rebuild`: see
    `describe`."""
    lines = [headline(trials), *([close] if close else [])]
    if test:
        lines += [f"On the test set, looked at once, for this trial only: {test_line(test)}"]
        lines += [f"Rebuild it through the pipeline: {rebuild}"]
    Console().print(*lines, f"Files: {folder}", sep="\n", soft_wrap=True, highlight=False, markup=False)
