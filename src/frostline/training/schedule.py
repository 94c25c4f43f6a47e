"""The learning rate's schedule."""

from typing import Any

from frostline.runtime.quiet_tensorflow import keras
from frostline.training.resolved import Resolved

_WARM_UP = 0.1
"""Share of all batches over which the rate rises."""
_FEW = 5
"""Of fewer batches the first, whose rate is 0, would be a large part: nothing is learned by an only one."""


def learning_rate(options: Resolved, steps: int) -> Any:
    """What Adam takes as its rate: `options.learning_rate`, or what gives it for the number of batches done before.

    With `options.schedule` "cosine" the rate falls from there to 0 over the batches of all epochs (half a period:
    Loshchilov & Hutter 2017, arXiv:1608.03983); with "warmup_cosine" it first rises (Goyal et al. 2017,
    arXiv:1706.02677), if there are five batches or more. `steps`: batches in an epoch.
    """
    rate, batches, cosine = options.learning_rate, options.epochs * steps, keras.optimizers.schedules.CosineDecay
    if options.schedule == "warmup_cosine":
        if batches < _FEW:
            return cosine(rate, batches)
        rising = max(1, round(_WARM_UP * batches))
        return cosine(0.0, max(1, batches - rising), warmup_target=rate, warmup_steps=rising)
    return cosine(rate, batches) if options.schedule == "cosine" else rate
