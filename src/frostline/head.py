"""The head: what a classifier learns on top of the backbone's features."""

from frostline.quiet_tensorflow import keras
from frostline.seeds import derive_seed


def add_head(backbone: keras.Model, cut_layer: str, *, dense_units: int, dropout: float, seed: int) -> keras.Model:
    """Cut `backbone` at `cut_layer` and put a new head on it: Flatten → Dense(relu) → Dropout → Dense(1, sigmoid).

    Returns the classifier: pictures (N, size, size, 3) → probability of the second class (N, 1), float32.
    """

    def glorot(name: str) -> keras.initializers.Initializer:
        return keras.initializers.GlorotUniform(seed=derive_seed(seed, name))

    x = keras.layers.Flatten(name="flatten")(backbone.get_layer(cut_layer).output)
    x = keras.layers.Dense(dense_units, activation="relu", kernel_initializer=glorot("dense"), name="dense")(x)
    x = keras.layers.Dropout(dropout, seed=derive_seed(seed, "dropout"), name="dropout")(x)
    x = keras.layers.Dense(1, activation="sigmoid", kernel_initializer=glorot("probability"), name="probability")(x)
    return keras.Model(backbone.inputs[0], x, name="frostline")
