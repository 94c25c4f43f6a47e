"""A background process, for a library that takes long to import: there it is imported while others are here.

Both processes hold one end of a channel. What one tells, the other hears, in order.
"""

import gc
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

from frostline.runtime.errors import FrostlineError
from frostline.runtime.process_pool import start_worker

_PATIENCE = 5.0
"""Seconds that who interrupts waits for a background process that is busy, with a lost server say."""


class Channel:
    """One end of the channel between a process and its background process."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def tell(self, message: object) -> None:
        """Send `message`, anything that can be pickled; where the other process has ended, nobody hears it."""
        with suppress(ConnectionError):
            self._connection.send(message)

    def hear(self) -> Any:
        """The next message, once it comes. Raises it where it is an exception, and FrostlineError where the other died.

        A background process does not outlive the one that started it: it ends here, and leaves what it was at as it is.
        """
        try:
            message = self._connection.recv()
        except (EOFError, ConnectionError):
            if multiprocessing.parent_process():
                os._exit(1)
            raise FrostlineError("the process beside this one has died, for want of memory most likely.") from None
        if isinstance(message, BaseException):
            raise message
        return message

    def ask(self, message: object) -> Any:
        """Tell the background process `message` and return its answer.

        Raises the FrostlineError or OSError with which it ended.
        """
        self.tell(message)
        return self.hear()


class _FailedError(Exception):
    """What a background process hears where the one that started it has failed."""


@contextmanager
def background_process(function: Callable[..., None], *arguments: object) -> Iterator[Channel]:
    """Meanwhile run `function` in a process of its own, with its end of a channel before `arguments`; yield this end.

    Where this process fails or is interrupted, what the other hears next is an exception: KeyboardInterrupt in the
    latter case. Where it is killed, the other ends at once.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(function, theirs, arguments), daemon=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # as in `process_pool.mapped`
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    theirs.close()
    channel = Channel(ours)
    try:
        yield channel
    except KeyboardInterrupt:
        channel.tell(KeyboardInterrupt())
        process.join(_PATIENCE)
        process.kill()
        raise
    except BaseException:
        channel.tell(_FailedError())
        raise
    finally:
        ours.close()
        process.join()


def _run(function: Callable[..., None], connection: Connection, arguments: tuple[object, ...]) -> None:
    start_worker()
    channel = Channel(connection)
    try:
        function(channel, *arguments)
    except (FrostlineError, OSError) as error:
        channel.tell(error)
    except (KeyboardInterrupt, _FailedError):
        pass  # the other process says what happened
    gc.freeze()  # as at the end of `stages.run_stage`
