import numpy as np
import pytest

from frostline.runtime.quiet_tensorflow import keras
from frostline.training import precision


@pytest.mark.parametrize(
    ("gpu", "flags", "expected", "why"),
    [
        (None, "fpu avx512_bf16", "bfloat16", "the processor has avx512_bf16"),
        (None, "fpu avx512f", "float32", "the processor has neither amx_bf16 nor avx512_bf16"),
        ({"device_name": "NVIDIA A100", "compute_capability": (8, 0)}, "fpu", "bfloat16", "compute capability 8.0"),
        ({"device_name": "NVIDIA B200", "compute_capability": (10, 0)}, "fpu", "bfloat16", "compute capability 10.0"),
        (
            {"device_name": "T4", "compute_capability": (7, 5)},
            "avx512_bf16",
            "float32",
            "7.5, bfloat16 needs 8.0",
        ),
        ({"device_name": "of which nothing is known"}, "avx512_bf16", "float32", "compute capability 0.0"),
    ],
)
def test_auto_asks_the_hardware_that_computes(gpu, flags, expected, why):
    chosen, said = precision.choose(gpu, set(flags.split()))
    assert chosen == expected
    assert why in said


def test_auto_is_what_this_machine_has_and_else_what_is_set():
    assert precision.resolve("auto") == precision.choose_here()[0]
    assert precision.resolve("float32") == "float32"
    assert precision.resolve("bfloat16") == "bfloat16"


def test_computing_in_changes_what_is_computed_not_what_is_stored():
    inputs = keras.Input((64,))
    hidden = keras.layers.Dense(8, name="hidden")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1, name="last")(keras.layers.Dropout(0.2)(hidden)))
    numbers = np.random.default_rng(1).normal(size=(5, 64)).astype(np.float32)
    exact = model(numbers).numpy()
    with pytest.raises(KeyError), precision.computing_in(model, "bfloat16"):
        assert [layer.compute_dtype for layer in model.layers[1:]] == ["bfloat16", "float32", "float32"]
        rounded = model(numbers).numpy()
        assert rounded.dtype == np.float32
        raise KeyError
    assert 0 < np.abs(rounded - exact).max() < 0.1
    np.testing.assert_array_equal(model(numbers), exact)
