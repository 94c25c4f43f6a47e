"""Grad-CAM: which places of an image speak for a class, seen at the layer where the backbone is cut."""

import numpy as np

from frostline.runtime.quiet_tensorflow import keras, tf

_BATCH = 64


def grad_cam(model: keras.Model, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return how much each place of each image speaks for a class.

    Selvaraju et al. 2017 ("Grad-CAM", ICCV), equations 1 and 2: the channels of the cut layer, the last one that has
    places, are weighted by the mean gradient of the class' score, and summed; negative sums become 0. The score is what
    goes into softmax; for a sigmoid it is the logit, with the sign turned for the first class.

    Args:
        model: images → probabilities, of one sigmoid or a softmax.
        images: (N, size, size, 3), RGB from 0 to 255.
        classes: (N,) int, of each image the class to explain.

    Returns:
        (N, h, w) float32 from 0 to 1, at the places (h, w) of the cut layer. Each map is divided by its maximum, and
        all 0 where nothing speaks for the class.
    """
    cut = next(layer for layer in reversed(model.layers) if len(layer.output.shape) == 4)
    output = model.layers[-1]
    below, above = keras.Model(model.input, cut.output), keras.Model(cut.output, output.input)
    parts = [np.empty((0, *cut.output.shape[1:3]), np.float32)]
    for start in range(0, len(images), _BATCH):
        batch = slice(start, start + _BATCH)
        channels = below(np.asarray(images[batch], np.float32), training=False)
        with tf.GradientTape() as tape:
            tape.watch(channels)
            # Not the probabilities: where they are near 0 or 1 their gradient is lost in rounding.
            scores = above(channels, training=False) @ output.kernel + output.bias
            if scores.shape[1] == 1:
                scores = tf.concat([-scores, scores], axis=1)
            score = tf.gather(scores, np.asarray(classes[batch], np.int64), axis=1, batch_dims=1)
        weights = tf.reduce_mean(tape.gradient(score, channels), axis=(1, 2), keepdims=True)
        maps = tf.nn.relu(tf.reduce_sum(weights * channels, axis=-1)).numpy()
        highest = maps.max(axis=(1, 2), keepdims=True)
        parts.append(np.divide(maps, highest, out=np.zeros_like(maps), where=highest > 0))
    return np.concatenate(parts)
