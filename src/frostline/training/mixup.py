"""Mixup: training on mixtures of two images, whose targets are mixed alike.

Zhang, Cissé, Dauphin & Lopez-Paz 2018, "mixup: Beyond empirical risk minimization", arXiv:1710.09412. What is mixed is
what the trained layers get: the features of the frozen ones, as in Verma et al. 2019, "Manifold mixup",
arXiv:1806.05236.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from frostline.runtime.quiet_tensorflow import keras, tf


@dataclass(frozen=True)
class Partners:
    """What is mixed into the images of an epoch, in the order in which they are trained on."""

    rows: np.ndarray
    """(N,) the image that is mixed into the one in this place."""
    shares: np.ndarray
    """(N,) float32 from 0.5 to 1: what is left of the one in this place."""


def draw_partners(order: np.ndarray, alpha: float, rng: np.random.Generator) -> Partners:
    """Of the rows in `order`, (N,), each is mixed into one; its share is from a Beta distribution, both of whose
    parameters are `alpha`."""
    shares = rng.beta(alpha, alpha, len(order))
    return Partners(rng.permutation(order), np.maximum(shares, 1 - shares).astype(np.float32))


def mixed(
    inputs: Any, targets: tf.Tensor, others: Any, other_targets: tf.Tensor, shares: tf.Tensor
) -> tuple[Any, tf.Tensor]:
    """Return the mixtures, as the model's input(s), and their targets (n, 3): one's own, the other's, one's own share.

    Args:
        inputs: of one image each, one or several (n, …) float32.
        targets: (n, 1) float32.
        others: as `inputs`, of the images that are mixed into them.
        other_targets: (n, 1) float32.
        shares: (n,) float32.
    """

    def mix(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        share = tf.reshape(shares, [-1] + [1] * (one.shape.rank - 1))
        return share * one + (1 - share) * other

    return keras.tree.map_structure(mix, inputs, others), tf.concat([targets, other_targets, shares[:, None]], axis=1)


def target_columns(alpha: float) -> int:
    """How many columns the targets of a batch have, with mixup of this strength."""
    return 3 if alpha else 1


def of_mixture(values: Sequence[tf.Tensor], others: Sequence[tf.Tensor], targets: tf.Tensor) -> list[tf.Tensor]:
    """The means of `values`, (n,) each, by one's own target, and `others`, by the other's; shares: in `targets`."""
    shares = targets[:, 2]
    return [shares * one + (1 - shares) * other for one, other in zip(values, others, strict=True)]
