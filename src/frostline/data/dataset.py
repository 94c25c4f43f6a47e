"""The prepared data set in data/processed: images, labels and the manifest that explains every row."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from frostline.common.files import read_json, sha256_of
from frostline.runtime.errors import FrostlineError

UNLABELLED = "unlabelled"
CLASSES_FILE = "classes.json"
MANIFEST_FILE = "manifest.csv"
MANIFEST_COLUMNS = ("path", "class", "split", "sha256", "size", "pixels", "verdict")
"""sha256 and size (bytes) are the file's; pixels: SHA-256 of the decoded array; verdict: ok or the reason."""


def images_file(split: str) -> str:
    return f"{split}.npy"


def labels_file(split: str) -> str:
    return f"{split}_labels.npy"


@dataclass(frozen=True)
class Dataset:
    """Splits are train, validation, test and, where there are such images, unlabelled."""

    folder: Path
    classes: tuple[str, ...]
    """Sorted; a label is an index into it."""
    digest: str
    """SHA-256 of the manifest, and so of every pixel, label and split."""
    paths: dict[str, list[str]]
    """Per split, the manifest's paths in row order; use `names`."""

    def has(self, split: str) -> bool:
        return split in self.paths

    def names(self, split: str) -> list[str]:
        """Return the paths in the archive, in the order of the rows of `images` and `labels`."""
        return self.paths[split]

    def images(self, split: str) -> NDArray[np.uint8]:
        """Return the images as (N, size, size, 3) uint8 RGB, memory-mapped read-only."""
        path = self.folder / images_file(split)
        array: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
        return array

    def labels(self, split: str) -> NDArray[np.unsignedinteger]:
        """Return the class indices as (N,) uint8, or wider past 256 classes; there are none for the unlabelled."""
        array: NDArray[np.unsignedinteger] = np.load(self.folder / labels_file(split), allow_pickle=False)
        return array


def load_dataset(folder: Path) -> Dataset:
    """Open the data set that preprocessing left in `folder`.

    Raises FrostlineError if it is missing or its files do not belong together.
    """
    try:
        classes = tuple(read_json(folder / CLASSES_FILE))
        paths: dict[str, list[str]] = {}
        with (folder / MANIFEST_FILE).open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["split"]:
                    paths.setdefault(row["split"], []).append(row["path"])
        dataset = Dataset(folder, classes, sha256_of(folder / MANIFEST_FILE), paths)
        for split in (*SPLITS, *([UNLABELLED] if dataset.has(UNLABELLED) else [])):
            rows = len(dataset.names(split))
            arrays = [dataset.images(split), *([dataset.labels(split)] if split in SPLITS else [])]
            if any(len(array) != rows for array in arrays):
                raise ValueError(f"{images_file(split)} does not have the manifest's {rows} rows")
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise FrostlineError(
            f"{folder} holds no complete data set ({_what(error)}).\nRun `dvc repro preprocess`."
        ) from error
    return dataset


def _what(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{Path(error.filename).name} is missing"
    return f"nothing for {error}" if isinstance(error, KeyError) else str(error)


Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
