"""What is trained in place of a model computes what the model computes, and gives its weights back."""

import numpy as np
import pytest

from frostline.runtime.quiet_tensorflow import keras, tf
from frostline.training import fast_layers
from frostline.training.fast_layers import WideDense, copy_values, with_fast_layers


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Seven inputs in blocks of three: the last has one."""
    monkeypatch.setattr(fast_layers, "BLOCK", 3 * 5)


def dense_model(**options):
    inputs = keras.Input((7,))
    dense = keras.layers.Dense(5, "relu", bias_initializer="ones", name="dense", **options)
    return keras.Model(inputs, keras.layers.Dense(1, name="end")(dense(inputs)))


def step(model, inputs):
    """The outputs in training, and the gradients of the sum of their squares."""
    weights = [weight.value for weight in model.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = model(inputs, training=True)
        loss = tf.reduce_sum(outputs**2)
    of_inputs, *of_weights = tape.gradient(loss, [inputs, *weights])
    return outputs, of_inputs, of_weights


def normal(*shape):
    return tf.constant(np.random.default_rng(1).normal(size=shape), tf.float32)


def test_a_wide_layer_computes_what_dense_computes():
    model = dense_model()
    other = with_fast_layers(model)
    wide = other.get_layer("dense")
    assert isinstance(wide, WideDense)
    assert [tuple(kernel.shape) for kernel in wide.kernels] == [(5, 3), (5, 3), (5, 1)]
    inputs = normal(9, 7)
    outputs, of_inputs, (kernel, bias, *_) = step(model, inputs)
    wide_outputs, of_wide_inputs, (*kernels, wide_bias, _, _) = step(other, inputs)
    np.testing.assert_allclose(wide_outputs, outputs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(of_wide_inputs, of_inputs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(tf.transpose(tf.concat(kernels, 1)), kernel, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(wide_bias, bias, rtol=1e-4, atol=1e-5)


def test_its_weights_go_there_and_back_to_the_last_bit():
    model, empty = dense_model(), dense_model()
    copy_values(with_fast_layers(model), empty)
    for left, right in zip(model.get_weights(), empty.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    assert not np.array_equal(model.get_weights()[0], dense_model().get_weights()[0])


def test_in_bfloat16_it_keeps_float32_weights_and_adds_up_in_float32(monkeypatch):
    """Among bfloat16 numbers, 256 + 1 is 256, and so it stays however often 1 is added."""
    monkeypatch.setattr(fast_layers, "BLOCK", 5)
    model = dense_model(dtype="mixed_bfloat16")
    model.get_layer("dense").set_weights([np.repeat([[256], *[[1]] * 6], 5, axis=1), np.zeros(5)])
    wide = with_fast_layers(model).get_layer("dense")
    assert {weight.dtype for weight in wide.weights} == {"float32"}
    output = wide(tf.ones((1, 7)))
    assert output.dtype == tf.bfloat16
    np.testing.assert_array_equal(tf.cast(output, tf.float32), np.full((1, 5), 262))


def test_what_has_nothing_to_gain_is_trained_itself():
    narrow = keras.Input((2,))
    model = keras.Model(narrow, keras.layers.Dense(5)(narrow))
    assert with_fast_layers(model) is model
    frozen = dense_model()
    frozen.trainable = False
    assert with_fast_layers(frozen) is frozen
