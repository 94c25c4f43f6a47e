"""Is a new model better than the champion? Asked of their predictions for the same test images, by a paired test."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from frostline.common.files import read_csv
from frostline.evaluation.predictions import probabilities_of
from frostline.metrics.bootstrap import Pair, bootstrap_intervals
from frostline.metrics.formatting import decimals, signed
from frostline.metrics.log_loss import log_losses


@dataclass(frozen=True)
class Contest:
    """Whether the new model takes the champion's place, and why, in words."""

    wins: bool
    reason: str


def challenge(
    champion: tuple[Path, str], new: tuple[Path, str], classes: Sequence[str], *, resamples: int, seed: int
) -> Contest:
    """Compare two models by their files predictions.csv, each with the phase that is meant.

    The new one wins where the 95% interval of the difference in log loss (paired bootstrap) lies below 0. Predictions
    for other images say nothing: what one model has not seen, the other may have been trained on.
    """
    before, after = read_csv(champion[0]), read_csv(new[0])
    if [_image(row) for row in before] != [_image(row) for row in after]:
        return Contest(False, "The champion was tested on other images: not comparable.")
    labels = np.array([classes.index(row["class"]) for row in after])
    pair = Pair(
        labels,
        baseline=probabilities_of(before, champion[1], classes),
        candidate=probabilities_of(after, new[1], classes),
    )
    first, second = (float(np.mean(log_losses(labels, p))) for p in (pair.baseline, pair.candidate))
    intervals = bootstrap_intervals(pair, ["log_loss"], ["difference"], threshold=0.5, resamples=resamples, seed=seed)
    interval = intervals["difference"]["log_loss"]
    digits = decimals(second - first, interval.low, interval.high)
    wins = interval.high < 0
    verdict = "Better than the champion" if wins else "Not better than the champion beyond chance"
    return Contest(
        wins,
        f"{verdict} on the same {len(labels):,} test images: log loss {first:.{digits}f} → {second:.{digits}f} "
        f"(difference {signed(second - first, digits)}, "
        f"95% CI {signed(interval.low, digits)} to {signed(interval.high, digits)}).",
    )


def _image(row: dict[str, str]) -> tuple[str, str]:
    return row["path"], row["class"]
