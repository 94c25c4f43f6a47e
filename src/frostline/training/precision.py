"""What the backbone and the head compute in while training: float32, or bfloat16 where the hardware multiplies it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from frostline.config.settings import Precision
from frostline.runtime.quiet_tensorflow import keras, on_gpu, tf

AUTO = "auto"
_CPU_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
"""Without one of these, oneDNN emulates bfloat16, slower than float32."""


def resolve(precision: Precision) -> Precision:
    """Return `precision`; for "auto" "bfloat16" where this machine's GPU or processor has instructions for it.

    A GPU has them from compute capability 8.0 on (Ampere).
    """
    if precision != AUTO:
        return precision
    if on_gpu():
        gpus = tf.config.list_physical_devices("GPU")
        capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
        return "bfloat16" if capability >= (8, 0) else "float32"
    return "bfloat16" if _CPU_FLAGS & _cpu_flags() else "float32"


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return set()
    return {flag for line in lines if line.startswith("flags") for flag in line.partition(":")[2].split()}


@contextmanager
def computing_in(model: keras.Model, precision: str) -> Iterator[None]:
    """Within, the layers of `model` compute in `precision`; weights stay float32, as do dropout and the last layer.

    Dropout draws its mask in the precision it computes in (bfloat16 would round its rate); the last layer gives the
    probabilities. This is Keras' mixed precision (Micikevicius et al. 2018, arXiv:1710.03740) on layers that exist;
    bfloat16 has float32's range, so the loss needs no scaling.
    """
    exempt = keras.layers.Dropout | keras.layers.InputLayer
    layers = [layer for layer in model.layers[:-1] if not isinstance(layer, exempt)]
    before = [layer.dtype_policy for layer in layers]
    policy = {"float32": "float32", "bfloat16": "mixed_bfloat16"}[precision]
    try:
        for layer in layers:
            layer.dtype_policy = policy
        yield
    finally:
        for layer, policy_before in zip(layers, before, strict=True):
            layer.dtype_policy = policy_before
