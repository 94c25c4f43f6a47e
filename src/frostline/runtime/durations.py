"""Durations as people say and give them."""

import re

from frostline.runtime.errors import FrostlineError


def in_words(seconds: float) -> str:
    """A time that is left, as people say it: "20 s", "5 min", "3.5 h"."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{round(seconds)} s"
    return f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"


def seconds_of(duration: str) -> float:
    """A time that people give: "90s", "10m", "1.5h".

    Raises FrostlineError for anything else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([smh])", duration.strip())
    if not found or float(found[1]) == 0:
        raise FrostlineError(f"{duration!r} is no time limit; valid are seconds, minutes or hours: 90s, 10m, 2h.")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]
