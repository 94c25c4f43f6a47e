"""Text in pictures, in whichever script: in matplotlib's DejaVu Sans, else in a font of `files`, never in a system's.

So a picture has the same bytes on every machine. A character that is in none of them is drawn as the box, with the
name of its block, that matplotlib's Last Resort font has for it.
"""

import dataclasses
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray

_FIRST = "DejaVu Sans"
_FILES = sorted((Path(__file__).parent / "files").glob("*.?tf"))
_MEASURED = 100  # pixels, of letters that are measured
_ISOLATE, _END = "\u2068", "\u2069"  # what is between them does not turn around what is beside (UAX #9)


def families() -> list[str]:
    """matplotlib's names of the fonts; of each character the first that has it is taken."""
    fonts = font_manager.fontManager
    known = {entry.fname for entry in fonts.ttflist}
    for path in map(str, _FILES):
        if path not in known:
            fonts.addfont(path)
            regular = next(entry for entry in fonts.ttflist if entry.fname == path)
            fonts.ttflist.append(dataclasses.replace(regular, weight=700))  # else bold text makes it complain
    return [_FIRST, *(font_manager.get_font(path).family_name for path in _FILES)]


@contextmanager
def without_complaints() -> Iterator[None]:
    """matplotlib does not warn of a character that no font has: it draws a box."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def width(text: str) -> float:
    """How wide `text` is, in ems: in heights of its letters."""
    return _set(text, _MEASURED).get_width_height()[0] / 64 / _MEASURED


def shortened(text: str, ems: float) -> str:
    """`text`, composed (NFC), and where it is wider than so many ems cut, not within a letter, to end in …"""
    text = unicodedata.normalize("NFC", text)
    if width(text) <= ems:
        return text
    for end in range(min(len(text) - 1, int(4 * ems)), 0, -1):  # the narrowest letters are a quarter of an em wide
        is_mark = unicodedata.category(text[end]).startswith("M")
        if not is_mark and width(short := text[:end].rstrip(" \u200d") + "…") <= ems:
            return short
    return "…"


def isolated(name: str) -> str:
    """`name` to be put among other words and numbers: one from right to left shall not turn these around."""
    from_right = any(unicodedata.bidirectional(character) in ("R", "AL") for character in name)
    return f"{_ISOLATE}{name}{_END}" if from_right else name


def drawn(text: str, size: int) -> NDArray[np.uint8]:
    """`text` in one line, `size` pixels high: ink, (height, width) uint8."""
    font = _set(text, size)
    font.draw_glyphs_to_bitmap(antialiased=True)
    ink: NDArray[np.uint8] = font.get_image()
    return ink


def _set(text: str, size: int) -> FT2Font:
    font = font_manager.get_font([font_manager.findfont(_FIRST), *_FILES])
    font.set_size(size, 72)
    with without_complaints():
        font.set_text(text)
    return font
