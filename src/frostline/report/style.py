"""How charts look, those of the report and of sweeps: colours, fonts and sizes, and writing one to a file."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
from matplotlib.figure import Figure
from PIL import Image

from frostline.common.files import replacing, write_text
from frostline.fonts import lettering

NAMES = {"transfer": "Transfer", "finetune": "Fine-tuned"}
COLOURS = {"transfer": "#0072B2", "finetune": "#D55E00"}
"""Blue and vermillion of Okabe & Ito's colour-blind-safe palette (2008, "Color Universal Design")."""

CLASS_COLOURS = ("#00866B", "#B5589B", "#9A7B00", "#7A70D8", "#7A7A7A")
"""Unlike the phases' and each other, and with a contrast of 3 to 1 to light and dark paper alike."""

INK, EDGE, GRID, PAPER = "#24292f", "#8c959f", "#eaeef2", "#ffffff"
_VARIABLES = {  # colour: the CSS variable that may replace it in a page
    INK: "ink",
    EDGE: "edge",
    GRID: "grid",
    PAPER: "card",
    **{colour.lower(): phase for phase, colour in COLOURS.items()},
}
_WIDTH, _DPI = 5.0, 200  # inches, pixels per inch: sharp at 600 CSS pixels, text still legible at 350
_WIDE_DPI = 120  # of a chart that is as wide as it needs to be
_STYLE = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.titlesize": 10,
    "figure.titleweight": "bold",
    "axes.edgecolor": EDGE,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 2,
    "svg.fonttype": "none",
    "svg.hashsalt": "frostline",
}


@contextmanager
def drawing(path: Path, height: float) -> Iterator[Figure]:
    """Yield an empty figure, `height` inches high; when the block ends, write the PNG `path` and the SVG beside it."""
    with _figure(_WIDTH, height) as figure:
        yield figure
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})
        svg = io.StringIO()
        figure.savefig(svg, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        write_text(path.with_suffix(".svg"), _themed(svg.getvalue(), path.stem))


@contextmanager
def wide_drawing(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Yield an empty figure of `width` x `height` inches, without a grid; when the block ends, write the PNG `path`."""
    with _figure(width, height, **{"axes.grid": False}) as figure:
        yield figure
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=_WIDE_DPI, metadata={"Software": None})
        with replacing(path) as temporary:  # 128 colours: a fifth of the bytes, and no difference to the eye
            Image.open(drawn).convert("RGB").quantize(128).save(temporary, format="png", optimize=True)


@contextmanager
def _figure(width: float, height: float, **style: Any) -> Iterator[Figure]:
    """An empty figure of so many inches; while the block runs, charts have the look of the house, and `style`."""
    fonts = {"font.family": lettering.families()}
    with matplotlib.style.context(["default", {**_STYLE, **fonts, **style}]), lettering.without_complaints():
        yield Figure(figsize=(width, height), layout="constrained")


def _themed(svg: str, name: str) -> str:
    """matplotlib's `svg`, ready to stand in a page among others.

    It has no preamble and no fixed size, its ids begin with `name`, and a page can set its colours and font.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'^<svg([^>]*?) width="[^"]*"', r"<svg\1", re.sub(r'^<svg([^>]*?) height="[^"]*"', r"<svg\1", svg))
    svg = re.sub(r' id="', f' id="{name}-', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: var(--font, sans-serif)", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(f": {colour}", f": var(--{variable}, {colour})")
    return svg


def plain(text: str, ems: float) -> str:
    """`text` cut to so many ems, with none that matplotlib reads as mathematics, to stand among other words."""
    return lettering.isolated(lettering.shortened(text, ems)).replace("$", r"\$")
