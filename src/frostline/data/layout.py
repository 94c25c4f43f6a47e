"""What the folders of a data set mean, read from their shape: which are the classes, which are splits of its own.

The names of files are tuples of their parts, ``("train", "cats", "1.jpg")``, in Unicode's composed form (NFC).
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

from frostline.common.fit_names import SQUASH, Fit
from frostline.data.dataset import SPLITS
from frostline.data.folder_names import (
    differ_by_number,
    is_fold,
    label_in,
    marks_among,
    part_of,
    says_images,
    says_no_class,
    spelling,
    whole_of,
)
from frostline.data.zip_names import Encoding
from frostline.runtime.errors import FrostlineError

TopFolders = Literal["auto", "classes", "splits"]


@dataclass(frozen=True)
class Reading:
    """How a data set is read: its folders, the names in its zip, its pictures."""

    top_folders: TopFolders = "auto"
    """What the topmost folders are, where there is more than one."""
    splits: Literal["random", "given"] = "random"
    """given: those that the data set brings; random: drawn anew from all of its images."""
    name_encoding: Encoding = "auto"
    """Of names that do not say theirs; see `zip_names`."""
    shown_as: str = ""
    """What the data set is called in errors; empty: as the archive is."""
    group: str | None = None
    """A regular expression that finds each labelled image's group in its path; see `grouping.named_groups`."""
    corrections: Path | None = None
    """A file of the user's with other classes for some images; see `corrections`."""
    fit: Fit = SQUASH
    """How pictures become squares; see `images.decode_image`."""


AS_IT_SEEMS = Reading()


EXPECTED = (
    "Expected: one folder per class with its images inside (cats/1.jpg, dogs/1.jpg), such folders in each of several "
    "splits (train/cats, test/cats), or the class in the file names (cat.0.jpg, dog.0.jpg)."
)
_HERE = "."  # stands for the folder around the topmost ones, where images lie in it, too


@dataclass(frozen=True)
class Place:
    label: str | None
    """The class; None: unlabelled."""
    split: str
    """The folder of the data set's own split, ``train`` or ``fold0/train``; "" if there is none."""


@dataclass(frozen=True)
class Layout:
    places: list[Place | None]
    """Of each file; None: it lies outside the layout."""
    understood: str
    """What the folders are, in words: "classes cats and dogs, pooled from train and test"."""
    notes: list[str]
    """What else the user should know, in a line each."""


@dataclass(frozen=True)
class _File:
    index: int
    rest: tuple[str, ...]
    """What is left of its name."""
    split: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Top:
    """One of the topmost folders."""

    name: str
    files: list[_File]
    """With names from this folder on, without folders that have nothing beside them."""

    @property
    def subs(self) -> set[str]:
        """Its subfolders, in one case."""
        return {file.rest[0].casefold() for file in self.files if len(file.rest) > 1}

    @property
    def is_mixed(self) -> bool:
        """Whether images lie beside its subfolders."""
        return {len(file.rest) > 1 for file in self.files} == {True, False}

    @property
    def labels(self) -> list[str | None]:
        return [label_in(file.rest[-1]) for file in self.files]


def understand(names: Sequence[tuple[str, ...]], contents: Sequence[Hashable], top: TopFolders, where: str) -> Layout:
    """Say what the files called `names` are.

    Masks are left out. A single folder around all others is looked through, and so is a copy of the whole tree within
    itself. "auto" joins topmost folders that are the parts of one download. Then:

    - topmost folders that hold the same subfolders are splits, and the subfolders classes (one may be missing here or
      there). A split without subfolders is unlabelled;
    - topmost folders whose files are called class.number are splits, if all are called like splits;
    - other topmost folders are classes, whatever lies in them; subfolders called train, test and the like in each of
      them are splits;
    - without folders, the classes are in the file names.

    Args:
        names: of the files, in any order.
        contents: equal for two of the files only if they are copies.
        top: what the topmost folders are; "auto": as above.
        where: names the data set in errors.

    Raises:
        FrostlineError: there are no classes, or two ways to read the folders; or, as "auto" reads them, something is a
            class whose name says that it is none, or a split has no class of the others.
    """
    marks = marks_among(names)
    files = _unwrapped([_File(index, name) for index, name in enumerate(names) if index not in marks])
    files, joined = _with_parts_joined(files) if top == "auto" else (files, [])
    all_files = files if top == "classes" else _with_loose_as_top(files)
    files, notes = _without_copy_of_tree(all_files, contents)
    notes = joined + notes
    tops, given = _tops(files), top
    if top == "auto":
        top = _meaning(tops, where)
    found = _classes_on_top(files, tops) if tops and top == "classes" else _splits_on_top(files, where)
    if not any(place.label for place in found.values()):
        raise FrostlineError(f"{where}: no labelled images found.\n{EXPECTED}")
    notes += _case_notes(list(found.values()), where)
    if given == "auto":
        _check_classes(list(found.values()), tops, top, where)
    passed = {file.index for file in all_files} - {file.index for file in files} | marks
    outside = [index for index in range(len(names)) if index not in found and index not in passed]
    for why, indices in (("masks of other images", sorted(marks)), ("in none of these", outside)):
        if indices:
            paths = sorted("/".join(names[index]) for index in indices)
            first = ", ".join(paths[:3]) + " …" * (len(paths) > 3)
            notes.append(f"left out, {why}: {len(paths):,} image{'s' * (len(paths) > 1)} ({first})")
    places = [found.get(index) for index in range(len(names))]
    understood = _in_words(list(found.values()), tops, top)
    return Layout(places, understood + (_other_reading(tops) if (given, top) == ("auto", "splits") else ""), notes)


# The tree of folders


def _unwrapped(files: list[_File]) -> list[_File]:
    """Without the folders that have no other beside them and others inside."""
    while True:
        inside = [file for file in files if len(file.rest) > 1]
        around = {file.rest[0] for file in inside}
        if len(around) != 1 or all(len(file.rest) == 2 for file in inside):
            return files
        if _tell_classes(file for file in files if len(file.rest) == 1):
            return files
        files = [replace(file, rest=file.rest[1:]) for file in inside]


def _with_parts_joined(files: list[_File]) -> tuple[list[_File], list[str]]:
    """Topmost folders that are called as parts of one download, pets-…Z-001 and pets-…Z-002, are one."""
    names = _groups(files)
    parts: dict[str, list[str]] = {}
    for name in names:
        parts.setdefault(whole_of(name, names), []).append(name)
    if parts.keys() == names.keys():
        return files, []
    wholes = {name: whole for whole, own in parts.items() for name in own}
    renamed = [replace(file, rest=(wholes.get(file.rest[0], file.rest[0]), *file.rest[1:])) for file in files]
    notes = [
        f"{_listed(own)} are read as the parts of one folder; if they are not: preprocess.top_folders=classes"
        for own in parts.values()
        if len(own) > 1
    ]
    return _unwrapped(renamed), notes


def _tell_classes(files: Iterable[_File]) -> bool:
    labels = [label_in(file.rest[-1]) for file in files]
    return None not in labels and len(set(labels)) > 1


def _with_loose_as_top(files: list[_File]) -> list[_File]:
    """Images of named classes beside folders that are called like splits are a split of their own."""
    loose = [file for file in files if len(file.rest) == 1]
    others = {file.rest[0] for file in files if len(file.rest) > 1}
    deep = any(len(file.rest) > 2 for file in files)
    if deep or not others or not all(map(_is_split_name, others)) or not _tell_classes(loose):
        return files
    return [replace(file, rest=(_HERE, *file.rest)) if len(file.rest) == 1 else file for file in files]


def _without_copy_of_tree(files: list[_File], contents: Sequence[Hashable]) -> tuple[list[_File], list[str]]:
    """Lift what lies in a topmost folder whose subfolders are called as those beside it, but for copies."""
    groups = _groups(files)
    names, notes = set(groups), []
    for name, group in groups.items():
        subs = {file.rest[1] for file in group if len(file.rest) > 2}
        if len(subs) > 1 and subs < names and all(len(file.rest) > 2 for file in group):
            others = [file for file in files if file.rest[0] != name]
            known = {(file.rest, contents[file.index]) for file in others}
            lifted = [replace(file, rest=file.rest[1:]) for file in group]
            new = [file for file in lifted if (file.rest, contents[file.index]) not in known]
            files = others + new
            added = f", {len(new):,} more are added to theirs" if new else ""
            copies = len(lifted) - len(new)
            notes.append(f"{name} repeats the folders beside it: {copies:,} copies in it are left out{added}")
    return files, notes


def _groups(files: Iterable[_File]) -> dict[str, list[_File]]:
    """By topmost folder."""
    groups: dict[str, list[_File]] = {}
    for file in files:
        if len(file.rest) > 1:
            groups.setdefault(file.rest[0], []).append(file)
    return dict(sorted(groups.items()))


def _tops(files: Iterable[_File]) -> list[_Top]:
    groups = {
        name: _without_images_folder([replace(file, rest=file.rest[1:], split=(*file.split, name)) for file in group])
        for name, group in _groups(files).items()
    }
    subs = {name: set(_groups(group)) for name, group in groups.items()}
    if len(set().union(*subs.values())) == 1 and any(map(_tell_classes, groups.values())):  # train/images/cat.0.jpg
        return [_Top(name, [replace(file, rest=file.rest[-1:]) for file in group]) for name, group in groups.items()]
    inner = {name: set(_groups(_unwrapped(group))) for name, group in groups.items()}
    having, having_inside = (Counter(chain(*folders.values())) for folders in (subs, inner))
    alike = len(set(map(frozenset, subs.values()))) == 1
    tops = []
    for name, group in groups.items():
        # an only subfolder that some of the others have, too, is a class, unless all of them have just that one
        is_class = len(subs[name]) > 1 or (not alike and any(having[sub] > 1 for sub in subs[name]))
        classes_of_others = len(having_inside) - sum(having_inside[sub] == 1 for sub in inner[name])
        tops.append(_Top(name, group if is_class else _without_wrapper(name, group, classes_of_others)))
    return tops


def _without_images_folder(files: list[_File]) -> list[_File]:
    """Without the only subfolder, where it says no more than that images are in it: val/images/1.jpg."""
    subs = set(_groups(files))
    if len(subs) != 1 or not says_images(min(subs)):
        return files
    return [replace(file, rest=file.rest[1:]) if len(file.rest) > 1 else file for file in files]


def _without_wrapper(name: str, files: list[_File], classes_of_others: int) -> list[_File]:
    """The `files` of the topmost folder `name` without its only subfolder, where that is no class."""
    files = _unwrapped(files)
    left = set(_groups(files))
    if len(left) == 1 and classes_of_others > 1 and (_is_split_name(name) or left == {name}):  # test/unknown/1.jpg
        return [replace(file, rest=file.rest[-1:]) for file in files]
    return files


# What they mean


def _is_split_name(name: str) -> bool:
    return name == _HERE or part_of(name) is not None or is_fold(name)


def _meaning(tops: Sequence[_Top], where: str) -> TopFolders:
    words = sum(_is_split_name(top.name) for top in tops)
    deep = [top for top in tops if top.subs]
    subs = Counter(sub for top in deep for sub in top.subs)
    all_words = words == len(tops)
    if len(tops) < 2:
        return "splits" if not tops or _tell_classes(tops[0].files) else "classes"
    if not deep or (len(subs) == 1 and not all_words):
        return _meaning_of_names(tops, all_words, where)
    if not words and all(map(_is_split_name, subs)):
        return "splits" if any(len(file.rest) > 2 for top in deep for file in top.files) else "classes"
    shared = [sub for sub, count in subs.items() if count > 1]
    _check_same_depth(deep, tops, where)
    years = all(top.name.isdecimal() for top in tops)  # or classes
    if shared and not words and not years and all(sub.isdecimal() for sub in subs):
        raise _ambiguous(tops, sorted(subs), where)
    mostly_words = 2 * words >= len(tops)
    if all_words or (mostly_words and (shared or len(deep) == 1)):
        return "splits"
    mixed = any(top.is_mixed for top in deep)
    if not shared:
        if len(deep) == 1 and not mixed and (words or len(tops) == 2):
            raise _ambiguous(tops, sorted(subs), where)
        return "classes"
    largest = max((top.subs for top in deep), key=len)
    if not mixed and len(deep) == len(tops) and all(len(top.subs) > 1 and top.subs <= largest for top in deep):
        return "splits"
    numbered = differ_by_number([top.name for top in tops])  # parts of one set, or classes
    if (2 * len(shared) < len(subs) or len(subs) == 1) and not years and not numbered:
        return "classes"
    raise _ambiguous(tops, sorted(subs), where)


def _check_same_depth(deep: Sequence[_Top], tops: Sequence[_Top], where: str) -> None:
    """Raise where one topmost folder holds splits with folders in them, and another one does not."""
    with_splits = [
        top.name
        for top in deep
        if len(top.subs) > 1 and all(map(_is_split_name, top.subs)) and any(len(file.rest) > 2 for file in top.files)
    ]
    if with_splits and len(with_splits) < len(tops):
        others = [top.name for top in tops if top.name not in with_splits]
        raise FrostlineError(
            f"{where}: {_listed(with_splits)} hold{'s' * (len(with_splits) == 1)} splits with folders in them, and "
            f"{_listed(others)} beside {'it do' if len(with_splits) == 1 else 'them do'}{'es' * (len(others) == 1)} "
            "not.\nGive one of these folders alone."
        )


def _meaning_of_names(tops: Sequence[_Top], all_words: bool, where: str) -> TopFolders:
    """Of topmost folders without subfolders: is the class in the file names?"""
    telling = [top for top in tops if _tell_classes(top.files)]
    if all_words:
        if not telling:
            raise FrostlineError(
                f"{where}: no labelled images found: {_listed([top.name for top in tops])} hold no class folders "
                f"(if they are the classes: preprocess.top_folders=classes).\n{EXPECTED}"
            )
        return "splits"
    telling = [top for top in telling if len(top.files) >= 2 * len(set(top.labels))]
    labels = {label for top in telling for label in top.labels}
    if telling and all(set(top.labels) in (labels, {None}) for top in tops):
        raise _ambiguous(tops, sorted(map(str, labels)), where)
    return "classes"


def _ambiguous(tops: Sequence[_Top], inside: Sequence[str], where: str) -> FrostlineError:
    return FrostlineError(
        f"{where}: the folders {_listed([top.name for top in tops])} may be the classes, or splits with the classes "
        f"{_listed(inside)}.\nSay which: preprocess.top_folders=classes, or preprocess.top_folders=splits."
    )


def _classes_on_top(files: Iterable[_File], tops: Sequence[_Top]) -> dict[int, Place]:
    splits = {file.rest[0] for top in tops for file in top.files if len(file.rest) > 1}
    if any(_is_split_name(top.name) for top in tops) or not all(map(_is_split_name, splits)):
        splits = set()
    return {
        file.index: Place(label, next((part for part in file.rest[1:-1] if part in splits), ""))
        for label, group in _groups(files).items()
        for file in group
    }


def _splits_on_top(files: list[_File], where: str) -> dict[int, Place]:
    tops = _tops(files) or [_Top("", files)]
    inside = [file for top in tops for file in top.files]
    deep = [file for file in inside if len(file.rest) > 1]
    if not deep:
        return _classes_in_names(inside, where)
    splits_with_folders = {file.split for file in deep}
    found = {file.index: Place(None, "/".join(file.split)) for file in inside if file.split not in splits_with_folders}
    if all(_is_split_name(file.rest[0]) for file in deep) and any(len(file.rest) > 2 for file in deep):
        return found | _splits_on_top(deep, where)  # fold0/train/cats
    return found | {file.index: Place(file.rest[0], "/".join(file.split)) for file in deep}


def _classes_in_names(files: list[_File], where: str) -> dict[int, Place]:
    """A split whose files have none of the classes of the others in their names is unlabelled."""
    groups: dict[tuple[str, ...], list[_File]] = {}
    for file in files:
        groups.setdefault(file.split, []).append(file)
    classes = {label_in(file.rest[-1]) for group in groups.values() if _tell_classes(group) for file in group}
    classes = classes or {label_in(file.rest[-1]) for file in files} - {None}
    found: dict[int, Place] = {}
    for split, group in groups.items():
        labels = [label_in(file.rest[-1]) for file in group]
        strange = [file.rest[-1] for file, label in zip(group, labels, strict=True) if label not in classes]
        if strange and (len(strange) < len(group) or (not split and any(labels))):
            raise FrostlineError(
                f"{where}: the class is in the file names, as it seems, but not in {strange[0]!r}.\n"
                "Rename or remove it, or put the images into one folder per class."
            )
        for file, label in zip(group, labels, strict=True):
            found[file.index] = Place(None if strange else label, "/".join(split))
    return found


def _check_classes(places: Sequence[Place], tops: Sequence[_Top], top: TopFolders, where: str) -> None:
    """Raise where a class is called as none is, or a split has no class of the others."""
    classes_of: dict[str, set[str]] = {}
    for place in places:
        if place.label:
            classes_of.setdefault(place.split, set()).add(place.label)
    if strange := sorted(filter(says_no_class, set().union(*classes_of.values()))):
        deep = [one.name for one in tops if one.subs and top == "classes"]
        or_else = "; if they are parts with classes in them: preprocess.top_folders=splits" * (len(deep) > 1)
        what = "a class, but is called as" if len(strange) == 1 else "classes, but are called as"
        raise FrostlineError(
            f"{where}: {_listed(strange)} would be {what} a split, a day or mere images are.\n"
            f"Give a folder with one folder per class; or, if it is so: preprocess.top_folders={top}{or_else}."
        )
    having = Counter(chain(*classes_of.values()))
    for split, own in sorted(classes_of.items()):
        if len(classes_of) > 1 and all(having[name] == 1 for name in own):
            others = having.keys() - own
            raise FrostlineError(
                f"{where}: {f'{split} has' if split else 'images in no split have'} the class{'es' * (len(own) > 1)} "
                f"{_listed(sorted(own))}, and none of the other splits' "
                f"{_listed(sorted(others))}.\n"
                f"Name the same classes alike; or, if it is so: preprocess.top_folders={top}."
            )


# In words


def _case_notes(places: Sequence[Place], where: str) -> list[str]:
    """Classes that are spelt the same, but for case and the like, are two side by side, and else a mistake."""
    splits_of: dict[str, set[str]] = {}
    for place in places:
        if place.label:
            splits_of.setdefault(place.label, set()).add(place.split)
    notes: list[str] = []
    first: dict[str, str] = {}
    for label in sorted(splits_of):
        other = first.setdefault(spelling(label), label)
        if other == label:
            continue
        by = "case" if other.casefold() == label.casefold() else "case, spaces, dashes or the width of letters"
        if not splits_of[label] & splits_of[other]:
            raise FrostlineError(
                f"{where}: the classes {other} (in {_listed(sorted(splits_of[other]))}) and {label} "
                f"(in {_listed(sorted(splits_of[label]))}) differ by {by} only.\nRename one of the folders."
            )
        notes.append(f"the classes {other} and {label} differ by {by} only: taken as two")
    return notes


def _in_words(places: Sequence[Place], tops: Sequence[_Top], meaning: TopFolders) -> str:
    classes = sorted({place.label for place in places if place.label})
    labelled = sorted({place.split for place in places if place.label and place.split}, key=_split_order)
    unlabelled = sorted({place.split for place in places if place.label is None} - set(labelled), key=_split_order)
    deep = any(top.subs for top in tops)
    text = f"class{'es' * (len(classes) != 1)} {_listed(classes)}"
    if meaning == "classes" and not labelled:
        text += ", one folder each"
    elif not deep:
        text += ", by file names"
    if len(labelled) > 1:
        text += f", pooled from {_listed(labelled)}"
    elif labelled:
        text += f", in {_listed(labelled)}"
    return text + (f"; {_listed(unlabelled)} unlabelled" if unlabelled else "")


def _other_reading(tops: Sequence[_Top]) -> str:
    """Where topmost folders were taken for splits by the same subfolders alone, how to say that they are classes."""
    words = sum(_is_split_name(top.name) for top in tops)
    if len(tops) < 2 or not any(top.subs for top in tops) or 2 * words > len(tops):
        return ""
    return f"; if {_listed([top.name for top in tops])} are the classes: preprocess.top_folders=classes"


def _split_order(name: str) -> tuple[int, str]:
    part = part_of(name)
    return (SPLITS.index(part) if part else len(SPLITS)), name


def _listed(names: Sequence[str]) -> str:
    """In words, at most eight of them."""
    shown = [{_HERE: "the folder itself", "": "no split"}.get(name, name) for name in names]
    if len(shown) > 8:
        return f"{', '.join(shown[:7])} and {len(shown) - 7} more"
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))
