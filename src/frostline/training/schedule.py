"""The learning rate's schedule."""

from typing import Any

from frostline.config.settings import Phase
from frostline.runtime.quiet_tensorflow import keras


def learning_rate(options: Phase, steps: int) -> Any:
    """What Adam takes as its rate: `options.learning_rate`, or what gives it for the number of batches done before.

    With `options.schedule` "cosine" the rate falls from there to 0 over the batches of all epochs (half a period:
    Loshchilov & Hutter 2017, arXiv:1608.03983). `steps`: batches in an epoch.
    """
    if options.schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(options.learning_rate, options.epochs * steps)
    return options.learning_rate
