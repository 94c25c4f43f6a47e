"""What the names of folders and files say by themselves: of splits, of classes, and what says of no class."""

import re
import unicodedata
from collections.abc import Container, Mapping, Sequence

from frostline.data.dataset import Split

_WORDS: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "validation"),
    **dict.fromkeys(("test", "testing", "holdout"), "test"),
}
_FOLD = re.compile(r"(fold|split)[ _-]?\d+", re.IGNORECASE)
_NUMBERED = re.compile(r"(.+?)(?:[\s._-]+\d+\s*\(\d+\)|[\s._-]*\(?\d+\)?)")  # cat.0, cat_0, cat0, cat (1), cat.0 (1)
_DATE = re.compile(r"(?<!\d)(19|20)\d\d([-_.](0[1-9]|1[0-2])|(0[1-9]|1[0-2])\d\d)(?!\d)")
_CAMERA = re.compile(  # or a phone, a browser, a messenger: what it puts in front of a number
    r"_?(img(_e)?|image|mg|dsc[fn]?|pxl|mvimg|dji|gopr|cimg|dcim|pict|whatsapp image|fb[_ ]img|received|kakaotalk"
    r"|snapchat|screen[ _-]?shots?|images|download|unnamed|사진|스크린샷)",
    re.IGNORECASE,
)
# Panasonic's and Samsung's; p_1 and sam_1 may be classes
_CAMERA_NUMBER = re.compile(r"(P\d{7}|SAM_\d{4})( ?\(\d+\))?")
_IMAGES = re.compile(r"(jpe?g|png)?[ _-]?(images?|imgs?)[ _-]*\d*", re.IGNORECASE)
_NO_CLASS = re.compile(r"(test|testing|val|validation|holdout|unlabell?ed)([ _-]?(set|data|images?))?[ _-]?\d*", re.I)
_PART = re.compile(r"(.*[ _-])?(part|batch)[ _-]?\d+", re.IGNORECASE)
# Google Drive's zips; OneDrive's
_DOWNLOAD = re.compile(r"(.+)-\d{8}T\d{6}Z(-\d+)+( ?\(\d+\))?|(OneDrive)_\d+_\d+-\d+-\d+")
_AGAIN = re.compile(r"(.+?) ?\(\d+\)")  # pets (1), which a browser or a system makes of pets beside pets
_MARKS = re.compile(r"(ground[ _-]?truth|gt|annotations?|labels?|masks?|segmentation\w*|trimaps?)", re.IGNORECASE)
_MARKED = re.compile(r"(.+?)[ _-](?:mask|gt|segmentation)(?:[ _-]?\d+)?", re.IGNORECASE)


def part_of(split: str) -> Split | None:
    """Which of our splits a data set's own one is, by its name, ``test1`` or ``fold0/seg_train``; None if none."""
    words = [re.sub(r"(.)(set|data|images?|split)$", r"\1", word) for word in re.findall(r"[a-z]+", split.lower())]
    parts = [_WORDS[word] for word in words if word in _WORDS]
    return parts[-1] if parts else None


def is_fold(name: str) -> bool:
    """Whether a folder is called as a numbered part for cross-validation: ``fold0``."""
    return bool(_FOLD.fullmatch(name))


def label_in(name: str) -> str | None:
    """The class in the file name "class.number.jpg" (or class_number, class-number, class (number)); None if none.

    What cameras, phones and browsers put in front of a number, and what holds a date, is no class.
    """
    stem, _, ending = name.rpartition(".")
    stem = name if not stem or ending.isdecimal() else stem
    found = _NUMBERED.fullmatch(stem)
    if not found or _CAMERA_NUMBER.fullmatch(stem) or not any(letter.isalpha() for letter in found[1]):
        return None
    return None if _CAMERA.fullmatch(found[1]) or _DATE.search(found[1]) else found[1]


def says_images(name: str) -> bool:
    """Whether the name of a folder says no more than that images are in it: ``images``, ``images_001``."""
    return bool(_IMAGES.fullmatch(name))


def says_no_class(name: str) -> bool:
    """Whether a folder is called as one of images, of a part of them, of a day, or of a split without training."""
    is_date = _DATE.match(name) and not any(letter.isalpha() for letter in name)
    return bool(says_images(name) or _PART.fullmatch(name) or is_date or _NO_CLASS.fullmatch(name))


def whole_of(name: str, others: Container[str]) -> str:
    """What a folder `name` beside `others` is a part of, by its name: ``pets-20240115T123456Z-001``; else itself."""
    found = _DOWNLOAD.fullmatch(name)
    if found:
        return found[1] or found[4]
    again = _AGAIN.fullmatch(name)
    return again[1] if again and again[1] in others else name


def differ_by_number(names: Sequence[str]) -> bool:
    """Whether folders are called alike but for a number at the end: ``pets`` and ``pets 2``."""
    return len({re.sub(r"[\s._-]*\d+$", "", name) for name in names}) == 1


def spelling(name: str) -> str:
    """Equal for names that are spelt the same but for case, spaces, dashes and the width of letters."""
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name).casefold()).strip()


# Masks


def marks_among(names: Sequence[tuple[str, ...]]) -> set[int]:
    """Which of the files `names`, by index, mark what is on others: masks, as data sets for segmentation have them.

    They lie in a folder called masks, labels or the like, beside nothing but folders of images or splits, where each
    of its files has the name of one there, ``images/1.jpg`` and ``masks/1.png``; or they are called by the image
    beside them, ``1.jpg`` and ``1_mask.png``.
    """
    inside: dict[tuple[str, ...], dict[str, list[int]]] = {}
    for index, name in enumerate(names):
        for depth in range(len(name) - 1):
            inside.setdefault(name[:depth], {}).setdefault(name[depth], []).append(index)
    found: set[int] = set()
    for folders in inside.values():
        found |= _marks_in(folders, names)
    known = {(name[:-1], _stem(name)) for name in names}
    for index, name in enumerate(names):
        marked = _MARKED.fullmatch(_stem(name))
        if marked and (name[:-1], marked[1]) in known:
            found.add(index)
    return found


def _marks_in(folders: Mapping[str, Sequence[int]], names: Sequence[tuple[str, ...]]) -> set[int]:
    """Those in `folders`, which lie side by side: by name, the files in each."""
    marking = [folder for folder in folders if _MARKS.fullmatch(folder)]
    others = [folder for folder in folders if folder not in marking]
    if not marking or not others or not all(says_images(folder) or part_of(folder) for folder in others):
        return set()
    known = {_stem(names[index]) for folder in others for index in folders[folder]}
    found: set[int] = set()
    for folder in marking:
        stems = [_stem(names[index]) for index in folders[folder]]
        if all(stem in known or ((of := _MARKED.fullmatch(stem)) and of[1] in known) for stem in stems):
            found.update(folders[folder])
    return found


def _stem(name: tuple[str, ...]) -> str:
    return name[-1].rpartition(".")[0] or name[-1]
