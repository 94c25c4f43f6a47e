"""Other splits of the same images, as lists of rows: nothing is decoded, and no feature computed, a second time."""

import csv
import functools
import hashlib
import logging
import math
from dataclasses import replace

import numpy as np

from frostline.common.files import digest_of, replacing
from frostline.config.paths import NEAR_DUPLICATES
from frostline.config.settings import Config
from frostline.data.dataset import MANIFEST_FILE, SPLITS, Dataset
from frostline.data.grouping import deal, joined
from frostline.runtime.code_digest import code_digest
from frostline.runtime.errors import FrostlineError

_log = logging.getLogger(__name__)


def images_for(data: Dataset, settings: Config) -> Dataset:
    """`choose_images`, as `settings` say."""
    return choose_images(data, settings.fold, settings.folds, settings.train_share, settings.folds_of)


def choose_images(data: Dataset, fold: int | None, folds: int, train_share: float, of: str = "all") -> Dataset:
    """Return `data` split otherwise: by a fold, with less to train on, or both; `data` itself where neither is asked.

    Of `folds` parts of the labelled images (see `deal`), `fold` is the test set, the next one (after the last the
    first) the validation set, and the others are trained on. No part has a part only of the copies or near-duplicates
    of an image, or of a group that the data set names. Which images are in which part does not depend on the run's
    seed, so that trainings with other seeds are judged on the same images.

    Args:
        data: as it is stored.
        fold: from 0, below `folds`; None: the stored splits.
        folds: at least 3.
        of: "all" the labelled images are in the parts; or "train_and_validation", those of the stored test set in none.
        train_share: above 0, at most 1: of the distinct training images of each class, but at least one. A smaller
            share's images are among those of a larger one.

    Raises:
        FrostlineError: a part would have no image, or the training set none of a class.
    """
    if fold is None and train_share == 1:
        return data
    labels, pixels, _ = _contents(data)
    rows = {"train": np.arange(len(data.names("train")))}  # the first of all: see Dataset.rows
    if fold is not None:
        part = _parts(data, folds, of)
        test, validation = part == fold, part == (fold + 1) % folds
        chosen = {"train": (part >= 0) & ~test & ~validation, "validation": validation, "test": test}
        rows = {split: np.flatnonzero(of_split) for split, of_split in chosen.items()}
    if empty := [split for split in SPLITS if split in rows and not len(rows[split])]:
        raise FrostlineError(
            f"fold={fold} with folds={folds}: the {empty[0]} set would have no image.\nUse fewer folds, or add images."
        )
    if fold is not None and (untrained := set(labels.tolist()) - set(labels[rows["train"]].tolist())):
        raise FrostlineError(
            f"fold={fold} with folds={folds}: all images of class {data.classes[min(untrained)]!r} belong together "
            "(near-duplicates or preprocess.group), and none could be trained on.\nAdd other images of it."
        )
    rows["train"] = _share(rows["train"], labels, pixels, train_share)
    digest = digest_of([data.digest, {split: chosen.tolist() for split, chosen in rows.items()}])
    return replace(data, digest=digest, rows=rows)


@functools.lru_cache(maxsize=1)  # a trial asks several times
def _parts(data: Dataset, folds: int, of: str) -> np.ndarray:
    """Of each image its part, (N,) from 0; -1 for those that are in none."""
    labels, pixels, names = _contents(data)
    dealt = np.arange(len(labels) - (0 if of == "all" else len(data.names("test"))))  # SPLITS ends with the test set
    together = _together(data, pixels, names, len(dealt) / folds)
    parts = np.full(len(labels), -1)
    parts[dealt] = deal(labels[dealt], pixels[dealt], together[dealt], [1 / folds] * folds, "fold")
    return parts


def _together(data: Dataset, pixels: np.ndarray, names: np.ndarray, fold: float) -> np.ndarray:
    """Which images may not be parted, (N,) group numbers.

    A chain of near-duplicates that no `fold`, of so many images, can hold is parted, and it is said: it is no one
    picture.
    """
    named = joined([pixels.tolist(), names.tolist()])
    alike = joined([named.tolist()], _near_duplicates(data).tolist())
    sizes = np.bincount(alike)
    too_large = sizes > max(fold, int(np.max(np.bincount(named))))
    if too_large.any():
        _log.warning("%d near-duplicates are one chain, larger than a fold: folds part them", sizes[too_large].sum())
    return np.where(too_large[alike], len(sizes) + named, alike)


def _near_duplicates(data: Dataset) -> np.ndarray:
    """Pairs of near-duplicates among the stored labelled images, (P, 2) int; found once for each data set."""
    made_of = [data.stored_digest, data.fit, code_digest("frostline.training.near_duplicates")]
    path = NEAR_DUPLICATES / f"{digest_of(made_of)}.npy"
    if not path.is_file():
        from frostline.training.near_duplicates import near_duplicates, thumbnails  # only folds need it

        pairs = near_duplicates(np.concatenate([thumbnails(data.stored_images(split), data.fit) for split in SPLITS]))
        found = np.array([(pair.first, pair.second) for pair in pairs], np.int64).reshape(-1, 2)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, found, allow_pickle=False)
    kept: np.ndarray = np.load(path, allow_pickle=False)
    return kept


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


@functools.lru_cache(maxsize=1)
def _contents(data: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the stored labelled images, in the order of SPLITS: labels, digests of the pixels, and the groups' names."""
    found: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}
    with (data.folder / MANIFEST_FILE).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["split"] in found:
                found[row["split"]].append((row["pixels"], row["group"]))
    pixels, names = zip(*(pair for split in SPLITS for pair in found[split]), strict=True)
    return np.concatenate([data.labels(split) for split in SPLITS]), np.array(pixels), np.array(names)
