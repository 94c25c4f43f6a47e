"""The backbone: build it, load its pretrained weights, cut it, freeze and thaw it at the frost line."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    if thaw_from == AUTO:
        below = [name for name in block_outputs(backbone) if order.index(name) < cut]
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
            f"Valid: {cut_layer} or a layer below it, e.g. {', '.join(_blocks_up_to(backbone, cut))}."
        )
    return thaw_from


def _blocks_up_to(backbone: keras.Model, position: int) -> list[str]:
    names = {layer.name for layer in backbone.layers[: position + 1]}
    return [name for name in block_outputs(backbone) if name in names]


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
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], model.output)


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
