"""Adam, the optimizer of both phases."""

from collections.abc import Callable, Sequence
from typing import Any

from frostline.runtime.quiet_tensorflow import keras, tf


class Adam:
    """keras.optimizers.Adam by TensorFlow's own kernel: one pass over a weight and its moments, on all cores.

    Keras' own makes several operations of an update. It also sums the gradients over replicas, by a function that holds
    the step's graph, and so Adam's moments (300 MB for the default head), as long as the process lives.
    """

    def __init__(self, rate: float | Callable[[Any], Any], weights: Sequence[Any], weight_decay: float = 0) -> None:
        """`rate`: the learning rate, or what gives it for the number of steps before this one.

        `weight_decay`: as in keras.optimizers.AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), of what `decays`.
        """
        self._rate, self._weight_decay = rate, weight_decay
        self._steps = keras.Variable(0, trainable=False, dtype="int64")
        self._moments = [[keras.Variable(tf.zeros(weight.shape), trainable=False) for weight in weights] for _ in "mv"]
        self.variables = [self._steps, *self._moments[0], *self._moments[1]]

    def apply(self, gradients: Sequence[tf.Tensor], weights: Sequence[Any]) -> None:
        """Take a step, in place; `weights`: those given at first; `gradients`: for each one of its shape, float32."""
        steps = self._steps.value.read_value()
        rate = self._rate(steps) if callable(self._rate) else self._rate
        # The defaults of Kingma & Ba 2015 (arXiv:1412.6980), and Keras' epsilon.
        rate, beta1, beta2, epsilon = (tf.convert_to_tensor(value, tf.float32) for value in (rate, 0.9, 0.999, 1e-7))
        number = tf.cast(steps + 1, tf.float32)
        powers = {"beta1_power": beta1**number, "beta2_power": beta2**number}
        for weight, gradient, *moments in zip(weights, gradients, *self._moments, strict=True):
            if self._weight_decay and decays(weight):
                weight.value.assign_sub(weight.value.read_value() * (rate * self._weight_decay))
            m, v = (moment.value.handle for moment in moments)
            tf.raw_ops.ResourceApplyAdam(
                var=weight.value.handle,
                m=m,
                v=v,
                **powers,
                lr=rate,
                beta1=beta1,
                beta2=beta2,
                epsilon=epsilon,
                grad=gradient,
            )
        self._steps.assign(steps + 1)


def decays(weight: Any) -> bool:
    """Whether weight decay acts on `weight`: on kernels, not on biases and what batch norm learns."""
    return len(weight.shape) > 1
