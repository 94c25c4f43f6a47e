"""What an image counts by its class in training, and how probabilities stay right beside it.

Trained with weights, a model says what is true where each class is as much more frequent as it weighs: by Bayes' rule,
p' = w p / sum(w p) (Elkan 2001, "The foundations of cost-sensitive learning", theorem 2; Saerens, Latinne &
Decaestecker 2002, "Adjusting the outputs of a classifier to new a priori probabilities"). So here the model gives p,
and the loss is that of p'. It is the usual training with weights, followed by the correction of the last bias by -ln w,
but right at every moment: after each epoch, in both phases, after a kill, and wherever the model is used.
"""

from collections.abc import Sequence

import numpy as np

from frostline.config.settings import ClassWeight, check_classes
from frostline.runtime.quiet_tensorflow import tf

SAMPLED = "balanced_sampling"


def class_weights(setting: ClassWeight, labels: np.ndarray, classes: Sequence[str], key: str) -> np.ndarray | None:
    """Return what an image of each class counts, (classes,) float32; None where all count the same.

    Balanced: n / (k n_class) of n images of k classes, as scikit-learn has it: each class counts the same, and an image
    1 on average. With balanced_sampling it is how often an image is `drawn`. A class that a mapping does not name
    counts 1.

    Args:
        setting: `key`, whose name errors say.
        labels: (n,) class indices of the training images, some of each class or none.
        classes: their names.

    Raises:
        FrostlineError: the setting names another class.
    """
    if setting == "none":
        return None
    if isinstance(setting, str):
        counts = np.bincount(labels, minlength=len(classes))
        present = counts > 0
        weights = np.ones(len(classes))
        even = _drawn_of_each(len(labels), int(present.sum())) if setting == SAMPLED else len(labels) / present.sum()
        weights[present] = np.asarray(even) / counts[present]
        return weights.astype(np.float32)
    check_classes(key, setting, classes)
    return np.array([setting.get(name, 1) for name in classes], np.float32)


def _drawn_of_each(images: int, classes: int) -> list[int]:
    """How many images of each of so many classes make up so many images."""
    return [images // classes + (number < images % classes) for number in range(classes)]


def drawn(order: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many rows as `order`, a permutation of all (N,), but as many of each class: of a large one the first in
    `order`, of a small one each several times, in an order of their own. `labels`: (N,)."""
    present = np.unique(labels)
    numbers = _drawn_of_each(len(order), len(present))
    own = [order[labels[order] == label] for label in present]
    return rng.permutation(np.concatenate([np.resize(rows, number) for rows, number in zip(own, numbers, strict=True)]))


def weighted(
    losses: tf.Tensor, targets: tf.Tensor, probabilities: tf.Tensor, weights: np.ndarray, smoothing: float = 0
) -> tuple[tf.Tensor, tf.Tensor]:
    """The cross-entropies of p', where the model gives the probabilities p, and what each image counts; (n,) both.

    -ln p'(actual) is -ln p(actual) + ln(sum(w p) / w(actual)): from Keras' cross-entropy, which is exact for confident
    mistakes, too. Smoothed labels are a mean over all classes, and so is ln(w) then.

    Args:
        losses: (n,), the cross-entropies of `probabilities`, with `smoothing` of the labels.
        targets: (n, 1) class indices, float32.
        probabilities: (n, classes), for two classes those of the second, (n, 1).
        weights: (classes,) float32.
    """
    if probabilities.shape[1] == 1:
        probabilities = tf.concat([1 - probabilities, probabilities], axis=1)
    own = tf.gather(weights, tf.cast(targets[:, 0], tf.int32))
    total = tf.linalg.matvec(probabilities, weights)
    logarithm = (1 - smoothing) * tf.math.log(own) + smoothing * float(np.mean(np.log(weights)))
    return losses + tf.math.log(total) - logarithm, own


def first_bias(weights: np.ndarray) -> np.ndarray:
    """The bias of a new last layer, (classes,) or of two classes (1,): p' begins with it as p does without weights."""
    logarithms: np.ndarray = -np.log(weights)
    return logarithms[1:] - logarithms[:1] if len(weights) == 2 else logarithms
