"""What is chosen on the validation images, so that the test images only judge it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from frostline.common.phase_names import PhaseName
from frostline.common.thresholds import Threshold
from frostline.metrics.bootstrap import Pair, by_phase
from frostline.metrics.predicted import predicted_classes
from frostline.metrics.temperature import with_temperature


def chosen_phase(losses: Mapping[str, float]) -> PhaseName:
    """The phase with the lower validation loss, given each one's; a tie goes to transfer, the simpler model."""
    return "finetune" if losses["finetune"] < losses["transfer"] else "transfer"


def why_chosen(losses: Mapping[str, float]) -> str:
    """Why it is that one, after a colon."""
    if losses["finetune"] == losses["transfer"]:
        return "both did the same on the validation images, and it is the simpler one"
    return "it did better on the validation images"


@dataclass(frozen=True)
class Choice:
    """Which phase's model is used, and how: the one choice that the report, MLflow and all that predicts take."""

    losses: Mapping[str, float]
    """By phase, the validation loss of its model."""
    temperatures: Mapping[str, float]
    """By phase, that which calibrates its model (`fit_temperature` on the validation images); 1 for as it is."""
    threshold: Threshold
    """Of calibrated probabilities; see `predicted_classes`."""

    @property
    def phase(self) -> PhaseName:
        return chosen_phase(self.losses)

    @property
    def temperature(self) -> float:
        """That of the chosen phase's model."""
        return self.temperatures[self.phase]

    def calibrated(self, pair: Pair) -> Pair:
        """Both phases' probabilities in `pair`, each calibrated by its temperature."""
        return Pair(
            pair.labels,
            baseline=with_temperature(pair.baseline, self.temperatures["transfer"]),
            candidate=with_temperature(pair.candidate, self.temperatures["finetune"]),
        )

    def predicted(self, pair: Pair) -> dict[str, np.ndarray]:
        """By phase, the predicted class of each image, (N,) int64: by the threshold on calibrated probabilities."""
        calibrated = by_phase(self.calibrated(pair))
        return {phase: predicted_classes(p, self.threshold) for phase, p in calibrated.items()}

    def in_use(self, pair: Pair) -> np.ndarray:
        """The chosen model's calibrated probabilities, (N, classes) float64, which whoever uses it gets."""
        return by_phase(self.calibrated(pair))[self.phase]
