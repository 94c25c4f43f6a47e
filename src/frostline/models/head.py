"""The head: what a classifier learns on top of the backbone's features."""

from frostline.common.seeds import seed32
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

    `pooling`: "flatten" keeps every place of the image, "average" takes the mean over all (far fewer weights); features
    that are pooled already, (N, channels), are taken as they are. `dense_units`: 0 leaves out the layer with relu.
    Returns the classifier: images (N, size, size, 3) → for two classes the probability of the second (N, 1), by a
    sigmoid; for more the probability of each (N, classes), by a softmax; float32.
    """

    def glorot(name: str) -> keras.initializers.Initializer:
        return keras.initializers.GlorotUniform(seed=seed32(seed, name))

    x = backbone.get_layer(cut_layer).output
    if len(x.shape) > 2 and pooling == "average":
        x = keras.layers.GlobalAveragePooling2D(name="average")(x)
    elif len(x.shape) > 2:
        x = keras.layers.Flatten(name="flatten")(x)
    if dense_units:
        x = keras.layers.Dense(dense_units, activation="relu", kernel_initializer=glorot("dense"), name="dense")(x)
    x = keras.layers.Dropout(dropout, seed=seed32(seed, "dropout"), name="dropout")(x)
    units, activation = (1, "sigmoid") if classes == 2 else (classes, "softmax")
    init = glorot("probability")
    x = keras.layers.Dense(units, activation=activation, kernel_initializer=init, name="probability")(x)
    return keras.Model(backbone.inputs[0], x, name="frostline")
