"""Is a new model better than the champion? Validation images choose, by a paired test; test images only judge."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from frostline.common.files import read_csv
from frostline.data.dataset import Dataset
from frostline.evaluation.predictions import IN_USE, in_use_of, write_answers
from frostline.metrics.bootstrap import Interval, Pair, bootstrap_intervals
from frostline.metrics.comparison import TOO_FEW
from frostline.metrics.formatting import decimals, signed
from frostline.metrics.log_loss import log_losses
from frostline.serving.classifier import load_classifier

FILES = {"validation": "validation_predictions.csv", "test": "predictions.csv"}
"""By split, the file in reports/evaluation that has a model's answers."""


_AT_ONCE = 256
"""Images in memory, where they are given the size that a champion takes."""


class NotComparableError(Exception):
    """A model's answers or classes are not those of the images that another one is judged by."""


@dataclass(frozen=True)
class Contest:
    """Whether the new model takes the champion's place, and why, in words."""

    wins: bool
    reason: str


def challenge(champion: Path, new: Path, classes: Sequence[str], *, resamples: int, seed: int) -> Contest:
    """Compare two models, as they are used, by their folders with FILES.

    The new one wins where the 95% interval of the difference in log loss on the validation images (paired bootstrap)
    lies below 0, but not by TOO_FEW of them; the difference on the test images is told, and has no say.

    Raises NotComparableError where the champion's predictions are for other images than the new one's, and KeyError or
    OSError where it has none.
    """
    told = {}
    for split, name in FILES.items():
        before, after = read_csv(champion / name), read_csv(new / name)
        if [_image(row) for row in before] != [_image(row) for row in after]:
            raise NotComparableError(split)
        labels = np.array([classes.index(row["class"]) for row in after])
        pair = Pair(labels, baseline=in_use_of(before, classes), candidate=in_use_of(after, classes))
        found = bootstrap_intervals(pair, ["log_loss"], ["difference"], threshold=0.5, resamples=resamples, seed=seed)
        interval = found["difference"]["log_loss"]
        told[split] = interval, _in_words(pair, interval, split), len(labels) > TOO_FEW
    (validation, chosen, settled), (test, judged, can_tell) = told["validation"], told["test"]
    wins = settled and validation.high < 0
    verdict = "Better than the champion" if wins else "Not better than the champion beyond chance"
    against = can_tell and (test.low > 0 if wins else test.high < 0)
    return Contest(wins, f"{verdict} {chosen}. {'But' if against else 'Also'} {judged}.")


def answer_anew(model: Path, data: Dataset, folder: Path) -> None:
    """Write FILES into `folder`: what the `model` file, as it is used, says of the images of `data`.

    Raises NotComparableError where it tells other classes apart or takes images of pictures that were fitted otherwise,
    FrostlineError where it cannot be used.
    """
    champion = load_classifier(model)
    if tuple(champion.classes) != data.classes:
        raise NotComparableError(f"it tells other classes apart: {', '.join(champion.classes)}")
    if champion.fit != data.fit:
        raise NotComparableError(f"it takes pictures by preprocess.fit={champion.fit}, and these are by {data.fit}")
    for split, name in FILES.items():
        images = data.images(split)
        some = (images[first : first + _AT_ONCE] for first in range(0, len(images), _AT_ONCE))
        probabilities = np.concatenate([champion.probabilities(_in_size(each, champion.size)) for each in some])
        write_answers(folder / name, data, split, {IN_USE: probabilities})


def _in_size(images: np.ndarray, size: int) -> np.ndarray:
    if images.shape[1] == size:
        return images
    scaled = [Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR) for image in images]
    return np.stack([np.asarray(image) for image in scaled])


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
