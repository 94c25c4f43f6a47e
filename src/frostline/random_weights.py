"""An untrained InceptionV3 whose features still tell shapes apart: seeded kernels, calibrated batch-norm."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from frostline.files import replacing
from frostline.sample import draw_pictures
from frostline.seeds import derive_seed, generator

_CALIBRATION_PICTURES = 64

# The batch-norm shifts (beta), in standard deviations of what enters the ReLU. Inside the network +1 lets 84% of
# it pass: a nearly linear network, in which what tells two pictures apart survives thirty layers. What feeds the
# recipe's cut layer is sparse instead, as in a trained network: 7% passes, so that the sum over its 37,632
# features stays small and the head's first steps with Adam at 1e-3 do not overshoot.
_SHIFT = 1.0
_SPARSE_SHIFT = -1.5
_SPARSE_LAYER = "mixed7"


def write_random_weights(path: Path, picture_size: int, seed: int) -> None:
    """Write to `path` what ``keras.applications.InceptionV3(include_top=False).load_weights`` reads.

    Kernels are He-normal (He et al. 2015, arXiv:1502.01852, eq. 10), each from a stream of its own. Batch-norm
    statistics are those of one training-mode pass over drawn pictures of `picture_size` pixels (75 or more), in
    [-1, 1], so every layer's input to its shift has mean 0 and variance 1 on such pictures.
    """
    from frostline.quiet_tensorflow import keras  # here, so that importing this module stays quick

    shape = (picture_size, picture_size, 3)
    backbone = keras.applications.InceptionV3(input_shape=shape, include_top=False, weights=None)
    sparse = _batch_norms_before(backbone, _SPARSE_LAYER)
    for position, layer in enumerate(backbone.layers):
        if isinstance(layer, keras.layers.Conv2D):
            layer.set_weights([_he_normal(layer.kernel.shape, derive_seed(seed, "backbone", position))])
        elif isinstance(layer, keras.layers.BatchNormalization):
            shift = _SPARSE_SHIFT if layer.name in sparse else _SHIFT
            layer.beta.assign(np.full(layer.beta.shape, shift, np.float32))
            layer.momentum = 0.0  # the moving statistics become those of the next batch

    pictures = draw_pictures(_CALIBRATION_PICTURES, picture_size, derive_seed(seed, "calibration"))
    backbone(pictures.astype(np.float32) / 127.5 - 1, training=True)
    _save(path, backbone)


def _he_normal(shape: tuple[int, int, int, int], seed: int) -> np.ndarray:
    height, width, channels, _ = shape
    kernel = generator(seed).standard_normal(shape, np.float32)
    return kernel * np.float32(np.sqrt(2 / (height * width * channels)))


def _batch_norms_before(model: Any, name: str) -> set[str]:
    """Names of the batch-norm layers whose ReLU is an input of the concatenation `name`."""
    inputs = {id(tensor) for tensor in model.get_layer(name).input}
    before_relu = {id(layer.input) for layer in model.layers if id(layer.output) in inputs}
    return {layer.name for layer in model.layers if id(layer.output) in before_relu}


def _save(path: Path, model: Any) -> None:
    """Write the layout that Keras reads from a plain ``.h5`` name (keras/src/legacy/saving/legacy_h5_format.py).

    Keras matches layers by order, so they are named by position: its automatic names depend on what else was
    built in the process. HDF5 stores no times here (h5py's default), so equal weights give equal bytes.
    """
    from frostline.quiet_tensorflow import keras

    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        layers = {f"layer_{n:03d}": layer for n, layer in enumerate(model.layers) if layer.weights}
        file.attrs["layer_names"] = [name.encode() for name in layers]
        file.attrs["backend"] = keras.backend.backend().encode()
        file.attrs["keras_version"] = keras.__version__.encode()
        for name, layer in layers.items():
            group = file.create_group(name)
            weights = layer.trainable_weights + layer.non_trainable_weights  # the order Keras reads
            group.attrs["weight_names"] = [weight.name.encode() for weight in weights]
            for weight in weights:
                group.create_dataset(weight.name, data=np.asarray(weight))
