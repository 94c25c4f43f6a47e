"""What to keep in mind of data before their figures are trusted: few test images, unequal classes, groups."""

from collections.abc import Mapping, Sequence
from typing import Any

from frostline.common.thresholds import Threshold
from frostline.metrics.predicted import costs_in

FEW_IMAGES = 30
"""Images of a class below which bootstrap percentiles are known to be too narrow (Efron & Tibshirani 1993, ch. 13)."""
ALIKE = (
    "those of one group (preprocess.group) are alike, but intervals, and what is called beyond chance, take each for a "
    "fact of its own. They are too narrow, the more so the fewer groups there are."
)
_UNEQUAL = 2
_NAMED = 3
"""Classes named at most."""


def cautions(
    counts: Mapping[str, Mapping[str, int]], threshold: Threshold, grouped: bool = False, advice: str = ""
) -> list[str]:
    """Return what is to be said of the data, a sentence or two each; nothing where there is nothing to say.

    Args:
        counts: by split ("train" and "test" are read) and name of a class, its labelled images.
        threshold: by which classes are predicted; where it is costs, no other one is advised.
        grouped: whether images belong to groups (preprocess.group).
        advice: what to do about few images, where it is read by who can do it.
    """
    found = []
    test, train = counts["test"], counts["train"]
    if few := sorted((name for name in test if test[name] < FEW_IMAGES), key=lambda name: test[name]):
        found.append(
            f"Few test images: {_listed([f'{test[name]:,} of {name}' for name in few])}. "
            f"Under {FEW_IMAGES} of a class, figures are rough and their intervals too narrow: do not rely on them."
            + (f" {advice}" if advice else "")
        )
    if are_unequal(train):
        most, least = max(train, key=lambda name: train[name]), min(train, key=lambda name: train[name])
        said = (
            f"Unequal classes: {train[most]:,} training images of {most}, {train[least]:,} of {least}. "
            "Accuracy flatters a model that neglects the small class: look at balanced accuracy and the lowest recall."
        )
        if costs_in(threshold) is None:
            every = "both" if len(train) == 2 else "all"
            said += f" evaluate.threshold=balanced_accuracy has {every} classes in mind."
        found.append(said)
    if grouped:
        found.append(f"Grouped images: {ALIKE}")
    return found


def are_unequal(train: Mapping[Any, int]) -> bool:
    """Whether the largest class, by its training images, is so much larger than the smallest that it is to be said."""
    return max(train.values()) > _UNEQUAL * min(train.values())


def _listed(parts: Sequence[str]) -> str:
    more = len(parts) - _NAMED
    return ", ".join(parts[:_NAMED]) + (f" and {more} more class{'es' * (more > 1)}" if more > 0 else "")
