"""Temperature scaling of probabilities; NumPy alone, as every way in which a model is used needs it."""

import numpy as np

from frostline.metrics.log_loss import CLIP


def with_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (N, classes) whose logits are divided by `temperature`: above 1 less confident, below 1 more.

    Guo et al. 2017, "On calibration of modern neural networks", section 4.2. The most probable class stays the same.
    The logits are those of probabilities that are at least 1e-7, as Keras' losses take them.
    """
    if temperature == 1:
        return probabilities
    logits = np.log(np.clip(probabilities, CLIP, 1)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    scaled: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return scaled
