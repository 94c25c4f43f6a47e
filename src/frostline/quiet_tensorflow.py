"""The one place that imports TensorFlow and Keras: `from frostline.quiet_tensorflow import keras, tf`.

TensorFlow's C++ code writes notices to the process' stderr while it is imported, before TF_CPP_MIN_LOG_LEVEL applies.
They are held back here, and shown only where the import fails.
"""

import logging
import os
import tempfile

from frostline.stderr import stderr_into

__all__ = ["keras", "tf"]


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with tempfile.TemporaryFile() as _held_back:
    try:
        with stderr_into(_held_back):
            import keras
            import tensorflow as tf
    except BaseException:
        _held_back.seek(0)
        os.write(2, _held_back.read())
        raise

for name in ("absl", "tensorflow"):  # of retraced functions, of deprecated options
    logging.getLogger(name).setLevel(logging.ERROR)
keras.config.disable_interactive_logging()  # progress is Frostline's own (see progress.py)
