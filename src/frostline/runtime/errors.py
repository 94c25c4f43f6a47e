"""The one exception that means: the user can mend this; and words for what the system refused, and what is missing."""

from collections.abc import Sequence
from importlib.util import find_spec


class FrostlineError(Exception):
    """What is wrong, where, and what to do, in one or two lines; commands print it without a traceback."""


def in_one_line(error: OSError) -> str:
    """What the system refused, and for which file: a full disk, a folder that may not be written."""
    return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"


def brief(said: object) -> str:
    """What another program or a library's error has `said`, in one line of at most 200 characters."""
    return " ".join(str(said).split())[:200]


def classes_named(names: Sequence[str]) -> str:
    """How many classes it is that have `names`, and the first eight of these: one error says what all of them lack."""
    if len(names) == 1:
        return f"class {names[0]}"
    more = f" and {len(names) - 8:,} more" if len(names) > 8 else ""
    return f"{len(names):,} classes: {', '.join(names[:8])}{more}"


def check_installed(purpose: str, extra: str, *packages: str) -> None:
    """Raise FrostlineError where `purpose` lacks one of its `packages`, which `extra` of pyproject.toml has."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise FrostlineError(
            f"{purpose} needs {', '.join(missing)}, which the core does not.\n"
            f"In Frostline's folder: make install-{extra}, or pip install -e '.[{extra}]'"
        )
