"""Near-duplicates: pairs of images that are one picture, saved again, scaled, mirrored or cropped a little."""

from collections.abc import Iterator
from dataclasses import dataclass

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frostline.common.files import release
from frostline.common.fit_names import SQUASH, Fit
from frostline.data.fitting import without_margins
from frostline.runtime.progress import track

SIMILAR = 0.97
"""Pairs that correlate so much, once aligned, are near-duplicates: benchmarks/audit.py measures what that finds."""
_SIDE = 48  # pixels of a thumbnail
_HASH_BITS = 16  # of 64 that may differ: no planted copy had more
_LEVELS = ((8, 0, 0.85), (16, 4, 0.92), (_SIDE, 6, SIMILAR))
"""From coarse to fine: at so many pixels a side, after so many steps of alignment, candidates correlate at least so."""
_MOST_CROPPED = 0.08  # of the side, at each edge
_BLOCK = 1024  # images of a block of hashes
_PAIRS = 256  # in a block that is aligned: more fell out of the processor's cache

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Pair:
    first: int
    second: int
    """Rows; `first` is the smaller one."""
    similarity: float
    """The correlation of their colours, at most 1."""
    mirrored: bool


def thumbnails(images: np.ndarray, fit: Fit = SQUASH) -> NDArray[np.uint8]:
    """Return `images`, (N, size, size, 3) uint8, at 48 pixels a side; their memory map lets go of what was read.

    Without the margins that `fit` has put around them, in which all are alike.
    """
    small = np.empty((len(images), _SIDE, _SIDE, 3), np.uint8)
    for row, image in enumerate(images):
        picture = without_margins(image) if fit == "pad" else image
        small[row] = np.asarray(Image.fromarray(picture).resize((_SIDE, _SIDE), Image.Resampling.BOX))
        if row % _BLOCK == 0:
            release(images)
    return small


def near_duplicates(images: NDArray[np.uint8]) -> list[Pair]:
    """Return the pairs among `images` (as `thumbnails` makes them) that are one picture, the most similar first.

    Candidates are pairs of which few bits differ in their difference hashes (imagehash.dhash: Krawetz 2013, "Kind of
    Like That"), as they are or with one mirrored. Of these one is cropped so that it fits the other best, and the
    correlation of all pixels' colours decides. Only hashes, 8 bytes each, are compared for all pairs.
    """
    hashes, turned = _hashes(images), _hashes(images[:, :, ::-1])
    levels = [_reduced(images, side) for side, _, _ in _LEVELS]
    best: dict[tuple[int, int], Pair] = {}
    with track("duplicates", len(images), "images") as advance:
        for start in range(0, len(images), _BLOCK):
            for others, mirrored in ((hashes, False), (turned, True)):
                first, second = _candidates(hashes, others, start)
                for pair in _compared(levels, first, second, mirrored):
                    key = (pair.first, pair.second)
                    if key not in best or pair.similarity > best[key].similarity:
                        best[key] = pair
            advance(len(hashes[start : start + _BLOCK]))
    return sorted(best.values(), key=lambda pair: (-pair.similarity, pair.first, pair.second))


def _hashes(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    bits = [imagehash.dhash(Image.fromarray(np.ascontiguousarray(image))).hash.ravel() for image in images]
    return np.packbits(np.reshape(bits, (-1, 64)), axis=1).view(np.uint64).ravel()


def _candidates(hashes: NDArray[np.uint64], others: NDArray[np.uint64], start: int) -> tuple[Rows, Rows]:
    """Pairs of a row of the block at `start` and a later one."""
    differing = np.bitwise_count(hashes[start : start + _BLOCK, None] ^ others[None, start:])
    first, second = np.nonzero(np.triu(differing <= _HASH_BITS, 1))
    return first + start, second + start


def _compared(levels: list[NDArray[np.uint8]], first: Rows, second: Rows, mirrored: bool) -> Iterator[Pair]:
    """Those of the candidates that are near-duplicates."""
    edges = np.zeros((2, len(first), 4), np.float32)
    similarity = np.zeros(len(first), np.float32)
    for images, (_, steps, least) in zip(levels, _LEVELS, strict=True):
        for at in range(0, len(first), _PAIRS):
            part = slice(at, at + _PAIRS)
            own, other = images[first[part]].astype(np.float32), images[second[part]].astype(np.float32)
            if mirrored:
                other = other[:, :, ::-1]
            forth, back = edges[:, part]
            similarity[part] = np.maximum(_align(own, other, forth, steps), _align(other, own, back, steps))
        kept = similarity >= least
        first, second, similarity, edges = first[kept], second[kept], similarity[kept], edges[:, kept]
    for row, column, value in zip(first, second, similarity, strict=True):
        yield Pair(int(row), int(column), min(float(value), 1.0), mirrored)


def _align(target: Floats, moving: Floats, edges: Floats, steps: int) -> Floats:
    """Return the correlation of each `target` with its `moving` image, cropped at the four edges as fits best, (N,).

    `edges`, (N, 4), says where they are to begin with, in shares of the side, and afterwards where they came to be.
    Gauss-Newton on the difference of the normalized images (Lucas & Kanade 1981; with the normalization, Evangelidis &
    Psarakis 2008, "Parametric image alignment using enhanced correlation coefficient maximization").
    """
    aim, small = _unit(target), np.float32(1 / target.shape[1])  # one pixel
    best, now = np.full(len(target), -1, np.float32), edges.copy()
    for step in range(steps + 1):
        seen = _unit(_cropped(moving, now) if steps else moving)
        correlation = (seen * aim).sum(axis=1)
        better = correlation > best
        best[better], edges[better] = correlation[better], now[better]
        if step < steps:
            shifted = [_unit(_cropped(moving, now + small * edge)) for edge in np.eye(4, dtype=np.float32)]
            change = np.stack(shifted, axis=1) - seen[:, None]
            curvature = change @ change.swapaxes(1, 2) + 1e-4 * np.eye(4, dtype=np.float32)
            now += small * np.linalg.solve(curvature, change @ (aim - seen)[..., None])[..., 0]
            np.clip(now, -_MOST_CROPPED, _MOST_CROPPED, out=now)
    return best


def _cropped(images: Floats, edges: Floats) -> Floats:
    """Each image between its left, right, top and bottom edges, moved by shares of the side, scaled to the whole.

    Bilinear, as two matrix products; beyond the image its last pixels go on.
    """
    count, side = images.shape[:2]
    grid = np.arange(side, dtype=np.float32)

    def weights(low: Floats, high: Floats) -> Floats:
        at = side * low[:, None] + (1 + high - low)[:, None] * grid
        near: Floats = np.maximum(1 - np.abs(np.clip(at, 0, side - 1)[..., None] - grid), 0)
        return near

    rows = weights(edges[:, 2], edges[:, 3]) @ images.reshape(count, side, side * 3)
    whole: Floats = weights(edges[:, 0], edges[:, 1])[:, None] @ rows.reshape(count, side, side, 3)
    return whole


def _unit(images: Floats) -> Floats:
    """Each image without its edge (a crop moves what is there), as a vector of mean 0 and length 1, (N, …)."""
    edge = images.shape[1] // 16
    middle = slice(edge, images.shape[1] - edge)
    vectors = images[:, middle, middle].reshape(len(images), -1)
    vectors = vectors - vectors.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = (vectors / np.maximum(lengths, 1e-3)).astype(np.float32, copy=False)
    return unit


def _reduced(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The mean of each square of pixels."""
    count, step = len(images), images.shape[1] // side
    if step == 1:
        return images
    reduced = np.empty((count, side, side, 3), np.uint8)
    for start in range(0, count, _BLOCK):
        squares = images[start : start + _BLOCK].reshape(-1, side, step, side, step, 3)
        reduced[start : start + _BLOCK] = squares.mean(axis=(2, 4), dtype=np.float32).round()
    return reduced
