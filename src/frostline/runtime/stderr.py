"""What C code writes to the process' stderr, past Python."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_one_at_a_time = threading.Lock()
"""Else one thread would save, and at last restore, what another has put in its place."""


@contextmanager
def stderr_into(file: IO[bytes]) -> Iterator[None]:
    """Send all that the process writes to file descriptor 2 into `file` meanwhile."""
    with _one_at_a_time:
        sys.stderr.flush()
        saved = os.dup(2)
        try:
            os.dup2(file.fileno(), 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Drop all that the process writes to file descriptor 2 meanwhile."""
    with Path(os.devnull).open("wb") as nowhere, stderr_into(nowhere):
        yield
