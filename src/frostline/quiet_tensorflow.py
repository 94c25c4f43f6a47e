"""The one place that imports TensorFlow and Keras: `from frostline.quiet_tensorflow import keras, tf`.

TensorFlow's C++ code writes notices to the process' stderr while it is imported, before TF_CPP_MIN_LOG_LEVEL applies.
They are held back here, and shown only where the import fails.
"""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["keras", "tf"]


@contextmanager
def _stderr_held_back() -> Iterator[None]:
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with _stderr_held_back():
    import keras
    import tensorflow as tf

for name in ("absl", "tensorflow"):  # of retraced functions, of deprecated options
    logging.getLogger(name).setLevel(logging.ERROR)
keras.config.disable_interactive_logging()  # progress is Frostline's own (see progress.py)
