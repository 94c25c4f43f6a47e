"""Figures as PNG, and curves as CSV for `dvc plots`: one colour per phase, the same bytes each time.

Every function writes one file, whole or not at all, and leaves no state behind in matplotlib.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib import font_manager
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from frostline.evaluation import confusion_matrix, decide, reliability
from frostline.files import replacing, write_csv

Epoch = Mapping[str, Any]
"""One epoch's figures: train/loss, train/accuracy, validation/loss, validation/accuracy."""

NAMES = {"transfer": "Transfer", "finetune": "Fine-tuned"}
COLOURS = {"transfer": "#0072B2", "finetune": "#D55E00"}
"""Blue and vermillion of Okabe & Ito's colour-blind-safe palette (2008, "Color Universal Design")."""

_INK, _FAINT = "#24292f", "#d0d7de"
_POINTS = 500  # of each phase's curve: more cannot be seen, and makes `dvc plots` slow
_WIDTH, _DPI = 5.0, 200  # inches, pixels per inch: sharp at 600 CSS pixels, text still legible at 350
_STYLE = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.edgecolor": "#8c959f",
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eaeef2",
    "xtick.color": _INK,
    "ytick.color": _INK,
    "text.color": _INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 2,
}
# DejaVu Sans comes with matplotlib; names in other scripts fall back to one of these where it is installed.
_FALLBACK_FONTS = (
    "Noto Sans CJK KR",
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Malgun Gothic",
    "Apple SD Gothic Neo",
)


@contextmanager
def _drawing(path: Path, height: float) -> Iterator[Figure]:
    """Yield an empty figure, `height` inches high; write it to `path` as PNG when the block ends."""
    fonts = ["DejaVu Sans", *(name for name in _FALLBACK_FONTS if name in font_manager.get_font_names())]
    with matplotlib.style.context(["default", {**_STYLE, "font.family": fonts}]):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        yield figure
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})


def learning_curves(path: Path, transfer: Sequence[Epoch], finetune: Sequence[Epoch]) -> None:
    """Loss and accuracy by epoch, `finetune` after `transfer` on one axis; validation is solid."""
    total = len(transfer) + len(finetune)
    with _drawing(path, 4.8) as figure:
        for axes, metric in zip(figure.subplots(2, sharex=True), ("loss", "accuracy"), strict=True):
            for phase, epochs, first in (
                ("transfer", transfer, 1),
                ("finetune", finetune, len(transfer) + 1),
            ):
                numbers = range(first, first + len(epochs))
                for split, line, marker, alpha in (("train", "--", "o", 0.55), ("validation", "-", "s", 1)):
                    values = [float(epoch[f"{split}/{metric}"]) for epoch in epochs]
                    style = {"color": COLOURS[phase], "linestyle": line, "marker": marker, "alpha": alpha}
                    label = f"{NAMES[phase]}, {'training' if split == 'train' else split}"
                    axes.plot(numbers, values, markersize=4, label=label, **style)
            axes.axvline(len(transfer) + 0.5, color=_INK, linewidth=1, linestyle=":")
            axes.set_ylabel(metric.capitalize())
        axes.set_xlabel("Epoch")
        axes.set_xlim(0.5, total + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        upper = figure.axes[0]
        upper.text(len(transfer) + 0.55, 0.97, "layers thawed", transform=upper.get_xaxis_transform(), va="top")
        figure.legend(*upper.get_legend_handles_labels(), loc="outside upper center", ncols=2)


def roc(path: Path, labels: np.ndarray, transfer: np.ndarray, finetune: np.ndarray) -> None:
    """True against false positive rate of P(second class); `labels` (N,) must hold both classes."""
    with _drawing(path, 4.2) as figure:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=1, linestyle=":", label="Chance")
        for phase, probabilities in (("transfer", transfer), ("finetune", finetune)):
            area = roc_auc_score(labels, probabilities)
            label = f"{NAMES[phase]} (area {area:.3f})"
            axes.plot(*_roc(labels, probabilities), color=COLOURS[phase], label=label)
        axes.set(xlabel="False positive rate", ylabel="True positive rate", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes.legend(loc="lower right")


def precision_recall(path: Path, labels: np.ndarray, transfer: np.ndarray, finetune: np.ndarray) -> None:
    """Precision against recall of P(second class); `labels` (N,) must hold both classes."""
    with _drawing(path, 4.2) as figure:
        axes = figure.add_subplot()
        axes.axhline(float(np.mean(labels)), color=_INK, linewidth=1, linestyle=":", label="Chance")
        for phase, probabilities in (("transfer", transfer), ("finetune", finetune)):
            area = average_precision_score(labels, probabilities)
            label = f"{NAMES[phase]} (average precision {area:.3f})"
            recall, precision = _precision_recall(labels, probabilities)
            axes.plot(recall, precision, drawstyle="steps-pre", color=COLOURS[phase], label=label)
        axes.set(xlabel="Recall", ylabel="Precision", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes.legend(loc="lower left")


def reliability_diagram(
    path: Path,
    labels: np.ndarray,
    transfer: np.ndarray,
    finetune: np.ndarray,
    *,
    bins: int,
    second_class: str,
) -> None:
    """Observed share of the second class against its predicted probability, and the pictures in each bin."""
    with _drawing(path, 4.8) as figure:
        upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
        upper.plot([0, 1], [0, 1], color=_INK, linewidth=1, linestyle=":", label="Perfectly calibrated")
        for phase, probabilities in (("transfer", transfer), ("finetune", finetune)):
            predicted, observed, filled = reliability(labels, probabilities, bins)
            upper.plot(predicted, observed, color=COLOURS[phase], linewidth=1, alpha=0.5)
            # A dot's area is its share of the pictures: a stray bin of two does not catch the eye.
            areas = 12 + 300 * filled / len(labels)
            upper.scatter(predicted, observed, areas, COLOURS[phase], alpha=0.85, label=NAMES[phase])
            edges = np.linspace(0, 1, bins + 1)
            # The bins of `reliability`: closed above, so a value on an edge counts below it.
            counts = np.bincount(np.searchsorted(edges[1:-1], probabilities), minlength=bins)
            lower.stairs(counts, edges, color=COLOURS[phase], linewidth=1.5)
        upper.set(ylabel=f"Observed share of {_plain(second_class)}", ylim=(-0.03, 1.03))
        figure.legend(*upper.get_legend_handles_labels(), loc="outside upper center", ncols=3)
        lower.set(xlabel=f"Predicted probability of {_plain(second_class)}", ylabel="Pictures", xlim=(-0.01, 1.01))


def confusion_matrices(
    path: Path,
    labels: np.ndarray,
    transfer: np.ndarray,
    finetune: np.ndarray,
    *,
    threshold: float,
    classes: Sequence[str],
) -> None:
    """Both phases' confusion matrices, side by side; shaded by the share of the actual class."""
    names = [_plain(name, 12) for name in classes]
    with _drawing(path, 2.9) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (phase, probabilities) in zip(panels, (("transfer", transfer), ("finetune", finetune)), strict=True):
            counts = confusion_matrix(labels, probabilities, threshold)
            shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
            paper, colour = np.ones(3), np.array(to_rgb(COLOURS[phase]))
            axes.imshow(paper + shares[..., None] * (colour - paper))
            for (actual, decided), count in np.ndenumerate(counts):
                share = shares[actual, decided]
                ink = "white" if share > 0.6 else _INK
                text = f"{count:,}\n{share:.1%}"
                axes.text(decided, actual, text, ha="center", va="center", color=ink, fontsize=11)
            axes.set_title(NAMES[phase])
            axes.set_xticks((0, 1), names)
            axes.set_xlabel("Decided")
            axes.grid(visible=False)
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0)
        panels[0].set_yticks((0, 1), names, rotation=90, va="center")
        panels[0].set_ylabel("Actual")


def picture_grid(path: Path, pictures: np.ndarray, captions: Sequence[str], columns: int = 4) -> None:
    """`pictures` (K, S, S, 3) uint8, each over its caption of up to three lines; K may be 0."""
    rows = max(1, -(-len(pictures) // columns))
    with _drawing(path, 1.75 * rows if len(pictures) else 0.6) as figure:
        if not len(pictures):
            figure.text(0.5, 0.5, "No pictures", ha="center", va="center")
            return
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels:
            axes.set_axis_off()
        for axes, picture, caption in zip(panels, pictures, captions, strict=False):
            axes.imshow(picture)
            lines = "\n".join(_plain(line, 22) for line in caption.split("\n")[:3])
            axes.text(0.5, -0.04, lines, transform=axes.transAxes, ha="center", va="top", fontsize=7)


def picture_caption(name: str, label: int, transfer: float, finetune: float, classes: Sequence[str]) -> str:
    """Return three lines: file name, actual class, and P(second class) before and after fine-tuning."""
    file = name.rsplit("/", 1)[-1]
    return f"{file}\nis {classes[label]}\nP({classes[1]}) {transfer:.3f} → {finetune:.3f}"


def write_figures(
    folder: Path,
    labels: np.ndarray,
    transfer: np.ndarray,
    finetune: np.ndarray,
    *,
    curves: Mapping[str, Sequence[Epoch]],
    threshold: float,
    bins: int,
    classes: Sequence[str],
) -> dict[str, Path]:
    """Write the test set's figures and the learning `curves` (by phase) into `folder`; return paths by name.

    Names: learning_curves, roc, precision_recall, reliability, confusion. `classes`: the first and the second
    class' names. roc and precision_recall are absent where `labels` (N,) holds one class only.
    """
    both = (labels, transfer, finetune)
    draw: dict[str, Callable[[Path], None]] = {
        "learning_curves": lambda path: learning_curves(path, curves["transfer"], curves["finetune"]),
        "reliability": lambda path: reliability_diagram(path, *both, bins=bins, second_class=classes[1]),
        "confusion": lambda path: confusion_matrices(path, *both, threshold=threshold, classes=classes),
    }
    if 0 < np.sum(labels) < len(labels):
        draw["roc"] = lambda path: roc(path, *both)
        draw["precision_recall"] = lambda path: precision_recall(path, *both)
    paths = {name: folder / f"{name}.png" for name in draw}
    for name, path in paths.items():
        draw[name](path)
    return paths


def write_dvc_plots(
    folder: Path, labels: np.ndarray, probabilities: np.ndarray, *, threshold: float, bins: int, classes: Sequence[str]
) -> None:
    """Write one phase's roc.csv, precision_recall.csv, reliability.csv and confusion.csv, the tables of `dvc plots`.

    The curves hold at most 1,000 points, and none where `labels` (N,) holds one class only; confusion.csv has
    one row per picture.
    """
    two_classes = 0 < np.sum(labels) < len(labels)
    curves: dict[tuple[str, ...], Sequence[np.ndarray]] = {
        ("fpr", "tpr"): _roc(labels, probabilities) if two_classes else (),
        ("recall", "precision"): _precision_recall(labels, probabilities) if two_classes else (),
        ("predicted", "observed", "count"): reliability(labels, probabilities, bins),
    }
    for name, (header, columns) in zip(("roc", "precision_recall", "reliability"), curves.items(), strict=True):
        rounded = (np.round(column, 6).tolist() for column in columns)
        write_csv(
            folder / f"{name}.csv", header, (dict(zip(header, row, strict=True)) for row in zip(*rounded, strict=True))
        )
    pairs = zip(labels, decide(probabilities, threshold), strict=True)
    decisions = ({"actual": classes[actual], "predicted": classes[decided]} for actual, decided in pairs)
    write_csv(folder / "confusion.csv", ("actual", "predicted"), decisions)


def _roc(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    false_positives, true_positives, _ = roc_curve(labels, probabilities)
    return _thinned(false_positives), _thinned(true_positives)


def _precision_recall(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall, rising from 0, and precision."""
    precision, recall, _ = precision_recall_curve(labels, probabilities)
    return _thinned(recall[::-1]), _thinned(precision[::-1])


def _thinned(values: np.ndarray) -> np.ndarray:
    """At most _POINTS of `values`, evenly spaced, the ends among them."""
    if len(values) <= _POINTS:
        return values
    thinned: np.ndarray = values[np.linspace(0, len(values) - 1, _POINTS).round().astype(int)]
    return thinned


def _plain(text: str, width: int = 30) -> str:
    """`text` cut to `width`, with no character that matplotlib reads as mathematics."""
    return (text if len(text) <= width else text[: width - 1] + "…").replace("$", r"\$")
