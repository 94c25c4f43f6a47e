"""corrections.csv: labels that the user corrects, and images that the user drops."""

import csv
import difflib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from frostline.data.archive import Member
from frostline.runtime.errors import FrostlineError, classes_named

COLUMNS = ("image", "class")
DROP = "drop"
DROPPED = "dropped by corrections.csv"


def corrected(members: Sequence[Member], path: Path | None) -> tuple[list[Member], str]:
    """Return `members` with the classes that the file `path` gives them, and a line that says how many it changed.

    The file is CSV with the columns image (the path in the archive) and class; where that is empty or ``drop``, the
    image is refused as "dropped by corrections.csv", unread. Where there is no file, or none of its rows, they stay as
    they are, and the line is empty.

    Raises FrostlineError where the file is no such table, names an image twice, one that does not exist or is
    unlabelled, or a class that no image has, with what is like it; and where it leaves no image of a class.
    """
    wanted = _read(path) if path else {}
    if not wanted:
        return list(members), ""
    labels = {member.name: member.label for member in members}
    classes = sorted({label for label in labels.values() if label})
    for image, (line, name) in wanted.items():
        where = f"{path}, line {line}"
        if image not in labels:
            raise FrostlineError(f"{where}: there is no image {image!r} in the data.{_near(image, sorted(labels))}")
        if labels[image] is None:
            raise FrostlineError(f"{where}: {image!r} is unlabelled; only labelled images are corrected.")
        if name == DROP and DROP in classes:
            raise FrostlineError(f"{where}: {DROP!r} is a class, too; to drop the image, leave its class empty.")
        if name not in (*classes, DROP, ""):
            raise FrostlineError(
                f"{where}: there is no class {name!r}.{_near(name, classes)} Valid: {', '.join(classes[:12])}"
                f"{', …' * (len(classes) > 12)}; or drop."
            )
    now = [_as_wanted(member, wanted) for member in members]
    left = {member.label for member in now if member.refusal != DROPPED}
    if gone := [repr(name) for name in classes if name not in left]:
        raise FrostlineError(
            f"{path} leaves no image of {classes_named(gone)}: all are dropped or of another class there. Leave one or "
            "more, or take the whole class out of the data."
        )
    dropped = sum(name in (DROP, "") for _, name in wanted.values())
    others = sum(old.label != new.label for old, new in zip(members, now, strict=True))
    return now, f"{path}: {others:,} image{'s' * (others != 1)} of another class, {dropped:,} dropped"


def _as_wanted(member: Member, wanted: Mapping[str, tuple[int, str]]) -> Member:
    if member.name not in wanted:
        return member
    _, name = wanted[member.name]
    return replace(member, refusal=DROPPED) if name in (DROP, "") else replace(member, label=name)


def _read(path: Path) -> dict[str, tuple[int, str]]:
    """By image: the number of its line, and the class wanted."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets put a mark in front
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            lines = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except FileNotFoundError:
        return {}
    except (UnicodeDecodeError, csv.Error) as error:
        raise FrostlineError(f"{path} is no CSV file in UTF-8: {error}. Save it as such.") from error
    if header and [cell.strip() for cell in header] != list(COLUMNS):
        raise FrostlineError(f"{path}: its first line is {','.join(header)!r}; it must be {','.join(COLUMNS)!r}.")
    wanted: dict[str, tuple[int, str]] = {}
    for number, row in lines:
        if len(row) != len(COLUMNS):
            raise FrostlineError(
                f"{path}, line {number}: {len(row)} cells instead of 2, an image and a class; quote what holds a comma."
            )
        image, name = (unicodedata.normalize("NFC", cell) for cell in row)  # as archive.py reads names
        if image in wanted:
            raise FrostlineError(f"{path}, line {number}: {image!r} stands in line {wanted[image][0]}, too.")
        wanted[image] = number, name
    return wanted


def _near(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
