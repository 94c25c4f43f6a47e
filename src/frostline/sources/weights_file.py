"""Tell whether a file holds the weights of the backbone without its top; InceptionV3's quickly, without TensorFlow."""

import itertools
import math
from pathlib import Path

import h5py
import numpy as np

from frostline.models.architectures import NETWORKS
from frostline.runtime.errors import FrostlineError

# keras.applications.InceptionV3(include_top=False): 94 times convolution (no bias) and batch norm (no scale).
_UNITS = 94
_FIRST_KERNEL = (3, 3, 3, 32)
_PARAMETERS = 21_802_784

_HDF5 = b"\x89HDF\r\n\x1a\n"

# What h5py raises for damaged bytes, and what follows from attributes that are not what they should be.
_UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)

Shapes = list[tuple[int, ...]]


def check_weights_file(path: Path, backbone: str = "inception_v3") -> None:
    """Raise FrostlineError unless `path` is an HDF5 file with the weights of `backbone` (see NETWORKS) without its top.

    Its layout is the one that Keras' ``legacy_h5_format.load_weights_from_hdf5_group`` reads, which matches
    layers by their order and not by their names: ``layer_names`` at the root or under ``model_weights``, and
    ``weight_names`` in each layer's group. Checked are the order, number and shapes of the weights, and that
    their values are numbers.
    """
    wanted = f"Needed: a weights file of keras.applications.{NETWORKS[backbone].constructor} with include_top=False."
    if not path.is_file():
        raise FrostlineError(f"{path}: there is no such file.\n{wanted}")
    with path.open("rb") as file:
        start = file.read(512)
    if not start.startswith(_HDF5):
        raise FrostlineError(f"{path}: {_kind(start)}.\n{wanted}")
    try:
        with h5py.File(path, "r") as file:
            layers = _layers(path, file, backbone, wanted)
    except _UNREADABLE as error:
        raise FrostlineError(
            f"{path}: a truncated or damaged HDF5 file ({path.stat().st_size:,} bytes).\nGet it again."
        ) from error
    if not layers:
        raise FrostlineError(f"{path}: a Keras file without any weights.\n{wanted}")
    if backbone == "inception_v3":
        _check_inception_v3(path, layers)
    else:
        _check_shapes(path, layers, backbone, wanted)


def _kind(start: bytes) -> str:
    text = start.lstrip().lower()
    if not start:
        return "an empty file, not weights"
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "a web page, not weights (a login or error page saved under this name?)"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not weights (run `git lfs pull` where it comes from)"
    if start.startswith(b"PK\x03\x04"):
        return "a zip archive (a .keras model, a PyTorch file?), not HDF5"
    if start.startswith(b"\x80") and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle, which is never loaded"
    return "not an HDF5 file"


def _layers(path: Path, file: h5py.File, backbone: str, wanted: str) -> list[Shapes]:
    """Return the shapes of the weights of each layer that has any, in order; their values must be numbers."""
    root = file
    if "layer_names" not in root.attrs and "model_weights" in root:
        root = root["model_weights"]
    if "layer_names" not in root.attrs:
        if "layers" in file or "_layer_checkpoint_dependencies" in file:
            raise FrostlineError(
                f"{path}: in the new Keras layout of .weights.h5 files; needed is the legacy one.\n"
                f"Load it into its model and save that again: model.save('{backbone}_notop.h5')."
            )
        raise FrostlineError(f"{path}: an HDF5 file, but not of Keras (no layer_names).\n{wanted}")
    groups = [root[_text(name)] for name in root.attrs["layer_names"]]
    weights = [[group[_text(name)] for name in group.attrs["weight_names"]] for group in groups]
    for weight in itertools.chain(*weights):
        if not np.isfinite(weight[()]).all():
            raise FrostlineError(f"{path}: values of {weight.name} are no numbers (NaN or infinity).\nGet it again.")
    return [[weight.shape for weight in layer] for layer in weights if layer]


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _check_inception_v3(path: Path, layers: list[Shapes]) -> None:
    kernels = [layer[0] for layer in layers if len(layer) == 1 and len(layer[0]) == 4]
    norms = [layer[0] for layer in layers if len(layer) == 3 and {len(shape) for shape in layer} == {1}]
    dense = [layer[0] for layer in layers if len(layer) == 2 and len(layer[0]) == 2]
    parameters = sum(math.prod(shape) for layer in layers for shape in layer)
    if len(kernels) == len(norms) == _UNITS and len(layers) == 2 * _UNITS + 1 and dense:
        raise FrostlineError(
            f"{path}: an InceptionV3 with its top (a dense layer {dense[0]}).\n"
            "Use the file without it, often named ..._notop.h5."
        )
    if (
        len(layers) != 2 * _UNITS
        or not len(kernels) == len(norms) == _UNITS
        or kernels[0] != _FIRST_KERNEL
        or parameters != _PARAMETERS
    ):
        first = kernels[0] if kernels else "none"
        raise FrostlineError(
            f"{path}: another architecture, {len(kernels)} convolutions (first kernel {first}), "
            f"{len(norms)} batch norms and {parameters:,} values.\n"
            f"InceptionV3 without its top has {_UNITS} (first kernel {_FIRST_KERNEL}), {_UNITS} and "
            f"{_PARAMETERS:,}."
        )


def _check_shapes(path: Path, layers: list[Shapes], backbone: str, wanted: str) -> None:
    """Compare with the network itself: what most others hold is not as easily told as InceptionV3."""
    from frostline.models.backbone import plain_network  # here: it takes TensorFlow

    network = plain_network(backbone, NETWORKS[backbone].smallest)
    weights = [layer.trainable_weights + layer.non_trainable_weights for layer in network.layers]
    needed = [[weight.shape for weight in layer] for layer in weights if layer]
    if layers == needed:
        return
    if layers[: len(needed)] == needed:
        raise FrostlineError(
            f"{path}: {NETWORKS[backbone].constructor} with its top.\n"
            "Use the file without it, often named ..._notop.h5."
        )
    number = next((n for n, (has, needs) in enumerate(zip(layers, needed, strict=False)) if has != needs), None)
    difference = (
        f"{len(layers)} layers with weights instead of {len(needed)}"
        if number is None
        else f"layer {number + 1} with weights has the shapes {layers[number]} instead of {needed[number]}"
    )
    raise FrostlineError(f"{path}: another architecture, {difference}.\n{wanted}")
