"""A sweep as two figures: a heat map over two settings, and parallel coordinates over all; the same bytes each time."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from frostline.common.phase_names import PHASES
from frostline.fonts.lettering import width
from frostline.report.style import COLOURS, INK, plain, wide_drawing
from frostline.sweep.results import Setting, in_order, short

_BEST = COLOURS["finetune"]  # vermillion
_COLOURS = matplotlib.colormaps["cividis"]  # even in lightness, and the same to colour-blind eyes
_ROW, _COLUMN = "model.cut_layer", "finetune.learning_rate"
_CELLS = 12  # rows or columns of a heat map; a search has as many rates as trials
_TICKS = 6
_TITLE = 5.2  # inches that a figure's title needs


def write_figures(folder: Path, settings: Sequence[Setting]) -> list[Path]:
    """Write heat_map.png (where two settings were swept over a grid) and parallel_coordinates.png into `folder`.

    `settings`: at least one, best first.
    """
    paths = []
    axes = heat_map_axes(settings)
    if axes:
        paths.append(folder / "heat_map.png")
        heat_map(paths[-1], settings, *axes)
    if settings[0].values:
        paths.append(folder / "parallel_coordinates.png")
        parallel_coordinates(paths[-1], settings)
    return paths


def heat_map_axes(settings: Sequence[Setting]) -> tuple[str, str] | None:
    """Rows and columns: cut layer and learning rate where both were swept, else the first two settings of few values;
    None where there are no two."""
    few = [key for key in settings[0].values if 2 <= len({setting.values[key] for setting in settings}) <= _CELLS]
    if len(few) < 2:
        return None
    return (_ROW, _COLUMN) if {_ROW, _COLUMN} <= set(few) else (few[0], few[1])


def heat_map(path: Path, settings: Sequence[Setting], row: str, column: str) -> None:
    """Mean validation loss over the seeds, ± its standard deviation, by `row` and `column`.

    Where other settings vary, too, a cell shows its best one.
    """
    rows = in_order([setting.values[row] for setting in settings])
    columns = in_order([setting.values[column] for setting in settings])
    cells: dict[tuple[int, int], Setting] = {}
    for setting in settings:  # best first
        cells.setdefault((rows.index(setting.values[row]), columns.index(setting.values[column])), setting)
    losses = np.full((len(rows), len(columns)), np.nan)
    for place, setting in cells.items():
        losses[place] = setting.mean()
    scale = _scale(losses[np.isfinite(losses)])
    row_names = [plain(short(value), 14) for value in rows]
    column_names = [plain(short(value), 8) for value in columns]
    inches = 1.9 + 0.139 * max(map(width, row_names)) + 1.15 * len(columns)  # 0.139: an em
    with wide_drawing(path, max(_TITLE, inches), 1.5 + 0.62 * len(rows)) as figure:
        axes = figure.add_subplot()
        image = axes.imshow(losses, cmap=_COLOURS, norm=scale, aspect="auto")
        for (y, x), setting in cells.items():
            spread = "" if setting.spread is None else f"\n± {setting.spread:.4f}"
            ink = "white" if scale(losses[y, x]) < 0.5 else "black"
            axes.text(x, y, f"{setting.mean():.4f}{spread}", ha="center", va="center", color=ink, fontsize=9)
        best_y, best_x = next(place for place, setting in cells.items() if setting is settings[0])
        frame = Rectangle((best_x - 0.5, best_y - 0.5), 1, 1, fill=False, edgecolor=_BEST, linewidth=3, clip_on=False)
        axes.add_patch(frame)
        axes.set_xticks(range(len(columns)), column_names)
        axes.set_yticks(range(len(rows)), row_names)
        axes.set(xlabel=column, ylabel=row)
        figure.suptitle(f"Validation loss{_over_seeds(settings)}; the best is framed", x=0.01, ha="left")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        figure.colorbar(image, label="validation loss")


def parallel_coordinates(path: Path, settings: Sequence[Setting]) -> None:
    """One line per setting through its values and its losses, coloured by the validation loss of the better phase."""
    keys = list(settings[0].values)
    names = [*keys, "loss after\ntransfer", "loss after\nfine-tuning"]
    values: list[list[str]] = [[setting.values[key] for setting in settings] for key in keys]
    losses = np.array([setting.mean() for setting in settings])
    scale = _scale(losses)
    with wide_drawing(path, 1.6 + 1.5 * len(names), 4.2) as figure:
        axes = figure.add_subplot()
        heights = [_draw_axis(axes, place, texts) for place, texts in enumerate(values)]
        for place, phase in enumerate(PHASES, len(keys)):
            heights.append(_draw_axis(axes, place, [f"{setting.mean(phase):.4f}" for setting in settings]))
        lines = np.array(heights)
        for index in reversed(range(len(settings))):  # the best last, on top
            best = index == 0
            axes.plot(
                range(len(names)),
                lines[:, index],
                color=_BEST if best else _COLOURS(scale(losses[index])),
                linewidth=3 if best else 1.2,
                alpha=1 if best else 0.8,
                marker="o" if best else None,
            )
        axes.set_xticks(range(len(names)), names)
        axes.set(xlim=(-0.35, len(names) - 0.65), ylim=(-0.06, 1.06))
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        figure.suptitle(f"Validation loss{_over_seeds(settings)}; the best is the thick line", x=0.01, ha="left")
        figure.colorbar(
            matplotlib.cm.ScalarMappable(scale, _COLOURS), ax=axes, label="loss of the better phase", fraction=0.04
        )


def _draw_axis(axes: Axes, place: int, texts: Sequence[str]) -> np.ndarray:
    """Draw the vertical axis at `place` with its ticks; return the heights (0 to 1) of `texts` on it.

    Numbers lie at their size, on a logarithmic scale where they differ by a factor of 50; names are spread evenly.
    """
    distinct = in_order(texts)
    try:
        numbers = np.array([float(text) for text in texts])
    except ValueError:
        numbers = np.array([distinct.index(text) for text in texts], dtype=float)
        ticks = dict(zip(numbers, texts, strict=True))
    else:
        logarithmic = numbers.min() > 0 and numbers.max() >= 50 * numbers.min()
        numbers = np.log10(numbers) if logarithmic else numbers
        ticks = {number: short(text) for number, text in zip(numbers, texts, strict=True)}
        if len(ticks) > _TICKS:
            evenly = np.linspace(numbers.min(), numbers.max(), _TICKS)
            ticks = {at: f"{10**at if logarithmic else at:.3g}" for at in evenly}
    low, extent = numbers.min(), np.ptp(numbers)

    def height(number: float) -> float:
        return float((number - low) / extent) if extent else 0.5

    axes.axvline(place, color=INK, linewidth=1)
    for number, text in ticks.items():  # 11 ems end before the next axis
        box = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
        axes.text(place + 0.03, height(number), plain(text, 11), va="center", fontsize=8, bbox=box, zorder=5)
    return np.array([height(number) for number in numbers])


def _scale(losses: np.ndarray) -> Normalize:
    low, high = float(losses.min()), float(losses.max())
    return Normalize(low, high if high > low else low + 1e-9)


def _over_seeds(settings: Sequence[Setting]) -> str:
    most = max(len(setting.trials) for setting in settings)
    return f", mean over {most} seeds" if most > 1 else ""
