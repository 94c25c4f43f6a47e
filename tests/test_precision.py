import numpy as np
import pytest

from frostline.runtime.quiet_tensorflow import keras
from frostline.training import precision


@pytest.mark.parametrize(("flags", "expected"), [("fpu avx512_bf16", "bfloat16"), ("fpu avx512f", "float32")])
def test_auto_asks_the_processor(monkeypatch, flags, expected):
    monkeypatch.setattr(precision, "_cpu_flags", lambda: set(flags.split()))
    assert precision.resolve("auto") == expected
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
