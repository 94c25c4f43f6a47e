"""The prepared data set in data/processed: images, labels and the manifest that explains every row."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from frostline.common.files import read_json, sha256_of
from frostline.common.fit_names import FITS, SQUASH, Fit
from frostline.data.rows import Rows
from frostline.runtime.errors import FrostlineError

UNLABELLED = "unlabelled"
CLASSES_FILE = "classes.json"
MANIFEST_FILE = "manifest.csv"
FIT_FILE = "fit.json"
"""Says how pictures became squares, where they were not squashed."""
MANIFEST_COLUMNS = ("path", "class", "split", "sha256", "size", "pixels", "verdict", "group")
"""sha256 and size (bytes) are the file's; pixels: SHA-256 of the decoded array; verdict: ok or the reason; group: of
images that no split parts, empty where none is named."""


def images_file(split: str) -> str:
    return f"{split}.npy"


def labels_file(split: str) -> str:
    return f"{split}_labels.npy"


Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Splits are train, validation, test and, where there are such images, unlabelled."""

    folder: Path
    classes: tuple[str, ...]
    """Sorted; a label is an index into it."""
    digest: str
    """Of every pixel, label and split: SHA-256 of the manifest, or of that and of what was chosen of it."""
    paths: dict[str, list[str]]
    """Per stored split, the manifest's paths in row order; use `names`."""
    stored_digest: str
    """SHA-256 of the manifest: of the images as they lie in `folder`."""
    rows: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Where the labelled images are split otherwise than they are stored (as by `choose_images`), by split which of all
    stored ones, (N,) int, counted through the stored splits in the order of SPLITS."""
    fit: Fit = SQUASH
    """How pictures that are not square became images: models that learn of these must see all others likewise."""
    opened: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    """Arrays by the name of their file, as they were when first used: what preprocess leaves there later is another
    data set."""

    def has(self, split: str) -> bool:
        return split in self.paths

    def names(self, split: str) -> list[str]:
        """Return the paths in the archive, in the order of the rows of `images` and `labels`."""
        if split not in self.rows:
            return self.paths[split]
        names = [name for stored in SPLITS for name in self.paths[stored]]
        return [names[row] for row in self.rows[split]]

    def stored_in(self, split: str) -> tuple[str, ...]:
        """The first of the stored splits, so many that they hold the images of `split`."""
        if split not in self.rows:
            return (split,)
        ends = np.cumsum([len(self.paths[stored]) for stored in SPLITS])
        return SPLITS[: int(np.searchsorted(ends, self.rows[split].max(), side="right")) + 1]

    def pick(self, split: str, stored: Sequence[np.ndarray]) -> np.ndarray:
        """Return what stands for the images of `split`, (N, …), in one array for each of the splits `stored_in`."""
        return Rows(stored, self.rows[split]) if split in self.rows else stored[0]  # type: ignore[return-value]

    def images(self, split: str) -> NDArray[np.uint8]:
        """Return the images as (N, size, size, 3) uint8 RGB, memory-mapped read-only."""
        return self.pick(split, [self.stored_images(stored) for stored in self.stored_in(split)])

    def stored_images(self, split: str) -> NDArray[np.uint8]:
        """As `images`, of a split as it is stored."""
        return self._array(images_file(split), "r")

    def labels(self, split: str) -> NDArray[np.unsignedinteger]:
        """Return the class indices as (N,) uint8, or wider past 256 classes; there are none for the unlabelled."""
        return np.array(self.pick(split, [self._array(labels_file(part)) for part in self.stored_in(split)]))

    def _array(self, name: str, mode: Literal["r"] | None = None) -> np.ndarray:
        if name not in self.opened:
            self.opened[name] = np.load(self.folder / name, mmap_mode=mode, allow_pickle=False)
        return self.opened[name]


def load_dataset(folder: Path) -> Dataset:
    """Open the data set that preprocessing left in `folder`.

    Raises FrostlineError if it is missing or its files do not belong together.
    """
    try:
        classes = tuple(read_json(folder / CLASSES_FILE))
        paths: dict[str, list[str]] = {}
        with (folder / MANIFEST_FILE).open(encoding="utf-8", newline="") as file:
            rows_of = csv.DictReader(file)
            if set(MANIFEST_COLUMNS) - set(rows_of.fieldnames or ()):
                raise ValueError(f"{MANIFEST_FILE} is of another release")
            for row in rows_of:
                if row["split"]:
                    paths.setdefault(row["split"], []).append(row["path"])
        digest = sha256_of(folder / MANIFEST_FILE)
        dataset = Dataset(folder, classes, digest, paths, digest, fit=_fit(folder / FIT_FILE))
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


def _fit(file: Path) -> Fit:
    fit: Fit = read_json(file) if file.is_file() else SQUASH
    if fit not in FITS:
        raise ValueError(f"{file.name} is of another release")
    return fit


def _what(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{Path(error.filename).name} is missing"
    return f"nothing for {error}" if isinstance(error, KeyError) else str(error)
