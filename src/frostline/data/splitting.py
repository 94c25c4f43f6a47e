"""Which image belongs to the training, validation and test set: decided by content, class by class."""

import hashlib
import math
from collections.abc import Mapping, Sequence

from frostline.data.dataset import SPLITS
from frostline.runtime.errors import FrostlineError


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

    split_of: dict[str, str] = {}
    for name in sorted(distinct):
        ranked = sorted(distinct[name], key=lambda digest: (_rank(seed, digest), digest))
        count = len(ranked)
        if count < len(SPLITS):
            raise FrostlineError(
                f"Class {name!r} has only {count} distinct readable image{'s' * (count != 1)}: "
                "too few for a training, a validation and a test set.\nAdd images of that class."
            )
        test_end = min(max(_nearest(shares["test"] * count), 1), count - 2)
        validation_end = _nearest((shares["test"] + shares["validation"]) * count)
        validation_end = min(max(validation_end, test_end + 1), count - 1)
        for position, digest in enumerate(ranked):
            split_of[digest] = "test" if position < test_end else "validation" if position < validation_end else "train"
    return [split_of[digest] for digest in digests]


def _rank(seed: int, digest: str) -> bytes:
    return hashlib.sha256(f"{seed}/split/{digest}".encode()).digest()


def _nearest(value: float) -> int:
    return math.floor(value + 0.5)
