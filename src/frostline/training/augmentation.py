"""Random changes of training images for `augment=full`: mirror, crop, colour."""

from frostline.common.seeds import seed32
from frostline.runtime.quiet_tensorflow import keras


def build_augmentation(seed: int) -> keras.Sequential:
    """Return a model that changes each of its images (N, size, size, 3), 0 to 255, in its own way, from `seed` on."""

    def stream(name: str) -> int:
        return seed32(seed, name)

    return keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal", seed=stream("flip")),
            # Zooming in by up to a fifth and shifting what is seen is a random crop that keeps the size.
            keras.layers.RandomZoom((-0.2, 0.0), (-0.2, 0.0), fill_mode="reflect", seed=stream("zoom")),
            keras.layers.RandomTranslation(0.1, 0.1, fill_mode="reflect", seed=stream("shift")),
            keras.layers.RandomBrightness(0.15, value_range=(0, 255), seed=stream("brightness")),
            keras.layers.RandomContrast(0.2, value_range=(0, 255), seed=stream("contrast")),
            # To this range Keras clips the saturation, which goes from 0 to 1, and not the pixels.
            keras.layers.RandomSaturation((0.4, 0.6), value_range=(0, 1), seed=stream("saturation")),
        ],
        name="augmentation",
    )
