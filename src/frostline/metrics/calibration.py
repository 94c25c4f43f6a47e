"""Post-hoc calibration: changing a model's probabilities without training it again, and what each change is worth.

Temperature scaling and clipping are fitted on the validation set, and the test set says what they are worth. The mean
with the mirrored image (test-time augmentation) needs no fitting.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize_scalar

from frostline.common.thresholds import Threshold
from frostline.metrics.bootstrap import Interval, Pair, bootstrap_intervals
from frostline.metrics.classification import figures
from frostline.metrics.formatting import rounded
from frostline.metrics.log_loss import CLIP, log_losses
from frostline.metrics.temperature import with_temperature

_TEMPERATURES = (0.05, 20.0)
_CLIPS = np.geomspace(CLIP, 0.2, 200)


@dataclass(frozen=True)
class Views:
    """One split's probabilities, (N, classes) each: of its images and, where they were computed, mirrored."""

    labels: np.ndarray
    """(N,) class indices."""
    plain: np.ndarray
    mirrored: np.ndarray | None = None


@dataclass(frozen=True)
class Calibration:
    """What is done to probabilities, in this order: mean with those of the mirrored image, temperature, clipping."""

    flip: bool = False
    temperature: float = 1.0
    clip: float = 0.0
    """How far probabilities are kept from 0 and from 1, as `clipped` says."""

    def apply(self, plain: np.ndarray, mirrored: np.ndarray | None = None) -> np.ndarray:
        """Return calibrated probabilities, (N, classes) float64.

        Args:
            plain: the model's probabilities, (N, classes).
            mirrored: those of the mirrored images, (N, classes); only `flip` needs them, else ValueError.
        """
        probabilities = plain
        if self.flip:
            if mirrored is None:
                raise ValueError("flip needs the mirrored images' probabilities")
            probabilities = (plain + mirrored) / 2
        return clipped(with_temperature(probabilities, self.temperature), self.clip)


@dataclass(frozen=True)
class CalibrationEffect:
    """What a calibration changes on the test set, compared with the probabilities as the model gives them."""

    name: str
    calibration: Calibration
    log_loss: float
    ece: float
    """Expected calibration error."""
    difference: float
    """Of log loss; negative is better."""
    interval: Interval
    """95%, paired bootstrap, of the difference."""

    def as_metrics(self) -> dict[str, float]:
        """Plain numbers, six significant digits, as reports/figures.json has them."""
        values = {
            "temperature": self.calibration.temperature,
            "clip": self.calibration.clip,
            "log_loss": self.log_loss,
            "log_loss_difference": self.difference,
            "log_loss_difference_low": self.interval.low,
            "log_loss_difference_high": self.interval.high,
            "ece": self.ece,
        }
        return {name: rounded(value) for name, value in values.items()}


def fit_calibration(
    validation: Views, *, flip: bool = False, temperature: bool = False, clip: bool = False
) -> Calibration:
    """Fit the parts that are asked for, each on what the ones before it give on `validation`."""
    found = Calibration(flip=flip)
    if temperature:
        probabilities = found.apply(validation.plain, validation.mirrored)
        found = replace(found, temperature=fit_temperature(validation.labels, probabilities))
    if clip:
        probabilities = found.apply(validation.plain, validation.mirrored)
        found = replace(found, clip=fit_clip(validation.labels, probabilities))
    return found


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature from 0.05 to 20 with the least log loss of `probabilities` (N, classes) for `labels` (N,), and
    half a mistake more, for the reason that `fit_clip` gives: else a model without mistakes would be made surer.
    """

    def loss(logarithm: float) -> float:
        scaled = with_temperature(probabilities, float(np.exp(logarithm)))
        actual = scaled[np.arange(len(labels)), labels]
        mistake = -np.mean(np.log(np.clip(1 - actual, CLIP, 1)))
        return float(np.sum(log_losses(labels, scaled)) + mistake / 2)

    low, high = np.log(_TEMPERATURES)
    best = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-4})
    return float(f"{np.exp(best.x):.4g}")  # as exact as the search, and as it is told


def clipped(probabilities: np.ndarray, clip: float) -> np.ndarray:
    """Probabilities (N, classes) that are raised or lowered to be `clip` from 0 and from 1, then divided by their sum.

    Of two classes the sum is 1 before. Of K it is up to 1 + (K - 2) clip, so the least may end nearer to 0 than `clip`.
    """
    if not clip:
        return probabilities
    within = np.clip(probabilities, clip, 1 - clip)
    scaled: np.ndarray = within / within.sum(axis=1, keepdims=True)
    return scaled


def fit_clip(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The clip with the least log loss of `probabilities` (N, classes) for `labels` (N,), and half a mistake more.

    Where a model gets every image of a small set right, that set alone says that no clip is needed; yet one confident
    mistake among other images costs a log loss of up to 16. So half a mistake is added that was not seen: Jeffreys'
    prior (Jeffreys 1946) for their rate.
    """
    losses = [np.sum(log_losses(labels, clipped(probabilities, clip))) - 0.5 * np.log(clip) for clip in _CLIPS]
    return float(_CLIPS[int(np.argmin(losses))])


def calibration_effects(
    validation: Views,
    test: Views,
    *,
    submission: Mapping[str, bool],
    threshold: Threshold,
    bins: int,
    resamples: int,
    seed: int,
) -> list[CalibrationEffect]:
    """What each part of a calibration changes on the `test` set alone, and last those of `submission` together.

    Args:
        validation: what the parts are fitted on.
        test: what their worth is measured on. Without mirrored probabilities the part flip is left out.
        submission: "flip", "temperature" and "clip": whether submission.csv has it, as `fit_calibration` takes them.
        threshold: for two classes; see `predicted_classes`.
        bins: of the expected calibration error.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    asked: list[tuple[str, Mapping[str, bool]]] = [("temperature", {"temperature": True}), ("clip", {"clip": True})]
    if test.mirrored is not None:
        asked.insert(0, ("flip", {"flip": True}))
    asked.append(("submission", submission))
    before, found = float(np.mean(log_losses(test.labels, test.plain))), []
    for name, parts in asked:
        calibration = fit_calibration(validation, **parts)
        after = calibration.apply(test.plain, test.mirrored)
        loss, ece = (figures(test.labels, after, threshold, bins)[figure] for figure in ("log_loss", "ece"))
        pair = Pair(test.labels, baseline=test.plain, candidate=after)
        intervals = bootstrap_intervals(
            pair, ["log_loss"], ["difference"], threshold=threshold, resamples=resamples, seed=seed
        )
        found.append(
            CalibrationEffect(name, calibration, loss, ece, loss - before, intervals["difference"]["log_loss"])
        )
    return found
