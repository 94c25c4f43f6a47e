"""A model as a graph of layers: its blocks, its parts, its layers by name."""

import difflib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from frostline.models.ensemble import JOINED
from frostline.runtime.errors import FrostlineError
from frostline.runtime.quiet_tensorflow import keras


def find_layer(backbone: keras.Model, name: str, key: str) -> keras.layers.Layer:
    """Return the layer called `name`; the error for an unknown one names the setting `key` and what is valid."""
    names = [layer.name for layer in backbone.layers]
    if name not in names:
        blocks = listed(block_outputs(backbone) or names)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise FrostlineError(f"{key} is {name!r}: no such layer.{hint}\nValid: {blocks}, or any other layer.")
    return backbone.get_layer(name)


def listed(blocks: Sequence[str]) -> str:
    """`blocks` for a message, without the middle of a long list: mixed0 to mixed10 are eleven."""
    return ", ".join(blocks if len(blocks) <= 12 else [*blocks[:3], "...", *blocks[-6:]])


def block_outputs(backbone: keras.Model) -> list[str]:
    """Names of the layers that end a block, from the image upwards: mixed0 to mixed10 in InceptionV3.

    A block ends where branches are added or concatenated to one tensor through which everything passes (a cut vertex of
    the graph), or at the activation of that tensor.
    """
    layers = backbone.layers
    position = {layer.name: number for number, layer in enumerate(layers)}
    following: dict[str, list[keras.layers.Layer]] = defaultdict(list)
    for layer in layers:
        for node in parents(layer):
            following[node.operation.name].append(layer)

    ends, furthest = [], 0  # how far up anything below the layer at hand is used
    for number, layer in enumerate(layers):
        if furthest <= number and isinstance(layer, keras.layers.Add | keras.layers.Concatenate):
            end = layer
            while len(following[end.name]) == 1:
                (after,) = following[end.name]
                if after.weights or after.output.shape != end.output.shape:
                    break
                end = after
            ends.append(end.name)
        furthest = max([furthest, *(position[after.name] for after in following[layer.name])])
    return ends


def members(model: keras.Model) -> list[str]:
    """The networks whose features `model`, an ensemble, joins, in order; none of a single network."""
    for layer in model.layers:
        if layer.name == JOINED:
            names = {id(below.output): below.name for below in model.layers}
            return [names[id(tensor)].partition(".")[0] for tensor in layer.input]
    return []


def parents(layer: keras.layers.Layer) -> list[Any]:
    """The nodes whose outputs `layer` takes, where it was called first; a node's `operation` is its layer."""
    return list(layer._inbound_nodes[0].parent_nodes)


def children_count(layer: keras.layers.Layer) -> int:
    """How many layers take what `layer` gives; each counts once, however many models (see `part`) call it."""
    return len({id(node.operation) for node in layer._outbound_nodes})


def part(model: keras.Model, start: Sequence[str]) -> keras.Model:
    """The part of `model` from the outputs of the layers `start` to its output.

    It shares the layers and their weights with `model`: training the part trains the whole.
    """
    inputs = [model.get_layer(name).output for name in start]
    return keras.Model(as_model_inputs(inputs), model.output)


def as_model_inputs(items: Sequence[Any]) -> Any:
    """One item per input of a model: as such for a model of one input, as a list for one of several."""
    return list(items) if len(items) > 1 else items[0]
