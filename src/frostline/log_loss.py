"""Binary cross-entropy per picture, as Keras computes it."""

import numpy as np

_CLIP = 1e-7  # keras.config.epsilon(), which Keras' binary cross-entropy keeps from 0 and 1


def log_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """-ln P(actual class) of each picture: `labels` (N,) 0 or 1, `probabilities` (N,) of the second class."""
    clipped = np.clip(probabilities, _CLIP, 1 - _CLIP)
    losses: np.ndarray = -np.where(labels == 1, np.log(clipped), np.log1p(-clipped))
    return losses
