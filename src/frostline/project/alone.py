"""One command at a time in a project: DVC's locks, and one of our own for what changes its settings."""

import errno
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # comes without types
from filelock import lock_descriptor

from frostline.common.files import is_running, locked
from frostline.runtime.errors import FrostlineError

_OURS = Path(".frostline/train.lock")
_DVCS = Path(".dvc/tmp/lock")
"""Held by a DVC command, but not while a stage or an experiment runs; it names the process. A lock of the kernel."""
_STAGES = Path(".dvc/tmp/rwlock")
"""What is read and written by the stages that run, with the process and its command."""
_EXPERIMENT = Path(".dvc/tmp/exps/run/workspace/workspace.json")
"""The process of `dvc exp run`, from when it has composed its settings to its end."""
_PATIENCE = 3
"""Seconds for a command that soon ends, such as `dvc status`; as long as DVC itself waits."""


@contextmanager
def alone() -> Iterator[None]:
    """Within, no other `frostline train`, `set` or `make params` runs in this project: where one does, say so, and wait
    for its end."""
    _OURS.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(
                locked(_OURS, "another `frostline` command runs in this project; waiting for it to end.")
            )
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
            raise FrostlineError(
                f"{Path.cwd()}: this disk knows no file locks.\nMove the project to another one."
            ) from error
        yield


@contextmanager
def beside_no_dvc() -> Iterator[None]:
    """Within, a DVC command that begins waits some seconds: to change what it would read, and no more.

    Raises FrostlineError where one is at work: two would overwrite each other's settings and results.
    """
    if not _DVCS.parent.parent.is_dir():  # not set up for DVC
        yield
        return
    _DVCS.parent.mkdir(exist_ok=True)
    with _DVCS.open("a+") as file:
        last = time.monotonic() + _PATIENCE
        while not lock_descriptor(file.fileno(), blocking=False):
            if time.monotonic() > last:
                file.seek(0)
                raise _busy(*_process_in(file.read()))
            time.sleep(0.1)
        check_idle()
        yield


def check_idle() -> None:
    """Raise FrostlineError where another DVC command runs a stage or an experiment in this project.

    To be called while DVC's lock is held. What a process that is gone has left is removed where DVC would stop at it:
    another one has its number, or nobody has asked for its end.
    """
    for path in (_STAGES, _EXPERIMENT):
        try:
            holders, since = _holders(json.loads(path.read_text(encoding="utf-8"))), path.stat().st_mtime
        except (OSError, ValueError, AttributeError, TypeError):  # not there, half written, or of another DVC
            continue
        for holder in holders:
            if holder["pid"] != os.getpid() and is_running(holder["pid"], since):
                raise _busy(holder["pid"], holder.get("cmd") or _command_of(holder["pid"]))
        numbers = {holder["pid"] for holder in holders}
        if os.getpid() not in numbers and any(map(psutil.pid_exists, numbers)):
            path.unlink(missing_ok=True)


def _holders(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The processes in one of DVC's files, each with its `pid`."""
    if isinstance(content.get("pid"), int):
        return [content]
    found = [entry for locks in content.values() for entry in locks.values()]
    holders = [holder for entry in found for holder in (entry if isinstance(entry, list) else [entry])]
    return [holder for holder in holders if isinstance(holder.get("pid"), int)]


def _process_in(text: str) -> tuple[int | None, str]:
    """The process that a lock's file names, and its command; None and nothing where it names none."""
    try:
        process = int(text)
    except ValueError:
        return None, ""
    return process, _command_of(process)


def _command_of(process: int) -> str:
    try:
        return " ".join(psutil.Process(process).cmdline())
    except psutil.Error:
        return ""


def _busy(process: int | None, command: str) -> FrostlineError:
    words = command.split(" ")
    after = next((number for number, word in enumerate(words) if Path(word).stem in ("dvc", "__main__")), None)
    said = "A DVC command" if after is None else f"`{' '.join(['dvc', *words[after + 1 :]])}`"
    number = f" (process {process})" if process else ""
    return FrostlineError(f"{said} is running in this project{number}.\nWait until it has ended.")
