"""Figures as PNG and SVG, and curves as CSV for `dvc plots`: one colour per phase, the same bytes each time.

Every function writes whole files or none, and leaves no state behind in matplotlib. The PNG is for DVC and MLflow; the
SVG beside it is for the report: its colours follow the page's light or dark theme, its text is text.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from frostline.common.files import write_csv
from frostline.common.thresholds import Threshold
from frostline.fonts.lettering import width
from frostline.metrics.bootstrap import Pair, by_phase
from frostline.metrics.choice import Choice
from frostline.metrics.classification import class_figures, confidences, confusion_matrix, ranked_classes, reliability
from frostline.report.style import CLASS_COLOURS, COLOURS, INK, NAMES, drawing, plain

Epoch = Mapping[str, Any]
"""One epoch's figures: train/loss, train/accuracy, validation/loss, validation/accuracy."""

MOST_CURVES, WORST_CURVES = 10, 5
"""Classes whose ROC and precision–recall curves can be told apart; of more, so many of the worst are drawn."""
UNIT = "unit"
"""In the SVG of the ROC and precision–recall curves, the id of the square from (0, 0) to (1, 1), after the name."""
_POINTS = 500  # of each phase's curve: more cannot be seen, and makes `dvc plots` slow
_MOST_NUMBERS, _MOST_NAMES = 15, 30  # classes whose counts and names a confusion matrix can show


def learning_curves(path: Path, transfer: Sequence[Epoch], finetune: Sequence[Epoch]) -> None:
    """Loss and accuracy by epoch, `finetune` after `transfer` on one axis; validation is solid."""
    total = len(transfer) + len(finetune)
    with drawing(path, 4.8) as figure:
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
            axes.axvline(len(transfer) + 0.5, color=INK, linewidth=1, linestyle=":")
            axes.set_ylabel(metric.capitalize())
        axes.set_xlabel("Epoch")
        axes.set_xlim(0.5, total + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        upper = figure.axes[0]
        upper.text(len(transfer) + 0.5, 1.02, "layers thawed", transform=upper.get_xaxis_transform(), ha="center")
        figure.legend(*upper.get_legend_handles_labels(), loc="outside upper center", ncols=2)


@dataclass(frozen=True)
class Curve:
    """A curve of one class against the rest, and what the chart of it says."""

    points: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    """From whether each image is of the class, (N,) bool, and its P(class), (N,), to x, from 0 to 1, and y."""
    at: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    """From places on the x axis and the points' x and y to y at these places."""
    style: str
    """matplotlib's `drawstyle` that shows the same."""
    figure: str
    """The area below it, as `evaluation` names it."""
    x: str
    y: str


def _roc_points(actual: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    false_positives, true_positives, _ = roc_curve(actual, scores)
    return false_positives, true_positives


def _precision_recall_points(actual: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    precision, recall, _ = precision_recall_curve(actual, scores)
    return recall[::-1], precision[::-1]


def _straight(places: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    heights: np.ndarray = np.interp(places, x, y)
    heights[0] = 0  # a ROC curve begins at (0, 0), though it may rise at once
    return heights


def _steps(places: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    heights: np.ndarray = y[np.searchsorted(x, places)]
    return heights


ROC = Curve(_roc_points, _straight, "default", "roc_auc", "False positive rate", "True positive rate")
PRECISION_RECALL = Curve(_precision_recall_points, _steps, "steps-pre", "average_precision", "Recall", "Precision")
CURVES = {"roc": ROC, "precision_recall": PRECISION_RECALL}


def roc(path: Path, pair: Pair) -> None:
    """Both phases' true against false positive rate, by P(second) of two classes; the labels must hold both."""
    with drawing(path, 4.2) as figure:
        axes = figure.add_subplot()
        _mark_unit_square(axes)
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=":", label="Chance")
        for phase, probabilities in by_phase(pair).items():
            area = roc_auc_score(pair.labels, probabilities[:, 1])
            label = f"{NAMES[phase]} (area {area:.3f})"
            axes.plot(*_curve(ROC, pair.labels, probabilities), color=COLOURS[phase], label=label)
        axes.set(xlabel=ROC.x, ylabel=ROC.y, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes.legend(loc="lower right")


def precision_recall(path: Path, pair: Pair) -> None:
    """Both phases' precision against recall, by P(second) of two classes; the labels must hold both."""
    with drawing(path, 4.2) as figure:
        axes = figure.add_subplot()
        _mark_unit_square(axes)
        axes.axhline(float(np.mean(pair.labels)), color=INK, linewidth=1, linestyle=":", label="Chance")
        for phase, probabilities in by_phase(pair).items():
            area = average_precision_score(pair.labels, probabilities[:, 1])
            label = f"{NAMES[phase]} (average precision {area:.3f})"
            recall, precision = _curve(PRECISION_RECALL, pair.labels, probabilities)
            axes.plot(recall, precision, drawstyle=PRECISION_RECALL.style, color=COLOURS[phase], label=label)
        axes.set(xlabel=PRECISION_RECALL.x, ylabel=PRECISION_RECALL.y, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes.legend(loc="lower left")


def class_curves(path: Path, pair: Pair, *, curve: Curve, classes: Sequence[str]) -> None:
    """Each class' `curve` against the rest, a panel per phase, and their mean in the phase's colour.

    Of many classes only the worst ones, by the areas in both phases. The labels must hold two classes at least.
    """
    labels, both = pair.labels, by_phase(pair)
    figures = {phase: class_figures(labels, p, p.argmax(axis=1)) for phase, p in both.items()}
    drawn = ranked = ranked_classes(labels, pair.baseline)
    areas = {phase: {number: found[number][curve.figure] for number in ranked} for phase, found in figures.items()}
    if len(ranked) > MOST_CURVES:
        drawn = sorted(ranked, key=lambda number: areas["transfer"][number] + areas["finetune"][number])[:WORST_CURVES]
    with drawing(path, 3.1 + 0.1 * len(drawn)) as figure:  # 0.1: half a line of the legend
        panels = figure.subplots(1, 2, sharey=True)
        named = []  # given outright: matplotlib leaves labels out that begin with "_"
        for axes, (phase, probabilities) in zip(panels, both.items(), strict=True):
            if curve is ROC:
                axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=":")  # chance
            for place, number in enumerate(drawn):
                x, y = curve.points(labels == number, probabilities[:, number])
                dashes, colour = divmod(place, len(CLASS_COLOURS))
                style = {"color": CLASS_COLOURS[colour], "linestyle": ("-", "--")[dashes], "linewidth": 1.2}
                numbers = " → ".join(f"{areas[each][number]:.3f}" for each in both)
                label = f"{plain(classes[number], 8)} ({numbers})"
                (line,) = axes.plot(_thinned(x), _thinned(y), drawstyle=curve.style, **style)
                named.append((line, label))
            axes.plot(*_curve(curve, labels, probabilities), color=COLOURS[phase], linewidth=2.5)
            axes.set_title(f"{NAMES[phase]} (mean {np.mean(list(areas[phase].values())):.3f})")
            axes.set(xlabel=curve.x, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        panels[0].set_ylabel(curve.y)
        lines, texts = zip(*named[: len(drawn)], strict=True)  # of the first panel
        figure.legend(lines, texts, loc="outside lower center", ncols=2)


def _mark_unit_square(axes: Axes) -> None:
    """Put an invisible square into the chart, by which the report's script finds its scale."""
    axes.add_patch(Rectangle((0, 0), 1, 1, facecolor="none", edgecolor="none", gid=UNIT))


def reliability_diagram(path: Path, pair: Pair, *, bins: int, classes: Sequence[str]) -> None:
    """How often the `confidences` came true against what they said, and the images in each bin."""
    second = plain(classes[1], 11)
    confidence_of, observed_of = (
        (second, second) if len(classes) == 2 else ("the predicted class", "correct predictions")
    )
    with drawing(path, 4.8) as figure:
        upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
        upper.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=":", label="Perfectly calibrated")
        for phase, probabilities in by_phase(pair).items():
            confidence, observed, filled = reliability(pair.labels, probabilities, bins)
            upper.plot(confidence, observed, color=COLOURS[phase], linewidth=1, alpha=0.5)
            # A dot's area is its share of the images: a stray bin of two does not catch the eye.
            areas = 12 + 300 * filled / len(pair.labels)
            upper.scatter(confidence, observed, areas, COLOURS[phase], alpha=0.85, label=NAMES[phase])
            edges = np.linspace(0, 1, bins + 1)
            # The bins of `reliability`: closed above, so a value on an edge counts below it.
            each, _ = confidences(pair.labels, probabilities)
            counts = np.bincount(np.searchsorted(edges[1:-1], each), minlength=bins)
            lower.stairs(counts, edges, color=COLOURS[phase], linewidth=1.5)
        upper.set(ylabel=f"Observed share of {observed_of}", ylim=(-0.03, 1.03))
        figure.legend(*upper.get_legend_handles_labels(), loc="outside upper center", ncols=3)
        lower.set(xlabel=f"Predicted probability of {confidence_of}", ylabel="Images", xlim=(-0.01, 1.01))


def confusion_matrices(path: Path, pair: Pair, *, threshold: Threshold, classes: Sequence[str]) -> None:
    """Both phases' confusion matrices, shaded by the share of the actual class: side by side, or larger one by one.

    Of many classes there is no room for the numbers, of very many none for the names.
    """
    count = len(classes)
    small = count <= 3
    size = 11 if small else min(10, 100 / count)  # of the text, in points: a cell is 280 / count wide
    names = [plain(name, 8) for name in classes] if count <= _MOST_NAMES else [""] * count
    fitting = min(10, 148 / count / max(map(width, names))) if small else size  # 148 points: all cells of a panel
    across: dict[str, Any] = {"fontsize": fitting} if small else {"rotation": 90, "fontsize": fitting}
    down: dict[str, Any] = {"rotation": 90, "va": "center", "fontsize": fitting} if small else {"fontsize": fitting}
    order = "" if count <= _MOST_NAMES else " (in alphabetical order)"
    with drawing(path, 2.9 if small else 8.6) as figure:
        panels = figure.subplots(1, 2, sharey=True) if small else figure.subplots(2, 1)
        for axes, (phase, probabilities) in zip(panels, by_phase(pair).items(), strict=True):
            counts = confusion_matrix(pair.labels, probabilities, threshold)
            shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
            for (actual, predicted), images in np.ndenumerate(counts):
                if not (small or images):
                    continue
                share = shares[actual, predicted]
                corner = (predicted - 0.5, actual - 0.5)
                alpha = share / 2 if count <= _MOST_NUMBERS else share  # at most half where text must stay legible
                axes.add_patch(Rectangle(corner, 1, 1, facecolor=COLOURS[phase], alpha=alpha, linewidth=0))
                if count <= _MOST_NUMBERS:
                    text = f"{images:,}\n{share:.1%}" if small else f"{images:,}"
                    axes.text(predicted, actual, text, ha="center", va="center", fontsize=size)
            axes.set(xlim=(-0.5, len(counts) - 0.5), ylim=(len(counts) - 0.5, -0.5), aspect="equal")
            axes.set_title(NAMES[phase])
            axes.set_xticks(range(count), names, **across)
            axes.set_xlabel(f"Predicted{order}")
            axes.grid(visible=False)
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0)
        for axes in panels[:1] if small else panels:
            axes.set_yticks(range(count), names, **down)
            axes.set_ylabel(f"Actual{order}")


def write_figures(
    folder: Path,
    pair: Pair,
    *,
    curves: Mapping[str, Sequence[Epoch]],
    choice: Choice,
    bins: int,
    classes: Sequence[str],
) -> dict[str, Path]:
    """Write all charts into `folder`, each as PNG and as SVG, and return the PNGs' paths by name.

    They are learning_curves, roc, precision_recall, reliability and confusion. roc and precision_recall are left out
    where the labels of the `pair` are of one class only.

    Args:
        folder: made if needed.
        pair: both phases' probabilities for the test images.
        curves: by phase, each epoch's figures.
        choice: by which the confusion matrices' classes are predicted.
        bins: of the reliability diagram.
        classes: names, in the order of the labels.
    """
    ranked = ranked_classes(pair.labels, pair.baseline)
    draw: dict[str, Callable[[Path], None]] = {
        "learning_curves": lambda path: learning_curves(path, curves["transfer"], curves["finetune"]),
        "reliability": lambda path: reliability_diagram(path, pair, bins=bins, classes=classes),
        "confusion": lambda path: confusion_matrices(
            path, choice.calibrated(pair), threshold=choice.threshold, classes=classes
        ),
    }
    if ranked and len(classes) == 2:
        draw["roc"] = lambda path: roc(path, pair)
        draw["precision_recall"] = lambda path: precision_recall(path, pair)
    elif ranked:
        for name, curve in CURVES.items():
            draw[name] = functools.partial(class_curves, pair=pair, curve=curve, classes=classes)
    paths = {name: folder / f"{name}.png" for name in draw}
    for name, path in paths.items():
        draw[name](path)
    return paths


def write_dvc_plots(
    folder: Path,
    labels: np.ndarray,
    probabilities: np.ndarray,
    predicted: np.ndarray,
    *,
    bins: int,
    classes: Sequence[str],
) -> None:
    """Write one phase's roc.csv, precision_recall.csv, reliability.csv and confusion.csv, the tables of `dvc plots`.

    The curves are the second class' of two, else the mean of each class'. They hold at most 500 points, and none where
    `labels` holds one class only. confusion.csv has one row per image.

    Args:
        folder: made if needed.
        labels: (N,) class indices.
        probabilities: (N, classes).
        predicted: (N,) class indices, of confusion.csv.
        bins: of reliability.csv.
        classes: names, in the order of the labels.
    """
    ranked = ranked_classes(labels, probabilities)
    curves: dict[tuple[str, ...], Sequence[np.ndarray]] = {
        ("fpr", "tpr"): _curve(ROC, labels, probabilities) if ranked else (),
        ("recall", "precision"): _curve(PRECISION_RECALL, labels, probabilities) if ranked else (),
        ("predicted", "observed", "count"): reliability(labels, probabilities, bins),
    }
    for name, (header, columns) in zip(("roc", "precision_recall", "reliability"), curves.items(), strict=True):
        rounded = (np.round(column, 6).tolist() for column in columns)
        write_csv(
            folder / f"{name}.csv", header, (dict(zip(header, row, strict=True)) for row in zip(*rounded, strict=True))
        )
    pairs = zip(labels, predicted, strict=True)
    predictions = ({"actual": classes[actual], "predicted": classes[number]} for actual, number in pairs)
    write_csv(folder / "confusion.csv", ("actual", "predicted"), predictions)


def _curve(curve: Curve, labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The `curve` of the second of two classes; of more classes the mean of their y at each x (macro average)."""
    all_points = [
        curve.points(labels == number, probabilities[:, number]) for number in ranked_classes(labels, probabilities)
    ]
    if probabilities.shape[1] == 2:
        ((x, y),) = all_points
        return _thinned(x), _thinned(y)
    places = np.linspace(0, 1, _POINTS)
    return places, np.mean([curve.at(places, x, y) for x, y in all_points], axis=0)


def _thinned(values: np.ndarray) -> np.ndarray:
    """At most _POINTS of `values`, evenly spaced, the ends among them."""
    if len(values) <= _POINTS:
        return values
    thinned: np.ndarray = values[np.linspace(0, len(values) - 1, _POINTS).round().astype(int)]
    return thinned
