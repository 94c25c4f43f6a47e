"""What Ctrl-C and SIGTERM do to a command: nothing while it imports but to end it, then an exception that cleans up."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = "interrupted; `dvc repro` goes on from here.\n"


def end_when_interrupted() -> None:
    """Let Ctrl-C and SIGTERM end this process at once, with one line: what imports takes seconds and begins nothing.

    An exception raised within an import may come out as another one.
    """
    stderr = os.dup(2)  # what it is now: an import may send it elsewhere

    def end_at_once(number: int, frame: FrameType | None) -> None:
        os.write(stderr, INTERRUPTED.encode())
        os._exit(130)

    signal.signal(signal.SIGTERM, end_at_once)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # it is ignored in the background of a script
        signal.signal(signal.SIGINT, end_at_once)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let both raise KeyboardInterrupt meanwhile, where they are not ignored, so that what is begun is cleaned up."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    heard = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in heard:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    except Exception as error:
        if _was_interrupted(error):  # and then could not close what it was at: an archive with half an entry, say
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)


def _was_interrupted(error: BaseException | None) -> bool:
    return error is not None and (isinstance(error, KeyboardInterrupt) or _was_interrupted(error.__context__))
