"""Grad-CAM: which places of an image speak for a class, seen at the layer where the backbone is cut."""

from typing import Any

import numpy as np

from frostline.runtime.quiet_tensorflow import keras, tf

_BATCH = 64


def checked_grad_cam(model: keras.Model, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the maps of `grad_cam`, with all 0 for an image whose map `tells` nothing. Arguments are theirs."""
    maps = grad_cam(model, images, classes)
    return np.where(tells(model, images, classes, maps)[:, None, None], maps, np.float32(0))


def tells(model: keras.Model, images: np.ndarray, classes: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Return for each image whether the map shows what the class' score rests on, (N,) bool.

    It does if covering the places of its strongest quarter, with the mean colour of the image, lowers the score more
    than covering those of its weakest (the deletion test of Petsiuk et al. 2018, "RISE", BMVC, on two quarters).

    Args:
        model, images, classes: as of `grad_cam`.
        maps: (N, h, w), from there.
    """
    count, height, width = maps.shape
    order = np.argsort(maps.reshape(count, height * width), axis=1, kind="stable")
    quarter = max(1, height * width // 4)
    whole = keras.Model(model.input, model.layers[-1].input)

    def covered_score(places: np.ndarray) -> np.ndarray:
        """The score of each image's class, (N,), with `places` of its map, (N, K), covered."""
        covered = np.zeros((count, height * width), bool)
        np.put_along_axis(covered, places, True, axis=1)
        rows, columns = (
            np.arange(size) * steps // size for size, steps in zip(images.shape[1:3], (height, width), strict=True)
        )
        mask = covered.reshape(maps.shape)[:, rows][:, :, columns, None]
        scores = [np.empty(0, np.float32)]
        for start in range(0, count, _BATCH):
            batch = slice(start, start + _BATCH)
            pixels = np.asarray(images[batch], np.float32)
            hidden = np.where(mask[batch], pixels.mean(axis=(1, 2), keepdims=True), pixels)
            scores.append(_score(model, whole(hidden, training=False), classes[batch]).numpy())
        return np.concatenate(scores)

    return covered_score(order[:, -quarter:]) < covered_score(order[:, :quarter])


def grad_cam(model: keras.Model, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return how much each place of each image speaks for a class.

    Selvaraju et al. 2017 ("Grad-CAM", ICCV), equations 1 and 2: the channels of the cut layer, the last one that has
    places, are weighted by the mean gradient of the class' score, and summed; negative sums become 0. The score is what
    goes into softmax; for a sigmoid it is the logit, with the sign turned for the first class. An ensemble has such a
    layer in each member: their sums, before negative ones become 0, are brought to the places of the finest and added.
    Of a transformer, what goes into its last attention is taken: above it, a class token alone may decide.

    Args:
        model: images → probabilities, of one sigmoid or a softmax.
        images: (N, size, size, 3), RGB from 0 to 255.
        classes: (N,) int, of each image the class to explain.

    Returns:
        (N, h, w) float32 from 0 to 1, at the places (h, w) of the cut layer. Each map is divided by its maximum, and
        all 0 where nothing speaks for the class.
    """
    cuts, places = _seen_at(model)
    below, above = keras.Model(model.input, cuts), keras.Model(cuts, model.layers[-1].input)
    parts = [np.empty((0, *places), np.float32)]
    for start in range(0, len(images), _BATCH):
        batch = slice(start, start + _BATCH)
        channels = keras.tree.flatten(below(np.asarray(images[batch], np.float32), training=False))
        with tf.GradientTape() as tape:
            tape.watch(channels)
            score = _score(model, above(channels, training=False), classes[batch])
        sums = [
            _sum(_in_places(values, places), _in_places(gradient, places), places)
            for values, gradient in zip(channels, tape.gradient(score, channels), strict=True)
        ]
        maps = tf.nn.relu(tf.add_n(sums)).numpy()
        highest = maps.max(axis=(1, 2), keepdims=True)
        parts.append(np.divide(maps, highest, out=np.zeros_like(maps), where=highest > 0))
    return np.concatenate(parts)


def _seen_at(model: keras.Model) -> tuple[list[Any], tuple[int, int]]:
    """What `grad_cam` looks at, and how many places the maps have, up and across."""
    layers = model.layers
    last = max(number for number, layer in enumerate(layers) if len(layer.output.shape) == 4)
    attention = [number for number, layer in enumerate(layers) if isinstance(layer, keras.layers.MultiHeadAttention)]
    if attention:  # `last` made the tokens
        sums = keras.layers.Add | keras.layers.EinsumDense  # the latter adds the positions
        before = next(layer for layer in reversed(layers[: attention[-1]]) if isinstance(layer, sums))
        return [before.output], tuple(layers[last].output.shape[1:3])
    after = [layer.input for layer in layers[last + 1 :]]  # an ensemble's members end at different layers
    cuts = [tensor for tensor in after if not isinstance(tensor, list) and len(tensor.shape) == 4]
    return cuts, max(tuple(cut.shape[1:3]) for cut in cuts)


def _in_places(values: Any, places: tuple[int, int]) -> Any:
    """`values` of places (N, h, w, channels), or of tokens (N, tokens, channels), of which the last h w are places."""
    if len(values.shape) == 4:
        return values
    height, width = places
    return tf.reshape(values[:, -height * width :], (-1, height, width, values.shape[-1]))


def _sum(channels: Any, gradient: Any, places: tuple[int, int]) -> Any:
    """The weighted sum of `channels`, (N, h, w, C), at `places`, with the same total over all of them: (N, *places)."""
    weights = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)
    summed = tf.reduce_sum(weights * channels, axis=-1)
    own = tuple(summed.shape[1:])
    if own == places:
        return summed
    return tf.image.resize(summed[..., None], places)[..., 0] * (np.prod(own) / np.prod(places))


def _score(model: keras.Model, before: Any, classes: np.ndarray) -> Any:
    """The score of each image's class, (N,), from what goes `before` the last layer.

    Not the probabilities: where they are near 0 or 1, their gradient and their changes are lost in rounding.
    """
    output = model.layers[-1]
    scores = before @ output.kernel + output.bias
    if scores.shape[1] == 1:
        scores = tf.concat([-scores, scores], axis=1)
    return tf.gather(scores, np.asarray(classes, np.int64), axis=1, batch_dims=1)
