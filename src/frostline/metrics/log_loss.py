"""Cross-entropy per image, as Keras computes it."""

import numpy as np

CLIP = 1e-7  # keras.config.epsilon(), which Keras' cross-entropies keep from 0 and 1


def log_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """-ln P(actual class) of each image, (N,) float64, at most 16.1: P is clipped as Keras does.

    Args:
        labels: (N,) class indices.
        probabilities: (N, classes) float.
    """
    if probabilities.shape[1] == 2:  # by P(second) alone, as binary cross-entropy: 1 - P may be rounded
        second = np.clip(probabilities[:, 1], CLIP, 1 - CLIP)
        losses: np.ndarray = -np.where(labels == 1, np.log(second), np.log1p(-second))
    else:
        actual = probabilities[np.arange(len(labels)), labels]
        losses = -np.log(np.clip(actual, CLIP, 1 - CLIP))
    return losses


def score(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """The mean of the `log_losses`, and the accuracy where the most probable class is predicted."""
    losses, hits = log_losses(labels, probabilities), probabilities.argmax(axis=1) == labels
    return float(np.mean(losses)), float(np.mean(hits))
