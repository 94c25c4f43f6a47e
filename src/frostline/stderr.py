"""What C code writes to the process' stderr, past Python."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO


@contextmanager
def stderr_into(file: IO[bytes]) -> Iterator[None]:
    """Send all that the process writes to file descriptor 2 into `file` meanwhile."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
