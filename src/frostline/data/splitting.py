"""Which image belongs to the training, validation and test set: decided by content, class by class, or given."""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from frostline.data.dataset import SPLITS, Split
from frostline.data.folder_names import part_of
from frostline.data.grouping import deal, joined
from frostline.runtime.errors import FrostlineError, classes_named


def assign_splits(classes: Sequence[str], digests: Sequence[str], seed: int, shares: Mapping[str, float]) -> list[str]:
    """Return the split of each image, given its class and the digest of its content.

    In each class the distinct digests are put in the order of a hash keyed with `seed`: the first
    ``shares["test"]`` of them are the test set, the next ``shares["validation"]`` the validation set, the
    rest the training set. Neither names nor the order of the images matter. Promised:

    - images with the same digest get the same split (a digest in two classes is a ValueError);
    - per class, each split has at least one distinct digest, and their count is within one of its exact share
      where that is one or more for every split;
    - k more distinct images in a class move at most k of those already there across each of the boundaries
      test | validation | train, usually about sqrt(k) / 2; the other classes keep theirs.

    Raises FrostlineError if a class has fewer than three distinct images.
    """
    distinct: dict[str, set[str]] = {}
    class_of: dict[str, str] = {}
    for name, digest in zip(classes, digests, strict=True):
        if class_of.setdefault(digest, name) != name:
            raise ValueError(f"digest {digest} stands in two classes, {class_of[digest]} and {name}")
        distinct.setdefault(name, set()).add(digest)

    if few := _fewer_than(len(SPLITS), distinct):
        raise FrostlineError(
            f"Too few distinct readable images for a training, a validation and a test set in {few}.\n"
            "Add images there, or leave that out."
        )
    split_of: dict[str, str] = {}
    for name in sorted(distinct):
        ranked = sorted(distinct[name], key=lambda digest: (_rank(seed, digest), digest))
        count = len(ranked)
        test_end = min(max(_nearest(shares["test"] * count), 1), count - 2)
        validation_end = _nearest((shares["test"] + shares["validation"]) * count)
        validation_end = min(max(validation_end, test_end + 1), count - 1)
        for position, digest in enumerate(ranked):
            split_of[digest] = "test" if position < test_end else "validation" if position < validation_end else "train"
    return [split_of[digest] for digest in digests]


def assign_groups(
    classes: Sequence[str], digests: Sequence[str], groups: Sequence[str], seed: int, shares: Mapping[str, float]
) -> list[Split]:
    """Return the split of each image so that copies, and images of one of `groups`, stand in one.

    See `grouping.deal`: splits have their shares as far as whole groups allow.

    Raises FrostlineError if a class has no image in one of the splits.
    """
    labels = np.unique(classes, return_inverse=True)[1]
    together = joined([digests, groups])
    names = [split for split in SPLITS if split in shares]
    parts = deal(labels, np.array(digests), together, [shares[name] for name in names], f"{seed}/split")
    splits = [names[part] for part in parts]
    there = set(zip(classes, splits, strict=True))
    if lacking := [name for name in sorted(set(classes)) if any((name, split) not in there for split in names)]:
        groups_of = Counter(name for name, _ in set(zip(classes, together.tolist(), strict=True)))
        few = classes_named([f"{name!r} ({groups_of[name]} group{'s' * (groups_of[name] != 1)})" for name in lacking])
        raise FrostlineError(
            f"Whole groups (preprocess.group) do not give each of {', '.join(names)} images of {few}.\n"
            "Add images of other groups there, or group more finely."
        )
    return splits


def given_splits(names: Sequence[str]) -> list[Split]:
    """Return our split for each of a data set's own, by its name: ``train``, ``val``, ``test1``.

    Raises FrostlineError if there are none, if one is called otherwise, or if none is for training.
    """
    if not any(names):
        raise FrostlineError(
            "preprocess.splits=given, but the data have no splits of their own.\nUse preprocess.splits=random."
        )
    parts = {name: part_of(name) for name in names}
    if None in parts.values() or "train" not in parts.values():
        found = ", ".join(name or "(images in none)" for name in sorted(parts))
        raise FrostlineError(
            f"preprocess.splits=given takes folders called train, val, test and the like, not {found}.\n"
            "Rename them, or use preprocess.splits=random."
        )
    return [part for name in names if (part := parts[name])]


def complete_splits(
    classes: Sequence[str],
    digests: Sequence[str],
    groups: Sequence[str],
    given: Sequence[Split],
    seed: int,
    shares: Mapping[str, float],
) -> list[Split]:
    """Return the `given` split of each image; a test or validation set that is missing is cut from the training images.

    It is cut as by `assign_splits`, or `assign_groups` where the images have groups (else "" each), with the share that
    it has of `shares` without the sets that are there.

    Raises FrostlineError if a class is not in each of the three.
    """
    missing: list[Split] = [split for split in ("test", "validation") if split not in given]
    _check_given(classes, digests, groups, given, missing)
    total = shares["train"] + sum(shares[split] for split in missing)
    wanted: dict[str, float] = {split: shares[split] / total for split in ("train", *missing)}
    if missing and any(groups):
        return _cut_groups(classes, digests, groups, given, seed, wanted)
    return _cut_images(classes, digests, given, seed, wanted)


def _check_given(
    classes: Sequence[str],
    digests: Sequence[str],
    groups: Sequence[str],
    given: Sequence[Split],
    missing: Sequence[Split],
) -> None:
    """Raise where a set that is there lacks a class, or the training set the images to cut the `missing` ones from."""
    there = set(zip(classes, given, strict=True))
    problems = []
    for split in SPLITS:
        lacking = [repr(name) for name in sorted(set(classes)) if (name, split) not in there]
        if lacking and split not in missing:
            problems.append(f"the {split} set has no image of {classes_named(lacking)}")
    if not any(groups) and (few := _fewer_than(1 + len(missing), _in_train(classes, digests, given))):
        problems.append(f"too few distinct training images to cut a {' and a '.join(missing)} set from in {few}")
    if problems:
        raise FrostlineError(
            f"preprocess.splits=given: {'; '.join(problems)}.\nAdd some, or use preprocess.splits=random."
        )


def _in_train(classes: Sequence[str], digests: Sequence[str], given: Sequence[Split]) -> dict[str, set[str]]:
    """Each class' distinct training images."""
    found: dict[str, set[str]] = {}
    for name, digest, split in zip(classes, digests, given, strict=True):
        if split == "train":
            found.setdefault(name, set()).add(digest)
    return found


def _fewer_than(count: int, distinct: Mapping[str, set[str]]) -> str:
    """Which classes have fewer images, and how many; empty if none has."""
    few = [f"{name!r} ({len(images)})" for name, images in sorted(distinct.items()) if len(images) < count]
    return classes_named(few) if few else ""


def _cut_groups(
    classes: Sequence[str],
    digests: Sequence[str],
    groups: Sequence[str],
    given: Sequence[Split],
    seed: int,
    wanted: Mapping[str, float],
) -> list[Split]:
    """`given`, but the training images dealt out in whole groups, by the shares that are `wanted` of them."""
    rows = [row for row, split in enumerate(given) if split == "train"]
    own_classes, own_digests, own_groups = ([all_of[row] for row in rows] for all_of in (classes, digests, groups))
    splits = list(given)
    for row, split in zip(rows, assign_groups(own_classes, own_digests, own_groups, seed, wanted), strict=True):
        splits[row] = split
    return splits


def _cut_images(
    classes: Sequence[str], digests: Sequence[str], given: Sequence[Split], seed: int, wanted: Mapping[str, float]
) -> list[Split]:
    """`given`, but of each class' distinct training images the shares that are `wanted` go to the other sets."""
    missing: list[Split] = [split for split in ("test", "validation") if split in wanted]
    moved: dict[tuple[str, str], Split] = {}
    for name, distinct in _in_train(classes, digests, given).items():
        ranked = sorted(distinct, key=lambda digest: (_rank(seed, digest), digest))
        for left, split in zip(range(len(missing), 0, -1), missing, strict=True):  # one each for these and for training
            count = min(max(_nearest(wanted[split] * len(distinct)), 1), len(ranked) - left)
            moved |= {(name, digest): split for digest in ranked[:count]}
            ranked = ranked[count:]
    return [
        moved.get((name, digest), split) if split == "train" else split
        for name, digest, split in zip(classes, digests, given, strict=True)
    ]


def _rank(seed: int, digest: str) -> bytes:
    return hashlib.sha256(f"{seed}/split/{digest}".encode()).digest()


def _nearest(value: float) -> int:
    return math.floor(value + 0.5)
