"""What the backbone and the head compute in while training: float32, or bfloat16 where the hardware multiplies it."""

from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any

from frostline.config.settings import AUTO, Precision
from frostline.runtime.hardware import cpu_flags
from frostline.runtime.quiet_tensorflow import keras, tf

_CPU_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
"""Without one of these, oneDNN emulates bfloat16, slower than float32."""
_CAPABILITY = (8, 0)


def resolve(precision: Precision) -> Precision:
    """Return `precision`; for "auto" what `choose` says of this machine."""
    return choose_here()[0] if precision == AUTO else precision


def choose_here() -> tuple[Precision, str]:
    """What "auto" is on this machine, and why."""
    gpus = tf.config.list_physical_devices("GPU")
    return choose(tf.config.experimental.get_device_details(gpus[0]) if gpus else None, cpu_flags())


def choose(gpu: Mapping[str, Any] | None, flags: Set[str]) -> tuple[Precision, str]:
    """What "auto" is, "bfloat16" where the hardware multiplies it, else "float32"; and why.

    Args:
        gpu: TensorFlow's details of the GPU that computes; None: the processor does. A GPU has instructions for it
            from compute capability 8.0 on (Ampere).
        flags: the processor's.
    """
    if gpu is not None:
        capability = gpu.get("compute_capability", (0, 0))
        found = f"the GPU has compute capability {'.'.join(map(str, capability))}"
        return ("bfloat16", found) if capability >= _CAPABILITY else ("float32", f"{found}, bfloat16 needs 8.0")
    if usable := _CPU_FLAGS & flags:
        return "bfloat16", f"the processor has {' and '.join(sorted(usable))}"
    return "float32", f"the processor has neither {' nor '.join(sorted(_CPU_FLAGS))}"


@contextmanager
def computing_in(model: keras.Model, precision: str) -> Iterator[None]:
    """Within, the layers of `model` compute in `precision`; weights stay float32, as do dropout and the last layer.

    So do layers within a layer, as those of a transformer's attention.

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
