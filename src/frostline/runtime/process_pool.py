"""A pool of processes, for work on many images that should neither fill the memory nor outlive its parent."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from frostline.runtime.errors import FrostlineError

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 3
"""So many items per process are taken before their results are asked for."""
_MOST = 61
"""The most processes that Windows can wait for."""


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """How many threads TensorFlow computes one operation with: its own variable (which launchers set), or all cores."""
    return int(os.environ.get("TF_NUM_INTRAOP_THREADS") or cores())


def limited_to(count: int) -> dict[str, str]:
    """The variables that keep TensorFlow, where it is not yet imported, to so many threads."""
    return {f"TF_NUM_{kind}_THREADS": str(count) for kind in ("INTRAOP", "INTEROP")}


def mapped(function: Callable[[Item], Result], items: Iterable[Item], processes: int) -> Generator[Result]:
    """Yield what `function` makes of each item, in order, from a few ahead of what is asked for: memory stays bounded.

    `function` is found by its name in each process: the module that holds it should import little.

    Raises FrostlineError where a process dies.
    """
    processes = max(1, min(processes, _MOST))
    # spawn: forking a process that has threads (a progress bar's, TensorFlow's) may deadlock
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), start_worker)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            # Processes start here and inherit the mask: Ctrl-C while they import would print their tracebacks.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                waiting.append(pool.submit(function, item))
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            if len(waiting) >= AHEAD * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except (BrokenProcessPool, MemoryError) as error:
        raise FrostlineError(
            f"A decoding process died, probably for want of memory ({processes} were running).\n"
            "Free some memory, or use fewer cores: put `taskset -c 0` before the command."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def start_worker() -> None:
    """In a process that works for another one: leave Ctrl-C to that one, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End when the parent was killed: a worker would wait for its next task for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
