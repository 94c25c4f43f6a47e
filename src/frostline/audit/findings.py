"""What an audit can find, and where an image stands."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frostline.data.dataset import SPLITS, Dataset, Split

WRONG_LABEL = "wrong label"
ACROSS_CLASSES = "duplicate across classes"
ACROSS_SPLITS = "duplicate across splits"
IN_ONE_CLASS = "duplicate in one class"
OUTLIER = "outlier"
TOO_DARK, TOO_BRIGHT = "too dark", "too bright"
BLURRED, UNIFORM = "blurred", "nearly uniform"
KINDS = (
    WRONG_LABEL,
    ACROSS_CLASSES,
    ACROSS_SPLITS,
    IN_ONE_CLASS,
    OUTLIER,
    BLURRED,
    TOO_DARK,
    TOO_BRIGHT,
    UNIFORM,
)
"""In the order of audit.csv and of the page."""

LOOK = "look"
"""The suggestion where nothing can be said but: look at it. No class for corrections.csv, which refuses it."""


@dataclass(frozen=True)
class Finding:
    kind: str
    row: int
    """Of `Labelled`."""
    score: float
    """The higher, the more there is to it; comparable within one kind only."""
    suggestion: str
    """The class that the image probably is, "drop", or "look"."""
    fact: str
    """For people."""
    other: int | None = None
    """Of a duplicate: the row of the one to keep."""


@dataclass(frozen=True)
class Labelled:
    """The labelled images of a data set, in one row: training, validation, test."""

    data: Dataset
    names: list[str]
    """Paths in the archive."""
    labels: NDArray[np.int64]
    splits: list[Split]

    def class_of(self, row: int) -> str:
        name: str = self.data.classes[self.labels[row]]
        return name

    def image(self, row: int) -> NDArray[np.uint8]:
        """(size, size, 3) uint8."""
        split = self.splits[row]
        pixels: NDArray[np.uint8] = self.data.images(split)[row - self.splits.index(split)]
        return pixels


def labelled(data: Dataset) -> Labelled:
    return Labelled(
        data,
        names=[name for split in SPLITS for name in data.names(split)],
        labels=np.concatenate([data.labels(split) for split in SPLITS]).astype(np.int64),
        splits=[split for split in SPLITS for _ in data.names(split)],
    )
