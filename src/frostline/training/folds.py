"""Other splits of the same images, as lists of rows: nothing is decoded, and no feature computed, a second time."""

import csv
import hashlib
import math
from dataclasses import replace

import numpy as np

from frostline.common.files import digest_of
from frostline.data.dataset import MANIFEST_FILE, SPLITS, Dataset
from frostline.runtime.errors import FrostlineError


def choose_images(data: Dataset, fold: int | None, folds: int, train_share: float) -> Dataset:
    """Return `data` split otherwise: by a fold, with less to train on, or both; `data` itself where neither is asked.

    Of `folds` parts of all labelled images (see `assign_folds`), `fold` is the test set, the next one (after the last
    the first) the validation set, and the others are trained on. Which images are in which part does not depend on the
    run's seed, so that trainings with other seeds are judged on the same images.

    Args:
        data: as it is stored.
        fold: from 0, below `folds`; None: the stored splits.
        folds: at least 3.
        train_share: above 0, at most 1: of the distinct training images of each class, but at least one. A smaller
            share's images are among those of a larger one.

    Raises:
        FrostlineError: a part would have no image.
    """
    if fold is None and train_share == 1:
        return data
    labels = np.concatenate([data.labels(split) for split in SPLITS])
    pixels = _pixels(data)
    rows = {"train": np.arange(len(data.names("train")))}  # the first of all: see Dataset.rows
    if fold is not None:
        part = assign_folds(labels, pixels, folds)
        test, validation = part == fold, part == (fold + 1) % folds
        chosen = {"train": ~test & ~validation, "validation": validation, "test": test}
        rows = {split: np.flatnonzero(of_split) for split, of_split in chosen.items()}
    if empty := [split for split in SPLITS if split in rows and not len(rows[split])]:
        raise FrostlineError(
            f"fold={fold} with folds={folds}: the {empty[0]} set would have no image.\nUse fewer folds, or add images."
        )
    rows["train"] = _share(rows["train"], labels, pixels, train_share)
    digest = digest_of([data.digest, {split: chosen.tolist() for split, chosen in rows.items()}])
    return replace(data, digest=digest, rows=rows)


def assign_folds(labels: np.ndarray, pixels: np.ndarray, folds: int) -> np.ndarray:
    """Return the fold of each image, (N,) int: class by class, the distinct images are dealt out in a fixed order.

    The order is by a hash of the content: names do not matter. Images of the same pixels are in one fold. Folds differ
    by at most one distinct image in each class, and in all.

    Args:
        labels: (N,) class indices.
        pixels: (N,) digests of the content.
        folds: how many.
    """
    found, dealt = np.empty(len(labels), int), 0
    for number in np.unique(labels):
        rows = np.flatnonzero(labels == number)
        ranked = _ranked(pixels[rows], "fold")
        fold_of = {digest: (dealt + place) % folds for place, digest in enumerate(ranked)}
        dealt += len(ranked)
        found[rows] = [fold_of[digest] for digest in pixels[rows]]
    return found


def _share(rows: np.ndarray, labels: np.ndarray, pixels: np.ndarray, share: float) -> np.ndarray:
    """Those of `rows` that make up the `share` of the distinct images in each class."""
    kept: set[str] = set()
    for number in np.unique(labels[rows]):
        ranked = _ranked(pixels[rows][labels[rows] == number], "share")
        kept.update(ranked[: max(1, math.floor(share * len(ranked) + 0.5))])
    return rows[[digest in kept for digest in pixels[rows]]]


def _ranked(pixels: np.ndarray, name: str) -> list[str]:
    """The distinct ones of `pixels` in an order of their own for each `name`."""
    return sorted(set(pixels), key=lambda digest: hashlib.sha256(f"{name}/{digest}".encode()).digest())


def _pixels(data: Dataset) -> np.ndarray:
    """The digests of the stored labelled images, in the order of SPLITS."""
    found: dict[str, list[str]] = {split: [] for split in SPLITS}
    with (data.folder / MANIFEST_FILE).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["split"] in found:
                found[row["split"]].append(row["pixels"])
    return np.array([digest for split in SPLITS for digest in found[split]])
