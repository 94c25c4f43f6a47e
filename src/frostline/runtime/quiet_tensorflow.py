"""The one place that imports TensorFlow and Keras: `from frostline.runtime.quiet_tensorflow import keras, tf`.

TensorFlow's C++ code writes notices to the process' stderr while it is imported, before TF_CPP_MIN_LOG_LEVEL applies.
They are held back here, and shown only where the import fails.

Neither ~/.keras nor the environment has a say in what is computed: results would depend on whose account runs them.
"""

import gc
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from frostline.runtime import hardware
from frostline.runtime.stderr import stderr_into

__all__ = ["keras", "memory_errors", "on_gpu", "tf", "warn_of_unused_gpu"]

_log = logging.getLogger(__name__)


@contextmanager
def _hidden(*modules: str) -> Iterator[None]:
    """Let imports of `modules` fail meanwhile, as if they were not installed, unless they are imported already."""
    hidden = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is how importlib spells it
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


_CONFIGURE = ("KERAS_", "TF_", "XLA_", "ONEDNN_", "DNNL_", "NVIDIA_TF32_")
"""Variables by which these libraries compute otherwise: with other kernels, other precision, another backend."""
_KEPT = ("TF_CONFIG", "TF_CPP_", "TF_NUM_", "TF_FORCE_GPU_ALLOW_GROWTH", "TF_GPU_ALLOCATOR")
"""The cluster, messages, the numbers of threads (which names of checkpoints hold), memory."""

for _name in [name for name in os.environ if name.startswith(_CONFIGURE) and not name.startswith(_KEPT)]:
    del os.environ[_name]
os.environ["KERAS_HOME"] = os.devnull  # no folder: keras.json is neither read nor written
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# By default TensorFlow takes nearly all memory of every GPU, and the next process finds none.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
hardware.preload_cusolver()
gc.disable()  # collecting while nothing becomes garbage: a seventh of the import's time
with tempfile.TemporaryFile() as _held_back:
    try:
        # Keras imports these where it can, a second of some four, for wrappers and galleries that are not used here.
        with stderr_into(_held_back), _hidden("sklearn", "matplotlib"):
            import keras
            import tensorflow as tf
    except Exception:
        _held_back.seek(0)
        os.write(2, _held_back.read())
        raise
    finally:
        gc.enable()
gc.freeze()  # what was imported stays

# float32 means float32: a GPU would round to TF32's 10 bits, with which features on an H200 differed by 4e-3 from a
# CPU's instead of 6e-5. Who wants speed computes in bfloat16.
tf.config.experimental.enable_tensor_float_32_execution(False)

for name in ("absl", "tensorflow"):  # of retraced functions, of deprecated options
    logging.getLogger(name).setLevel(logging.ERROR)
keras.config.disable_interactive_logging()  # progress is Frostline's own (see progress.py)


def on_gpu() -> bool:
    """Whether this process computes on a GPU: it does if TensorFlow sees any."""
    return bool(tf.config.list_physical_devices("GPU"))


_SHORT_OF_MEMORY = (("Dst tensor is not initialized",), ("No algorithm worked", "RESOURCE_EXHAUSTED"))
"""What errors of other kinds say where a GPU's memory is short: of a copy from the host, and of a convolution that
finds no room for its work (TensorFlow 2.21, common_runtime/gpu/gpu_util.cc and kernels/gpu_utils.cc)."""


@contextmanager
def memory_errors() -> Iterator[None]:
    """Raise a ResourceExhaustedError, within, for whatever TensorFlow raises where a GPU's memory is short."""
    try:
        yield
    except (tf.errors.InternalError, tf.errors.NotFoundError) as error:
        if not any(all(sign in str(error) for sign in signs) for signs in _SHORT_OF_MEMORY):
            raise
        raise tf.errors.ResourceExhaustedError(None, None, str(error)) from error


def warn_of_unused_gpu(nodes: Sequence[Path] = hardware.GPU_NODES) -> None:
    """Say in one line why this process computes on the CPU although the machine has a GPU (one of `nodes` exists).

    Nothing is said where CUDA_VISIBLE_DEVICES hides it: that is a wish.
    """
    if hardware.has_gpu(nodes) and not hardware.gpus_hidden() and not on_gpu():
        _log.warning(
            "this machine has a GPU that TensorFlow cannot use %s; computing on the CPU", hardware.why_no_gpu()
        )
