"""The head: what a classifier learns on top of the backbone's features."""

from typing import Any

from frostline.common.seeds import seed32
from frostline.runtime.errors import FrostlineError
from frostline.runtime.quiet_tensorflow import keras


def add_head(
    backbone: keras.Model,
    cut_layer: str,
    *,
    dense_units: int,
    dropout: float,
    seed: int,
    pooling: str = "flatten",
    classes: int = 2,
) -> keras.Model:
    """Cut `backbone` at `cut_layer` and put a new head on it: `pooling` → Dense(relu) → Dropout → Dense.

    `pooling`: "flatten" keeps every place of the image, "average" takes the mean over all (far fewer weights), "token"
    the first of a transformer's tokens; features that are pooled already, (N, channels), are taken as they are.
    `dense_units`: 0 leaves out the layer with relu.
    Returns the classifier: images (N, size, size, 3) → for two classes the probability of the second (N, 1), by a
    sigmoid; for more the probability of each (N, classes), by a softmax; float32.

    Raises FrostlineError where `pooling` is "token" and the cut layer gives places.
    """

    def glorot(name: str) -> keras.initializers.Initializer:
        return keras.initializers.GlorotUniform(seed=seed32(seed, name))

    x = _pooled(backbone.get_layer(cut_layer).output, pooling, cut_layer)
    if dense_units:
        x = keras.layers.Dense(dense_units, activation="relu", kernel_initializer=glorot("dense"), name="dense")(x)
    x = keras.layers.Dropout(dropout, seed=seed32(seed, "dropout"), name="dropout")(x)
    units, activation = (1, "sigmoid") if classes == 2 else (classes, "softmax")
    init = glorot("probability")
    x = keras.layers.Dense(units, activation=activation, kernel_initializer=init, name="probability")(x)
    return keras.Model(backbone.inputs[0], x, name="frostline")


def _pooled(features: Any, pooling: str, cut_layer: str) -> Any:
    """`features` of places or tokens as `add_head` says, (N, numbers)."""
    if len(features.shape) == 2:
        return features
    tokens = features.shape[1] if len(features.shape) == 3 else 0
    if pooling == "average":
        average = keras.layers.GlobalAveragePooling1D if tokens else keras.layers.GlobalAveragePooling2D
        return average(name="average")(features)
    if pooling == "token":
        if not tokens:
            raise FrostlineError(f"model.pooling is token, but {cut_layer} gives places.\nChoose average or flatten.")
        features = keras.layers.Cropping1D((0, tokens - 1), name="token")(features)
    return keras.layers.Flatten(name="flatten")(features)
