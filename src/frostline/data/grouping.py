"""Images that belong together, and parts of the data that keep them together."""

import hashlib
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from frostline.runtime.errors import FrostlineError


def named_groups(paths: Sequence[str], pattern: str) -> list[str]:
    """Return the group of each of `paths`: what the first group of the regular expression finds there, or all of it.

    Raises FrostlineError if it finds nothing, or an empty text, in one of them: such images would be without a group.
    """
    matches = [re.search(pattern, path) for path in paths]
    groups = [match[1 if match.re.groups else 0] if match else None for match in matches]
    if missed := [path for path, group in zip(paths, groups, strict=True) if not group]:
        raise FrostlineError(
            f"preprocess.group={pattern!r} finds nothing in {len(missed):,} of {len(paths):,} paths. First: {missed[0]}"
            "\nIt is a regular expression that each labelled image's path must fit; null: no groups."
        )
    return [group for group in groups if group]


def joined(keys: Sequence[Sequence[Hashable]], pairs: Iterable[tuple[int, int]] = ()) -> NDArray[np.int64]:
    """Return the group of each image, (N,), from 0: images are together that share a key or are a pair, or by a chain.

    Args:
        keys: lists of N keys each, at least one. An empty text is no key.
        pairs: of images' places.
    """
    from scipy.sparse import coo_array  # takes a quarter of a second
    from scipy.sparse.csgraph import connected_components

    links = list(pairs)
    for key_of in keys:
        first: dict[Hashable, int] = {}
        links += [(place, place if key == "" else first.setdefault(key, place)) for place, key in enumerate(key_of)]
    ends = np.array(links).T
    graph = coo_array((np.ones(len(links), bool), (ends[0], ends[1])), shape=(len(keys[0]), len(keys[0])))
    groups: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return groups


def deal(
    labels: np.ndarray, pixels: np.ndarray, groups: np.ndarray, shares: Sequence[float], name: str
) -> NDArray[np.int64]:
    """Return the part of each image, (N,), from 0: whole groups are dealt out to so many parts as there are `shares`.

    The largest groups come first, then class by class those of one size, in the order of a hash of their content that
    `name` enters. Each goes to the part that lacks most of the class that most of the group is of; between equal ones
    to that which lacks most in all, then to the first. A class's last groups go to the parts that have none of it. So
    single images end with parts that differ from their shares by less than one image in each class, and in all.

    Args:
        labels: (N,) class indices.
        pixels: (N,) digests of the content; copies count once.
        groups: (N,); copies are in one group.
        shares: of the distinct images, by part; they sum to 1.
        name: another one gives another dealing.
    """
    content: dict[int, dict[str, int]] = {}
    for group, digest, label in zip(groups.tolist(), pixels.tolist(), labels.tolist(), strict=True):
        content.setdefault(group, {})[digest] = label
    counts = {group: Counter(sorted(images.values())) for group, images in content.items()}
    main = {group: count.most_common(1)[0][0] for group, count in counts.items()}
    rank = {group: hashlib.sha256(f"{name}/{min(images)}".encode()).digest() for group, images in content.items()}
    total: Counter[int] = sum(counts.values(), Counter())
    left = Counter(main.values())
    held: list[Counter[int]] = [Counter() for _ in shares]
    part_of: dict[int, int] = {}
    for group in sorted(content, key=lambda group: (-len(content[group]), main[group], rank[group])):
        label = main[group]
        empty = [part for part in range(len(shares)) if not held[part][label]]
        among = empty if left[label] <= len(empty) else range(len(shares))
        part = max(
            among,
            key=lambda part: (
                shares[part] * total[label] - held[part][label],
                shares[part] * total.total() - held[part].total(),
                -part,
            ),
        )
        held[part] += counts[group]
        left[label] -= 1
        part_of[group] = part
    return np.array([part_of[group] for group in groups.tolist()], np.int64)
