"""From the archive to data/processed: every image decoded once by all cores, checked, split and written."""

import functools
import hashlib
import itertools
import logging
import os
import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from frostline.common.files import replacing, sha256_of, write_csv, write_json
from frostline.common.fit_names import SQUASH, Fit
from frostline.data.archive import Listing, Member, UnreadableMemberError, list_images, read_member
from frostline.data.corrections import DROPPED, corrected
from frostline.data.dataset import (
    CLASSES_FILE,
    FIT_FILE,
    MANIFEST_COLUMNS,
    MANIFEST_FILE,
    SPLITS,
    UNLABELLED,
    images_file,
    labels_file,
)
from frostline.data.folder_names import is_fold, part_of
from frostline.data.grouping import named_groups
from frostline.data.images import UnreadableImageError, decode_image
from frostline.data.layout import AS_IT_SEEMS, EXPECTED, Reading
from frostline.data.splitting import assign_groups, assign_splits, complete_splits, given_splits
from frostline.runtime import ray_pool
from frostline.runtime.errors import FrostlineError, classes_named
from frostline.runtime.process_pool import cores, mapped
from frostline.runtime.progress import track

_log = logging.getLogger(__name__)

OK = "ok"
_SPLIT_ORDER = (*SPLITS, UNLABELLED, "")
_CHUNK_BYTES = 4 << 20  # of decoded images, about: what a worker takes on at once


@dataclass(frozen=True)
class Summary:
    classes: list[str]
    counts: dict[str, dict[str, int]]
    """Images per split and class."""
    unlabelled: int
    rejected: dict[str, int]
    """Images per reason, labelled or not."""
    duplicates: dict[str, int]
    """`groups` of labelled images that decode to the same pixels, and the `images` in them; where the splits are given
    and some groups lie in several, `groups_across_splits`."""
    ignored: int
    """Files of the archive outside its layout."""
    digest: str
    """SHA-256 of the manifest."""


@dataclass
class Entry:
    """One line of the manifest."""

    path: str
    label: str | None
    """None: unlabelled."""
    sha256: str = ""
    size: int | None = None
    pixels: str = ""
    verdict: str = OK
    split: str = ""
    chunk: int = -1
    row: int = -1
    """Where the decoded image lies: the name of the staged file, and the row in it."""
    own_split: str = ""
    """The data set's own."""
    group: str = ""
    """Of images that no split parts."""


def preprocess(
    archive: Path,
    folder: Path,
    *,
    size: int,
    seed: int,
    shares: Mapping[str, float],
    max_rejected: float,
    reading: Reading = AS_IT_SEEMS,
    processes: int | Literal["ray"] | None = None,
) -> Summary:
    """Write the images of `archive` to `folder`, whole or not at all, and say what they are.

    Per split, `folder` gets ``<split>.npy``, (N, size, size, 3) uint8 RGB, and ``<split>_labels.npy``, (N,)
    uint8 (wider past 256 classes), with splits train, validation and test by `assign_splits`, or given as `reading`
    says; ``unlabelled.npy`` if there are such images; ``classes.json``; and ``manifest.csv``, whose rows stand in the
    order of the arrays; where `reading` does not squash pictures, ``fit.json``, too. What the archive's folders were
    taken for is said on stderr.
    Images that cannot be read, those whose pixels occur in several classes, and those that the user drops (see
    `corrected`) are rejected: they are only in the manifest, with the reason. The bytes do not depend on `processes`:
    how many decode here (default: on all cores), or "ray" for all processors of a Ray cluster (see `ray_pool.mapped`,
    and its errors).

    Raises FrostlineError if the archive is unusable, if there are not at least two classes, if a class has no
    image left, or if more than the share `max_rejected` of the labelled images is rejected, not counting those that the
    user drops; and as `corrected` does.
    """
    with replacing(folder) as temporary:
        temporary.mkdir()
        with tempfile.TemporaryDirectory(dir=temporary) as scratch:
            listing = list_images(archive, Path(scratch), reading)
            classes = _classes(listing, reading.shown_as or str(archive))
            members, told = corrected(listing.members, reading.corrections)
            _say(_understood(listing, reading), *listing.notes, *filter(None, [told]))
            staging = Path(scratch) / "decoded"
            staging.mkdir()
            entries = _decode_all(members, staging, size, reading.fit, processes)
            _reject_contradictions(entries)
            _check_losses(entries, classes, max_rejected)
            _assign(entries, seed, shares, reading)
            entries.sort(key=_manifest_order)
            _write_arrays(entries, staging, temporary, size, classes)
        write_json(temporary / CLASSES_FILE, classes)
        if reading.fit != SQUASH:
            write_json(temporary / FIT_FILE, reading.fit)
        write_csv(temporary / MANIFEST_FILE, MANIFEST_COLUMNS, map(_manifest_row, entries))
        digest = sha256_of(temporary / MANIFEST_FILE)
    summary = _summary(entries, classes, listing.ignored, digest)
    if across := summary.duplicates.get("groups_across_splits"):
        _say(f"{across:,} images have copies in another of the given splits: what is measured there is too good")
    return summary


def _say(*lines: str) -> None:
    for line in lines:
        _log.info(line)


def _understood(listing: Listing, reading: Reading) -> str:
    """What the folders were taken for, and what that means for the splits.

    Raises FrostlineError where splits are to be kept that cannot be.
    """
    own = [member.split for member in listing.members if member.label]
    parts = {part_of(split) for split in own}
    if reading.splits == "given":
        missing = [split for split in SPLITS if split not in given_splits(own)]
        kept = listing.understood.replace("pooled from", "with the splits")
        return kept + (f"; {' and '.join(missing)} cut from train" if missing else "")
    can_be_kept = "train" in parts and len(parts - {None}) > 1
    return listing.understood + ("; split anew: preprocess.splits=given keeps its own" if can_be_kept else "")


def _classes(listing: Listing, where: str) -> list[str]:
    classes = sorted({member.label for member in listing.members if member.label})
    if len(classes) < 2:
        if part_of(classes[0]) or is_fold(classes[0]):
            raise FrostlineError(f"{where} has 1 class: {classes[0]}, which is called as a split is.\n{EXPECTED}")
        notes = "".join(f" ({note})" for note in listing.notes)
        raise FrostlineError(
            f"{where} has 1 class: {', '.join(classes)}{notes}.\nTwo or more are needed: add another one."
        )
    return classes


# Decoding


def _decode_all(
    members: Sequence[Member], staging: Path, size: int, fit: Fit, processes: int | Literal["ray"] | None
) -> list[Entry]:
    """Decode every member, in order. The workers write the good ones to files in the folder `staging`.

    Sent back to this process and written here, pixels would be copied three times more.
    """
    length = max(1, min(32, _CHUNK_BYTES // (size * size * 3)))
    chunks = [Chunk(start, members[start : start + length]) for start in range(0, len(members), length)]
    decode = functools.partial(_decode_chunk, staging=staging, size=size, fit=fit)
    if processes == "ray":
        results = ray_pool.mapped(decode, chunks)
    else:
        results = mapped(decode, chunks, min(processes or cores(), len(chunks)))
    entries: list[Entry] = []
    with track("preprocess", len(members), "images") as advance, closing(results):
        for decoded in results:
            entries += decoded
            advance(len(decoded))
    return entries


class Chunk(NamedTuple):
    start: int
    """Which member is the first; the file of the decoded images is named so."""
    members: Sequence[Member]


def _decode_chunk(chunk: Chunk, staging: Path, size: int, fit: Fit) -> list[Entry]:
    entries, rows = [], itertools.count()
    with (staging / str(chunk.start)).open("wb") as file:
        for member in chunk.members:
            entry, pixels = _decode_member(member, size, fit)
            if entry.verdict == OK:
                entry.chunk, entry.row = chunk.start, next(rows)
                file.write(pixels)
            entries.append(entry)
    return entries


@functools.lru_cache(maxsize=2)
def _zip_file(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)  # a worker opens each zip once, for its lifetime


def _decode_member(member: Member, size: int, fit: Fit) -> tuple[Entry, bytes]:
    entry = Entry(member.name, member.label, verdict=member.refusal or OK, own_split=member.split)
    pixels = b""
    if not member.refusal:
        try:
            data = read_member(_zip_file(member.source), member.index)
            entry.sha256, entry.size = hashlib.sha256(data).hexdigest(), len(data)
            pixels = decode_image(data, size, fit).tobytes()
            entry.pixels = hashlib.sha256(pixels).hexdigest()
        except (UnreadableMemberError, UnreadableImageError) as error:
            entry.verdict = str(error)
    return entry, pixels


# Judging


def _reject_contradictions(entries: Sequence[Entry]) -> None:
    """Reject labelled images whose pixels occur in several classes: nobody can say which label is right."""
    labelled = [entry for entry in entries if entry.label and entry.verdict == OK]
    classes_of: dict[str, set[str]] = {}
    for entry in labelled:
        classes_of.setdefault(entry.pixels, set()).add(entry.label or "")
    for entry in labelled:
        classes = sorted(classes_of[entry.pixels])
        if len(classes) > 1:
            entry.verdict = f"same image in classes {' and '.join(classes)}"


def _check_losses(entries: Sequence[Entry], classes: Sequence[str], max_rejected: float) -> None:
    labelled = [entry for entry in entries if entry.label is not None]
    lost = [entry for entry in labelled if entry.verdict not in (OK, DROPPED)]
    dropped = [entry for entry in labelled if entry.verdict == DROPPED]
    kept = {entry.label for entry in labelled if entry.verdict == OK}
    if gone := [repr(name) for name in classes if name not in kept]:
        reasons, first = _why([entry for entry in labelled if entry.label and entry.label not in kept])
        raise FrostlineError(f"No image of {classes_named(gone)} is usable; rejected: {reasons}.\n{first}")
    if len(lost) > max_rejected * (len(labelled) - len(dropped)):
        reasons, first = _why(lost)
        raise FrostlineError(
            f"{len(lost)} of {len(labelled) - len(dropped)} labelled images are rejected ({reasons}): more than "
            f"preprocess.max_rejected={max_rejected:g} allows; mend or remove them, or raise it.\n{first}"
        )


def _why(rejected: Sequence[Entry]) -> tuple[str, str]:
    """The reasons that are most frequent, and the first images, in words."""
    counts = Counter(entry.verdict for entry in rejected).most_common(5)
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts)
    return reasons, "First: " + "; ".join(f"{entry.path} ({entry.verdict})" for entry in rejected[:5])


def _assign(entries: Sequence[Entry], seed: int, shares: Mapping[str, float], reading: Reading) -> None:
    """Set the splits by the decoded pixels: an image that was copied into another file is still the same."""
    good = [entry for entry in entries if entry.verdict == OK]
    labelled = [entry for entry in good if entry.label is not None]
    labels = [entry.label or "" for entry in labelled]
    pixels = [entry.pixels for entry in labelled]
    if reading.group:
        for entry, group in zip(labelled, named_groups([entry.path for entry in labelled], reading.group), strict=True):
            entry.group = group
    groups = [entry.group for entry in labelled]
    if reading.splits == "given":
        given = given_splits([entry.own_split for entry in labelled])
        splits: Sequence[str] = complete_splits(labels, pixels, groups, given, seed, shares)
        places = {(entry.group, split) for entry, split in zip(labelled, splits, strict=True) if entry.group}
        if across := sum(count > 1 for count in Counter(group for group, _ in places).values()):
            _say(f"{across:,} groups stand in more than one of the given splits: what is measured there is too good")
    elif reading.group:
        splits = assign_groups(labels, pixels, groups, seed, shares)
    else:
        splits = assign_splits(labels, pixels, seed, shares)
    for entry in good:
        entry.split = UNLABELLED
    for entry, split in zip(labelled, splits, strict=True):
        entry.split = split


def _manifest_order(entry: Entry) -> tuple[int, list[tuple[str, int, str]], str]:
    """By split, then by path with cat.2.jpg before cat.10.jpg: numbers compare by length, then by digits."""
    pieces = [*re.split(r"([0-9]+)", entry.path), ""]
    numbers = [number.lstrip("0") for number in pieces[1::2]]
    natural = [(text, len(number), number) for text, number in zip(pieces[::2], numbers, strict=True)]
    return _SPLIT_ORDER.index(entry.split), natural, entry.path


# Writing


def _write_arrays(entries: Sequence[Entry], staging: Path, folder: Path, size: int, classes: Sequence[str]) -> None:
    """Move the images in `staging` into one file per split, in the order of `entries`."""
    row_bytes, label_of = size * size * 3, {name: label for label, name in enumerate(classes)}
    label_type = np.min_scalar_type(len(classes) - 1)
    moves: dict[int, list[Move]] = {}
    with ExitStack() as stack:
        for split in (*SPLITS, UNLABELLED):
            chosen = [entry for entry in entries if entry.split == split]
            if not chosen:
                continue
            target = stack.enter_context((folder / images_file(split)).open("wb", buffering=0))
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(chosen), size, size, 3)}
            np.lib.format.write_array_header_1_0(target, header)
            start = target.tell()
            for row, entry in enumerate(chosen):
                moves.setdefault(entry.chunk, []).append((entry.row, target.fileno(), start + row * row_bytes))
            if split != UNLABELLED:
                labels = np.array([label_of[entry.label or ""] for entry in chosen], label_type)
                np.save(folder / labels_file(split), labels, allow_pickle=False)
        pool = stack.enter_context(ThreadPoolExecutor(cores()))
        list(pool.map(lambda chunk: _move(staging / str(chunk), moves[chunk], row_bytes), sorted(moves)))


Move = tuple[int, int, int]
"""A row of a staged file, the descriptor of the file that it goes to, and the offset there."""


def _move(staged: Path, moves: Sequence[Move], row_bytes: int) -> None:
    """Copy rows of the file `staged` and delete it: most of it was not on the disk yet, and now need not go there.

    Plain reads and writes: a memory map counts as resident memory, and a full disk kills its process.
    """
    with staged.open("rb") as file:
        for row, target, offset in sorted(moves):
            file.seek(row * row_bytes)
            _write_at(target, file.read(row_bytes), offset)
    staged.unlink()


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    while data:  # on a disk that is nearly full, a part is written before the error comes
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _manifest_row(entry: Entry) -> dict[str, str | int | None]:
    values = (entry.path, entry.label, entry.split, entry.sha256, entry.size, entry.pixels, entry.verdict, entry.group)
    return dict(zip(MANIFEST_COLUMNS, values, strict=True))


def _summary(entries: Sequence[Entry], classes: list[str], ignored: int, digest: str) -> Summary:
    good = [entry for entry in entries if entry.verdict == OK]
    counts = Counter((entry.split, entry.label) for entry in good)
    occurrences = Counter(entry.pixels for entry in good if entry.label is not None)
    copies = [count for count in occurrences.values() if count > 1]
    duplicates = {"groups": len(copies), "images": sum(copies)}
    places = {(entry.pixels, entry.split) for entry in good if entry.label is not None}
    if across := sum(count > 1 for count in Counter(pixels for pixels, _ in places).values()):
        duplicates["groups_across_splits"] = across
    return Summary(
        classes=classes,
        counts={split: {name: counts[split, name] for name in classes} for split in SPLITS},
        unlabelled=counts[UNLABELLED, None],
        rejected=dict(Counter(entry.verdict for entry in entries if entry.verdict != OK)),
        duplicates=duplicates,
        ignored=ignored,
        digest=digest,
    )
