"""What is trained in place of a model on a CPU: a copy that computes the same in less time, and gives its weights back.

Only the head's wide layer is replaced: beside the convolutions a step spends its time there, mostly on memory traffic.
"""

from typing import Any

from frostline.runtime.quiet_tensorflow import keras, on_gpu, tf

BLOCK = 1 << 20
"""Weights in a block: 4 MB, and as much for its gradient and each of Adam's moments; a core's share of the cache."""


class WideDense(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """What keras.layers.Dense computes, (N, inputs) → (N, units), from blocks (units, …) of the kernel transposed.

    The head's kernel on 37,632 flattened features has 154 MB. Its gradient as a whole is written to memory, cast, and
    read again by Adam, each time past every cache. In blocks, TensorFlow computes the gradient of one, updates that
    one, and takes the next. They are transposed since oneDNN has quick kernels for all three products of a step (of
    few rows: a batch) that way round; in the order of keras.layers.Dense one of them takes four times as long.
    """

    def __init__(self, units: int, activation: Any, name: str, dtype: Any) -> None:
        super().__init__(name=name, dtype=dtype)
        self.units, self.activation = units, activation

    def build(self, input_shape: tuple[int | None, int]) -> None:
        inputs, most = input_shape[1], max(1, BLOCK // self.units)
        self._widths = [min(most, inputs - start) for start in range(0, inputs, most)]
        self.kernels = [
            self.add_weight(name=f"kernel_{number}", shape=(self.units, width), initializer="zeros")
            for number, width in enumerate(self._widths)
        ]
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        parts = tf.split(inputs, self._widths, axis=1)
        kernels = [tf.cast(kernel, inputs.dtype) for kernel in self.kernels]
        products = [tf.matmul(kernel, part, transpose_b=True) for kernel, part in zip(kernels, parts, strict=True)]
        total = tf.transpose(tf.add_n([tf.cast(product, tf.float32) for product in products]))
        return self.activation(tf.cast(total + tf.cast(self.bias, tf.float32), inputs.dtype))

    def take(self, dense: keras.layers.Dense) -> None:
        """Take over the weights of `dense`."""
        for kernel, rows in zip(self.kernels, tf.split(dense.kernel.value, self._widths), strict=True):
            kernel.assign(tf.transpose(rows))
        self.bias.assign(dense.bias.value)

    def give(self, dense: keras.layers.Dense) -> None:
        """Give `dense` the weights."""
        dense.kernel.assign(tf.concat([tf.transpose(kernel.value) for kernel in self.kernels], axis=0))
        dense.bias.assign(self.bias.value)


def with_fast_layers(model: keras.Model) -> keras.Model:
    """What to train in place of `model`: a copy with `WideDense` where it helps, else `model` itself.

    GPUs have no need of it.
    """
    wide = {layer.name for layer in model.layers if _is_wide(layer)}
    if not wide or on_gpu():
        return model

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer.name in wide:
            return WideDense(layer.units, layer.activation, layer.name, layer.dtype_policy)
        return type(layer).from_config(layer.get_config())

    copied = keras.models.clone_model(model, clone_function=copy)
    copy_values(model, copied)
    return copied


def _is_wide(layer: keras.layers.Layer) -> bool:
    if not isinstance(layer, keras.layers.Dense) or not layer.trainable or not layer.use_bias:
        return False
    return len(layer.kernel.shape) == len(layer.input.shape) == 2 and layer.kernel.shape[0] * layer.units > BLOCK


def copy_values(source: keras.Model, target: keras.Model) -> None:
    """Give `target` the values of all variables of `source`, a model of the same layers, wide ones in blocks or not."""
    if source is target:
        return
    for old, new in zip(source.layers, target.layers, strict=True):
        if isinstance(old, WideDense) and not isinstance(new, WideDense):
            old.give(new)
        elif isinstance(new, WideDense) and not isinstance(old, WideDense):
            new.take(old)
        else:
            for variable, other in zip(old.variables, new.variables, strict=True):
                other.assign(variable.value.read_value())
