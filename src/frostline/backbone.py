"""The backbone: build it, load its pretrained weights, cut it, freeze and thaw it at the frost line."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from frostline.errors import FrostlineError
from frostline.quiet_tensorflow import keras

AUTO = "auto"


def build_backbone(picture_size: int, weights: Path) -> keras.Model:
    """Build InceptionV3 without its top and load `weights`.

    Takes pictures (N, picture_size, picture_size, 3), RGB from 0 to 255: the scaling to InceptionV3's own range
    of -1 to 1 is the model's first layer, so that a saved model asks nothing of its user.

    Raises FrostlineError where `weights` does not fit the network.
    """
    keras.utils.clear_session()  # layer names must not depend on what this process built before
    shape = (picture_size, picture_size, 3)
    pictures = keras.Input(shape, name="pictures")
    scaled = keras.layers.Rescaling(1 / 127.5, offset=-1, name="scale")(pictures)
    backbone = keras.applications.InceptionV3(include_top=False, weights=None, input_tensor=scaled, input_shape=shape)
    try:
        backbone.load_weights(weights)
    except (ValueError, KeyError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FrostlineError(f"{weights} does not fit InceptionV3 without its top: {reason}") from error
    return backbone


def find_layer(backbone: keras.Model, name: str, key: str) -> keras.layers.Layer:
    """Return the layer called `name`; the error for an unknown one names the setting `key` and what is valid."""
    names = [layer.name for layer in backbone.layers]
    if name not in names:
        blocks = ", ".join(block_outputs(backbone))
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise FrostlineError(f"{key} is {name!r}: no such layer.{hint}\nValid: {blocks}, or any layer between.")
    return backbone.get_layer(name)


def block_outputs(backbone: keras.Model) -> list[str]:
    """Names of the layers that end a block (mixed0 to mixed10), from the picture upwards."""
    return [layer.name for layer in backbone.layers if re.fullmatch(r"mixed\d+", layer.name)]


def resolve_thaw_from(backbone: keras.Model, cut_layer: str, thaw_from: str) -> str:
    """Return the name of the layer at the frost line: `thaw_from`, or for "auto" one block below `cut_layer`.

    Raises FrostlineError for an unknown layer, for a frost line above the cut, and where nothing lies below the cut.
    """
    order = [layer.name for layer in backbone.layers]
    cut = order.index(find_layer(backbone, cut_layer, "model.cut_layer").name)
    blocks = [name for name in block_outputs(backbone) if order.index(name) <= cut]
    if thaw_from == AUTO:
        below = [name for name in blocks if name != cut_layer]
        if not below:
            raise FrostlineError(
                f"finetune.thaw_from is auto, but no block lies below model.cut_layer={cut_layer}.\n"
                "Name the layer from which to thaw."
            )
        return below[-1]
    line = order.index(find_layer(backbone, thaw_from, "finetune.thaw_from").name)
    if line > cut:
        raise FrostlineError(
            f"finetune.thaw_from is {thaw_from!r}, above model.cut_layer={cut_layer!r}: no layer would be thawed.\n"
            f"Valid: {cut_layer} or a layer below it, e.g. {', '.join(blocks)}."
        )
    return thaw_from


def frontier(model: keras.Model, thaw_from: str) -> list[str]:
    """Names of the frozen layers whose outputs the layers above the frost line take in.

    A layer without weights at the line itself (mixed6 is a concatenation) counts as frozen: it has nothing to learn,
    so its output, one tensor, can be computed once. At a block's end the frontier is that one layer.
    """
    layers = model.layers
    line = [layer.name for layer in layers].index(thaw_from)
    first_thawed = line if layers[line].weights else line + 1
    frozen = {layer.name for layer in layers[:first_thawed]}
    feeding = {
        node.operation.name
        for layer in layers[first_thawed:]
        for node in _parents(layer)
        if node.operation.name in frozen
    }
    return [layer.name for layer in layers if layer.name in feeding]


def _parents(layer: keras.layers.Layer) -> list[Any]:
    return list(layer._inbound_nodes[0].parent_nodes)


def part(model: keras.Model, start: Sequence[str]) -> keras.Model:
    """The part of `model` from the outputs of the layers `start` to its output.

    It shares the layers and their weights with `model`: training the part trains the whole.
    """
    inputs = [model.get_layer(name).output for name in start]
    return keras.Model(as_model_inputs(inputs), model.output)


def as_model_inputs(items: Sequence[Any]) -> Any:
    """One item per input of a model: as such for a model of one input, as a list for one of several."""
    return list(items) if len(items) > 1 else items[0]


def inference_copy(model: keras.Model, layers: Sequence[str], precision: str) -> keras.Model:
    """A copy of the part of `model` below `layers` that only infers, faster: pictures → the outputs of `layers`.

    Batch norm in inference mode is a scale and a shift, which are folded into the convolution before it
    (Jacob et al. 2018, arXiv:1712.05877, section 3.2); the copy computes in `precision`, "float32" or "bfloat16".
    """
    below = keras.Model(model.inputs, [model.get_layer(name).output for name in layers])
    pairs = ((layer.name, _convolution_before(layer)) for layer in below.layers)
    folded = {name: convolution for name, convolution in pairs if convolution is not None}
    convolutions = {convolution.name for convolution in folded.values()}

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer.name in folded:
            return keras.layers.Identity(name=layer.name, dtype=precision)
        config = layer.get_config()
        if not isinstance(layer, keras.layers.Rescaling):  # bfloat16 would round the pictures
            config["dtype"] = precision
        if layer.name in convolutions:
            config["use_bias"] = True
        return type(layer).from_config(config)

    def call(layer: keras.layers.Layer, *inputs: Any, mask: Any = None, **options: Any) -> Any:
        return layer(*inputs, **options)  # Identity takes no mask

    faster = keras.models.clone_model(below, clone_function=copy, call_function=call)
    for layer in below.layers:
        if layer.name in folded:
            scale = 1 / np.sqrt(layer.moving_variance.numpy() + layer.epsilon)
            scale = scale * layer.gamma.numpy() if layer.scale else scale
            shift = layer.beta.numpy() - layer.moving_mean.numpy() * scale
            convolution = folded[layer.name]
            faster.get_layer(convolution.name).set_weights([convolution.kernel.numpy() * scale, shift])
        elif layer.weights and layer.name not in convolutions:
            faster.get_layer(layer.name).set_weights(layer.get_weights())
    return faster


def _convolution_before(layer: keras.layers.Layer) -> keras.layers.Layer | None:
    """The convolution into which the batch norm `layer` can be folded: bare, and with no other layer behind it."""
    if not isinstance(layer, keras.layers.BatchNormalization):
        return None
    before = _parents(layer)[0].operation
    bare = type(before) is keras.layers.Conv2D and not before.use_bias and before.activation is keras.activations.linear
    return before if bare and len(before._outbound_nodes) == 1 else None


def freeze(model: keras.Model, backbone: keras.Model) -> None:
    """Freeze the layers that `model` has from `backbone`; its head learns."""
    frozen = set(backbone.layers)
    for layer in model.layers:
        layer.trainable = layer not in frozen


def thaw(model: keras.Model, thaw_from: str) -> None:
    """Freeze every layer below `thaw_from`, thaw it and every layer after it, the head included."""
    above = False
    for layer in model.layers:
        above = above or layer.name == thaw_from
        layer.trainable = above
