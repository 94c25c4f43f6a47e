"""The frost line: which layers learn, and the frozen ones whose outputs these take in."""

from frostline.models.graph import block_outputs, find_layer, listed, members, parents
from frostline.runtime.errors import FrostlineError
from frostline.runtime.quiet_tensorflow import keras

AUTO = "auto"


def resolve_thaw_from(backbone: keras.Model, cut_layer: str, thaw_from: str) -> str:
    """Return the name of the layer at the frost line: `thaw_from`, or so many blocks below `cut_layer` as it says.

    "auto" is one block. Where fewer blocks have an end below the cut than a number says, it is the lowest of these.
    What lies between the last block's end and the cut (a last convolution, say) counts as part of that block. In an
    ensemble a member's name says one block below this member's end; "auto" and numbers mean the first member.

    Raises FrostlineError for an unknown layer, for a frost line above the cut, and where nothing lies below the cut.
    """
    counted = thaw_from == AUTO or thaw_from.isdecimal()
    if names := members(backbone):
        member = names[0] if counted else thaw_from.partition(".")[0]
        if member not in names:
            raise FrostlineError(
                f"finetune.thaw_from is {thaw_from!r}: of no member.\n"
                f"Valid: {AUTO}, {', '.join(names)}, or a layer of one of these, e.g. {names[0]}.NAME."
            )
        end = f"{member}.average"
        below = keras.Model(backbone.input, backbone.get_layer(end).output)
        return resolve_thaw_from(below, end, AUTO if thaw_from == member else thaw_from)
    order = [layer.name for layer in backbone.layers]
    cut = order.index(find_layer(backbone, cut_layer, "model.cut_layer").name)
    blocks = [name for name in block_outputs(backbone) if order.index(name) <= cut]
    if counted:
        number = 1 if thaw_from == AUTO else int(thaw_from)
        if not number:
            raise FrostlineError(
                "finetune.thaw_from is 0: no block would be thawed.\nValid: auto, a number of blocks, or a layer."
            )
        if len(blocks) < 2:
            raise FrostlineError(
                f"finetune.thaw_from is {thaw_from}, but no block lies below model.cut_layer={cut_layer}.\n"
                "Name the layer from which to thaw."
            )
        return blocks[max(-1 - number, -len(blocks))]
    line = order.index(find_layer(backbone, thaw_from, "finetune.thaw_from").name)
    if line > cut:
        raise FrostlineError(
            f"finetune.thaw_from is {thaw_from!r}, above model.cut_layer={cut_layer!r}: no layer would be thawed.\n"
            f"Valid: {cut_layer} or a layer below it, e.g. {listed(blocks)}."
        )
    return thaw_from


def frontier(model: keras.Model, thaw_from: str) -> list[str]:
    """Names of the frozen layers whose outputs the layers above the frost line take in.

    A layer without weights at the line itself (mixed6 is a concatenation) counts as frozen: it has nothing to learn,
    so its output, one tensor, can be computed once. At a block's end the frontier is that one layer.
    """
    thawed = _from(model, thaw_from)
    thawed = thawed if thawed[0].weights else thawed[1:]
    names = {layer.name for layer in thawed}
    feeding = {node.operation.name for layer in thawed for node in parents(layer)} - names
    return [layer.name for layer in model.layers if layer.name in feeding]


def _from(model: keras.Model, thaw_from: str) -> list[keras.layers.Layer]:
    """The layer `thaw_from` and all after it, in order; in an ensemble none of another member."""
    others = {f"{name}." for name in members(model) if not thaw_from.startswith(f"{name}.")}
    line = [layer.name for layer in model.layers].index(thaw_from)
    return [layer for layer in model.layers[line:] if not layer.name.startswith(tuple(others))]


def freeze(model: keras.Model, backbone: keras.Model) -> None:
    """Freeze the layers that `model` has from `backbone`; its head learns."""
    frozen = set(backbone.layers)
    for layer in model.layers:
        layer.trainable = layer not in frozen


def thaw(model: keras.Model, thaw_from: str, batch_norm: str = "train") -> None:
    """Freeze every layer below `thaw_from` (and all other members of an ensemble), thaw it and every layer after it,
    the head included.

    `batch_norm`: "train" thaws it like all else; "frozen" leaves it frozen everywhere. A frozen one also computes as in
    inference, by its moving statistics (https://keras.io/guides/transfer_learning).
    """
    thawed = {layer.name for layer in _from(model, thaw_from)}
    for layer in model.layers:
        kept = batch_norm == "frozen" and isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = layer.name in thawed and not kept
