"""Models that only infer: features to probabilities, and a faster copy of the frozen layers."""

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from frostline.common.files import release
from frostline.models.graph import as_model_inputs, children_count, parents
from frostline.runtime.errors import FrostlineError
from frostline.runtime.quiet_tensorflow import keras, memory_errors, tf

_log = logging.getLogger(__name__)


def inference_copy(model: keras.Model, layers: Sequence[str], precision: str) -> keras.Model:
    """A copy of the part of `model` below `layers` that only infers, faster: images → the outputs of `layers`.

    Batch norm in inference mode is a scale and a shift, which are folded into the convolution before it
    (Jacob et al. 2018, arXiv:1712.05877, section 3.2); the copy computes in `precision`, "float32" or "bfloat16".
    """
    below = keras.Model(model.inputs, [model.get_layer(name).output for name in layers])
    scaling: set[str] = set()  # layers that only scale the images
    for layer in below.layers:
        if not layer.weights and all(node.operation.name in scaling for node in parents(layer)):
            scaling.add(layer.name)
    pairs = ((layer.name, _convolution_before(layer)) for layer in below.layers)
    folded = {name: before for name, before in pairs if before is not None and before.name not in layers}
    convolutions = {convolution.name for convolution in folded.values()}

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer.name in folded:
            return keras.layers.Identity(name=layer.name, dtype=precision)
        config = layer.get_config()
        if layer.name not in scaling:  # bfloat16 would round the images
            config["dtype"] = precision
        if layer.name in convolutions:
            config["use_bias"] = True
        return type(layer).from_config(config)

    def call(layer: keras.layers.Layer, *inputs: Any, mask: Any = None, **options: Any) -> Any:
        return layer(*inputs, **options)  # Identity takes no mask

    faster = keras.models.clone_model(below, clone_function=copy, call_function=call)
    for layer in below.layers:
        if layer.name in folded:
            convolution = folded[layer.name]
            faster.get_layer(convolution.name).set_weights(_folded_weights(convolution, layer))
        elif layer.weights and layer.name not in convolutions:
            faster.get_layer(layer.name).set_weights(layer.get_weights())
    return faster


def passes_of(model: keras.Model, layers: Sequence[str]) -> list[list[str]]:
    """Those of `layers` whose outputs one `inference_copy` may give together: all but convolutions, which stand alone.

    Beside a convolution that is asked for, the batch norm after it could not be folded, and layers above it would be
    rounded otherwise than without it.
    """
    alone = [[name] for name in layers if isinstance(model.get_layer(name), _CONVOLUTIONS)]
    together = [name for name in layers if [name] not in alone]
    return [*([together] if together else []), *alone]


_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)


def _convolution_before(layer: keras.layers.Layer) -> keras.layers.Layer | None:
    """The convolution into which the batch norm `layer` can be folded: linear, and with no other layer behind it."""
    if not isinstance(layer, keras.layers.BatchNormalization):
        return None
    before = parents(layer)[0].operation
    linear = type(before) in _CONVOLUTIONS and before.activation is keras.activations.linear
    return before if linear and children_count(before) == 1 else None


def _folded_weights(convolution: keras.layers.Layer, norm: keras.layers.BatchNormalization) -> list[np.ndarray]:
    """The kernels and the bias of `convolution` that give what it and `norm` after it give."""
    scale = 1 / np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
    scale = scale * norm.gamma.numpy() if norm.scale else scale
    shift = norm.beta.numpy() - norm.moving_mean.numpy() * scale
    weights = convolution.get_weights()
    if convolution.use_bias:
        shift = shift + weights.pop() * scale
    *kernels, last = weights
    if isinstance(convolution, keras.layers.DepthwiseConv2D):  # its output channels are the last two axes
        scale = scale.reshape(last.shape[2:])
    return [*kernels, last * scale, shift]


def read_rows(features: Sequence[np.ndarray], rows: np.ndarray | slice) -> list[np.ndarray]:
    """These `rows` of each array (N, …), in memory, in its own dtype; memory maps let go of what was read."""
    read = [np.array(array[rows]) for array in features]
    for array in features:
        release(array)
    return read


def as_floats(arrays: Sequence[np.ndarray]) -> Any:
    """`arrays` (n, …) as the float32 inputs of a model."""
    # here and not in `read_rows`: NumPy takes several times as long
    return as_model_inputs([tf.cast(array, tf.float32) for array in arrays])


def input_signature(inputs: Sequence[Any]) -> Any:
    """`inputs` (anything with a shape, rows first) as tf.function sees what `as_model_inputs` makes of them."""
    return as_model_inputs([tf.TensorSpec((None, *item.shape[1:]), tf.float32) for item in inputs])


Forward = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
"""Arrays (n, …) → arrays (n, …)."""


def within_memory(forward: Forward) -> Forward:
    """`forward`, called with half as many rows, and a half of these, from when the device's memory holds no more.

    Raises FrostlineError where it does not hold what one row needs.
    """
    most = sys.maxsize

    def call(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        nonlocal most
        rows, start, parts = len(arrays[0]), 0, []
        while start < rows:
            try:
                with memory_errors():
                    parts.append(forward([array[start : start + most] for array in arrays]))
                start += most
            except tf.errors.ResourceExhaustedError as error:
                most = min(most, rows) // 2
                if not most:
                    raise FrostlineError(
                        "the memory does not hold what one image needs.\nLower preprocess.image_size."
                    ) from error
                _log.warning("the memory does not hold %d images at a time: %d are taken.", 2 * most, most)
        return parts[0] if len(parts) == 1 else [np.concatenate(items) for items in zip(*parts, strict=True)]

    return call


def predictor(model: keras.Model, batch_size: int = 64) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    """Return a function from features (arrays (N, …)) to the probabilities of `model`'s classes, (N, classes) float64.

    TensorFlow traces the model, about a second, only at the function's first call: keep it for further ones.
    """
    traced = tf.function(
        lambda inputs: model(inputs, training=False), input_signature=[input_signature(model.inputs)], autograph=False
    )
    forward = within_memory(lambda arrays: [traced(as_floats(arrays)).numpy()])

    def predict(features: Sequence[np.ndarray]) -> np.ndarray:
        parts = [np.empty((0, model.output_shape[1]), np.float32)]
        for start in range(0, len(features[0]), batch_size):
            parts += forward(read_rows(features, slice(start, start + batch_size)))
        return by_class(np.concatenate(parts).astype(np.float64))

    return predict


def by_class(output: np.ndarray) -> np.ndarray:
    """A model's `output`, the second class' probability (N, 1) or each class' (N, classes), as each class'."""
    return np.concatenate([1 - output, output], axis=1) if output.shape[1] == 1 else output
