"""What Ctrl-C and SIGTERM do to a command: they end it while it imports; later they raise, so that it cleans up."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = "interrupted; `dvc repro` goes on from here.\n"
_AGAIN = 0.1
"""Seconds until an interrupt that was lost comes again: what has lost it is over by then, or loses it once more."""


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
    """Within, Ctrl-C and SIGTERM raise KeyboardInterrupt where they are not ignored: what is begun is cleaned up."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    heard = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in heard:
        signal.signal(number, signal.default_int_handler)
    hook = sys.unraisablehook
    lose_no_interrupt()
    try:
        yield
    except Exception as error:
        if _was_interrupted(error):  # and then could not close what it was at: an archive with half an entry, say
            raise KeyboardInterrupt from error
        raise
    finally:
        sys.unraisablehook = hook
        for number, handler in heard.items():
            signal.signal(number, handler)


def take_sigterm_as_ctrl_c() -> None:
    """Let SIGTERM raise KeyboardInterrupt from now on, and lose neither."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    lose_no_interrupt()


def lose_no_interrupt() -> None:
    """Interrupt anew where the KeyboardInterrupt came up in a callback whose exceptions Python ignores.

    Such are `__del__` and those of weak references and of garbage collection, of which TensorFlow has many: Python
    would print "Exception ignored in", and the process go on to its end.
    """
    before = sys.unraisablehook

    def interrupt_again(unraisable: "sys.UnraisableHookArgs") -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            before(unraisable)
            return
        # Not at once: it would be raised here, and ignored as well. SIGINT may be what a script has ignored.
        raises = signal.getsignal(signal.SIGTERM) is signal.default_int_handler
        number = signal.SIGTERM if raises else signal.SIGINT
        timer = threading.Timer(_AGAIN, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()

    sys.unraisablehook = interrupt_again


def _was_interrupted(error: BaseException | None) -> bool:
    return error is not None and (isinstance(error, KeyboardInterrupt) or _was_interrupted(error.__context__))
