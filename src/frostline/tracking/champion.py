"""Is a new model better than the champion? Validation images choose, by a paired test; test images only judge."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from frostline.common.files import read_csv
from frostline.evaluation.predictions import in_use_of
from frostline.metrics.bootstrap import Interval, Pair, bootstrap_intervals
from frostline.metrics.formatting import decimals, signed
from frostline.metrics.log_loss import log_losses

FILES = {"validation": "validation_predictions.csv", "test": "predictions.csv"}
"""By split, the file in reports/evaluation that has a model's answers."""


@dataclass(frozen=True)
class Contest:
    """Whether the new model takes the champion's place, and why, in words."""

    wins: bool
    reason: str


def challenge(champion: Path, new: Path, classes: Sequence[str], *, resamples: int, seed: int) -> Contest:
    """Compare two models, as they are used, by their folders with FILES.

    The new one wins where the 95% interval of the difference in log loss on the validation images (paired bootstrap)
    lies below 0; the difference on the test images is told, and has no say. Predictions for other images say nothing:
    what one model has not seen, the other may have been trained on.

    Raises KeyError or OSError where the champion has no such predictions.
    """
    told = {}
    for split, name in FILES.items():
        before, after = read_csv(champion / name), read_csv(new / name)
        if [_image(row) for row in before] != [_image(row) for row in after]:
            return Contest(False, f"The champion has other {split} images: not comparable.")
        labels = np.array([classes.index(row["class"]) for row in after])
        pair = Pair(labels, baseline=in_use_of(before, classes), candidate=in_use_of(after, classes))
        found = bootstrap_intervals(pair, ["log_loss"], ["difference"], threshold=0.5, resamples=resamples, seed=seed)
        interval = found["difference"]["log_loss"]
        told[split] = interval, _in_words(pair, interval, split)
    (validation, chosen), (test, judged) = told["validation"], told["test"]
    wins = validation.high < 0
    verdict = "Better than the champion" if wins else "Not better than the champion beyond chance"
    against = test.low > 0 if wins else test.high < 0
    return Contest(wins, f"{verdict} {chosen}. {'But' if against else 'Also'} {judged}.")


def _in_words(pair: Pair, interval: Interval, split: str) -> str:
    first, second = (float(np.mean(log_losses(pair.labels, p))) for p in (pair.baseline, pair.candidate))
    digits = decimals(second - first, interval.low, interval.high)
    return (
        f"on the same {len(pair.labels):,} {split} images: log loss {first:.{digits}f} → {second:.{digits}f} "
        f"(difference {signed(second - first, digits)}, "
        f"95% CI {signed(interval.low, digits)} to {signed(interval.high, digits)})"
    )


def _image(row: dict[str, str]) -> tuple[str, str]:
    return row["path"], row["class"]
