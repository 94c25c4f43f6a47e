"""The report, one self-contained HTML page: how good is the classifier, and was fine-tuning worth it?"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from frostline.common.data_urls import data_url
from frostline.common.files import write_text
from frostline.common.urls import hide_credentials
from frostline.config.flat import flatten
from frostline.config.settings import Config, settings_of
from frostline.data.dataset import SPLITS
from frostline.explain.heat_map import heat_png, where
from frostline.fonts.lettering import isolated
from frostline.metrics.bootstrap import Interval, Pair, by_phase
from frostline.metrics.calibration import CalibrationEffect
from frostline.metrics.cautions import are_unequal, cautions
from frostline.metrics.classification import recalls, threshold_counts
from frostline.metrics.comparison import CALLED, TOO_FEW, Evaluation
from frostline.metrics.formatting import decimals, signed, six_digits
from frostline.metrics.predicted import between_two, rule_in_words
from frostline.models.architectures import title_of
from frostline.report.charts import CURVES, MOST_CURVES, WORST_CURVES
from frostline.report.rendering import rendered
from frostline.report.style import NAMES

_SOFTWARE = {"tensorflow": "TensorFlow", "keras": "Keras"}
"""What the page names: of libraries that are locked in one release for every Python, so that all give the same page."""
_FEW_CLASSES = 6
"""So many classes are named one by one."""
_PAIRS = 10
"""Confused pairs of classes shown at most."""
_EDGE_THRESHOLDS = (0, 0.001, 0.002, 0.005)  # finer where probabilities crowd
_THRESHOLDS = (*_EDGE_THRESHOLDS, *(n / 100 for n in range(1, 100)), *(1 - t for t in reversed(_EDGE_THRESHOLDS)))
_FIGURES = {  # name, the better direction, meaning for two classes and for more
    "log_loss": ("Log loss", "↓", *["mean of −ln P(actual class); punishes confident mistakes"] * 2),
    "accuracy": ("Accuracy", "↑", *["share of images predicted correctly"] * 2),
    "cost": ("Cost per image", "↓", *["mean of what answers cost by evaluate.threshold; right ones cost nothing"] * 2),
    "balanced_accuracy": ("Balanced accuracy", "↑", *["mean over classes of the share predicted correctly"] * 2),
    "lowest_recall": ("Lowest recall", "↑", *["share predicted correctly of the class with the least"] * 2),
    "roc_auc": (
        "ROC AUC",
        "↑",
        "chance that an image of {second} gets a higher P({second}) than one of {first}",
        "chance that an image of a class gets a higher P(class) than one of another; mean over classes",
    ),
    "average_precision": (
        "Average precision",
        "↑",
        "area under the precision–recall curve of {second}",
        "area under a class' precision–recall curve; mean over classes",
    ),
    "f1": (
        "F1",
        "↑",
        "harmonic mean of precision and recall of {second}",
        "harmonic mean of a class' precision and recall; mean over classes",
    ),
    "brier": (
        "Brier score",
        "↓",
        "mean squared error of P({second})",
        "squared error of P(class), summed over classes; mean over images",
    ),
    "ece": (
        "Calibration error (ECE)",
        "↓",
        "mean gap between P({second}) and the observed share of {second}",
        "mean gap between the predicted class' probability and the share of correct predictions",
    ),
}
_SUMMARY = ("log_loss", "accuracy", "cost", "balanced_accuracy", "lowest_recall", "roc_auc", "brier")
"""The figures of the first table."""
_CAPTIONS = {  # in the page's order: heading, caption
    "roc": ("ROC curves", "Up and left is better; the diagonal is guessing."),
    "precision_recall": ("Precision and recall", "Up and right is better."),
    "reliability": (
        "Reliability",
        "On the diagonal, probabilities mean what they say; larger dots hold more images.",
    ),
    "confusion": ("Confusion matrices", "Predictions by actual class; the diagonal from top left is correct."),
}
_CURVES = (
    " Each class against the rest, with the areas below its curves, transfer → fine-tuned; thick: the mean of all"
    f" classes. Of more than {MOST_CURVES} classes the {WORST_CURVES} worst are drawn."
)


@dataclass(frozen=True)
class Heat:
    """What one phase's model sees in an image."""

    map: np.ndarray
    """Grad-CAM's map (h, w), 0 to 1, for `explained`."""
    explained: str
    """The class that the map speaks for."""


@dataclass(frozen=True)
class ShownImage:
    name: str
    """Its path in the archive, as predictions.csv and corrections.csv have it."""
    facts: Sequence[str]
    """Lines of the caption."""
    pixels: np.ndarray
    """(S, S, 3) uint8."""
    heat: Mapping[str, Heat]
    """By phase."""


@dataclass(frozen=True)
class Gallery:
    total: int
    """Images of which the first are `shown`."""
    shown: Sequence[ShownImage]


@dataclass(frozen=True)
class Report:
    """All that the page shows."""

    settings: Config
    data: Mapping[str, Any]
    """What preprocess counted: classes [names], counts {split: {class: n}}, unlabelled n, rejected {reason: n},
    duplicates {groups: n, images: n}, ignored n, digest (SHA-256)."""
    curves: Mapping[str, Sequence[Mapping[str, float]]]
    """By phase, each epoch's figures, as EPOCH_COLUMNS name them."""
    pairs: Mapping[str, Pair]
    """By split, validation and test, both phases' probabilities, as they were trained."""
    evaluation: Evaluation
    """Of the test set."""
    effects: Sequence[CalibrationEffect]
    """What calibrating the chosen model's probabilities changes (`calibration_effects`)."""
    figures: Mapping[str, Path]
    """By name, the SVG files that `charts.write_figures` leaves."""
    galleries: Mapping[str, Gallery]
    """Named "top_losses", "smallest_margins", "set_right", "got_wrong", "label_issues" (`galleries`)."""
    digests: Mapping[str, str]
    """SHA-256 by what has it."""
    found: Mapping[str, float] = field(default_factory=dict)
    """By its key, what a setting that says auto was found to be while training."""

    @property
    def classes(self) -> Sequence[str]:
        """As they stand among other words."""
        return [isolated(name) for name in self.data["classes"]]


def write_report(path: Path, report: Report) -> None:
    """Write the page to `path`; it loads nothing else, and the same inputs give the same bytes.

    So it cannot name the commit: dvc.lock, committed after the run, holds the page's digest. MLflow's tag has it.
    """
    sections = (_verdict, _learning_curves, _test_figures, _images, _data, _reproduction)
    content = {name: value for section in sections for name, value in section(report).items()}
    write_text(path, rendered("report.html.jinja", {**content, "names": NAMES, "phases": tuple(NAMES)}))


# The sections, in the page's order: what the template needs for each


def _verdict(report: Report) -> dict[str, Any]:
    settings, evaluation, verdict = report.settings, report.evaluation, report.evaluation.verdict
    recall_rows = list(_recall_rows(evaluation, report.classes, list(report.data["counts"]["train"].values())))
    return {
        "name": settings.name,
        "backbone": settings.model.preset or title_of(settings.model.backbone),
        "classes": report.classes,
        "task": _task(report.classes),
        "totals": {split: sum(report.data["counts"][split].values()) for split in SPLITS},
        "untrained": settings.weights.source == "random",
        "cautions": cautions(
            _isolated_counts(report), evaluation.choice.threshold, settings.preprocess.group is not None
        ),
        "evaluation": evaluation,
        "rule": rule_in_words(evaluation.choice.threshold, report.classes),
        "verdict": verdict,
        "accent": "caution" if verdict.disputed or verdict.outcome == "nothing_learned" else verdict.outcome,
        "chosen_name": CALLED[verdict.chosen],
        "summary_rows": [*_summary_rows(evaluation, report.classes, len(recall_rows)), *recall_rows],
        "recalls": len(recall_rows),
    }


def _isolated_counts(report: Report) -> dict[str, dict[str, int]]:
    """The images of each split and class, whose names are as they stand among other words."""
    return {split: {isolated(name): n for name, n in counts.items()} for split, counts in report.data["counts"].items()}


def _task(classes: Sequence[str]) -> str:
    if len(classes) == 2:
        return f"tell {classes[0]} from {classes[1]}"
    if len(classes) <= _FEW_CLASSES:
        return f"tell {', '.join(classes[:-1])} and {classes[-1]} apart"
    return f"tell {len(classes)} classes apart"


def _summary_rows(evaluation: Evaluation, classes: Sequence[str], recall_rows: int) -> Iterator[dict[str, Any]]:
    """One row per figure that has intervals, or is of single classes; each cell is (value, what stands below it).

    `recall_rows`: how many classes have a row of their own below, which for all of them says what the lowest recall is.
    """
    guessing = evaluation.guessing.figures
    for figure in _SUMMARY:
        if figure not in evaluation.difference or (figure == "lowest_recall" and recall_rows == len(classes)):
            continue
        difference, interval = evaluation.difference[figure], evaluation.intervals["difference"].get(figure)
        digits = min(4, decimals(difference, *((interval.low, interval.high) if interval else ())))
        below = dict.fromkeys(evaluation.figures, "")
        if figure == "lowest_recall":
            below = {phase: f"of {classes[evaluation.lowest_recall_class(phase)]}" for phase in below}
        elif interval:
            below = {phase: _range(evaluation.intervals[phase][figure], digits) for phase in below}
        name, better, *_ = _FIGURES[figure]
        yield {
            "name": name,
            "better": better,
            "guessing": f"{guessing[figure]:.{digits}f}" if figure in ("log_loss", "accuracy", "cost") else "",
            **{phase: (f"{evaluation.figures[phase][figure]:.{digits}f}", text) for phase, text in below.items()},
            "difference": (
                signed(difference, digits),
                f"{signed(interval.low, digits)} to {signed(interval.high, digits)}" if interval else "",
            ),
            "beyond_chance": evaluation.images > TOO_FEW and interval is not None and interval.excludes_zero(),
        }


def _recall_rows(evaluation: Evaluation, classes: Sequence[str], images: Sequence[int]) -> Iterator[dict[str, Any]]:
    """One row per class where these are unequal by their training `images`, as `_summary_rows` has them; where there
    are many, one for each of the smallest."""
    if not are_unequal(dict(enumerate(images))):
        return
    smallest = sorted(np.argsort(images, kind="stable")[:_FEW_CLASSES])
    found = {phase: recalls(counts) for phase, counts in evaluation.confusion.items()}
    for number in smallest:
        difference = found["finetune"][number] - found["transfer"][number]
        yield {
            "name": f"Recall of {classes[number]}",
            "better": "↑",
            "guessing": "",
            **{phase: _recall(counts[number], number) for phase, counts in evaluation.confusion.items()},
            "difference": ("" if np.isnan(difference) else signed(difference, 3), ""),
            "beyond_chance": False,
        }


def _recall(predicted: np.ndarray, number: int) -> tuple[str, str]:
    """The share of the test images of a class that are `predicted` (classes,) to be of it, `number`, and the counts."""
    return _share(predicted[number], predicted), f"{predicted[number]:,} of {predicted.sum():,} images"


def _range(interval: Interval, digits: int) -> str:
    return f"{interval.low:.{digits}f}–{interval.high:.{digits}f}"


def _learning_curves(report: Report) -> dict[str, Any]:
    return {
        "curves": report.curves,
        "patience": {phase: getattr(report.settings, phase).patience for phase in report.curves},
        "smoothed": any(getattr(report.settings, phase).label_smoothing for phase in report.curves),
        "mixed": any(getattr(report.settings, phase).mixup for phase in report.curves),
        "learning_curves": _svg(report.figures["learning_curves"], _learning_curves_alt(report.curves)),
    }


def _learning_curves_alt(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    parts = [
        f"{NAMES[phase]}, {len(epochs)} epoch{'s' * (len(epochs) != 1)}: validation loss from "
        f"{float(epochs[0]['validation/loss']):.3f} to {float(epochs[-1]['validation/loss']):.3f}"
        for phase, epochs in curves.items()
    ]
    return f"Loss and accuracy on training and validation images by epoch. {'; '.join(parts)}."


def _test_figures(report: Report) -> dict[str, Any]:
    classes, evaluation = report.classes, report.evaluation
    return {
        "charts": list(_charts(report)),
        "explorer": _explorer(report) if len(classes) == 2 else None,
        "threshold": six_digits(between_two(evaluation.choice.threshold)) if len(classes) == 2 else None,
        "class_rows": list(_class_rows(evaluation.confusion, classes)),
        "confused_pairs": _confused_pairs(evaluation, classes),
        "figure_rows": list(_figure_rows(evaluation, classes)),
        "effect_rows": list(_effect_rows(report)),
        "has_submission": _has_submission(report),
    }


def _charts(report: Report) -> Iterator[dict[str, Any]]:
    for chart, (title, caption) in _CAPTIONS.items():
        if chart in report.figures:
            curves = chart in CURVES and len(report.classes) > 2
            alt = _alt(chart, report.evaluation, report.classes)
            yield {
                "name": chart,
                "title": title,
                "caption": caption + (_CURVES if curves else ""),
                "svg": _svg(report.figures[chart], alt),
            }


def _alt(chart: str, evaluation: Evaluation, classes: Sequence[str]) -> str:
    """Say in words what the chart shows."""

    def both(figure: str) -> str:
        return " and ".join(f"{values[figure]:.3f} for {phase}" for phase, values in evaluation.figures.items())

    mean = "" if len(classes) == 2 else "mean "
    if chart == "roc":
        return f"ROC curves of both phases; the {mean}area below is {both('roc_auc')}."
    if chart == "precision_recall":
        return f"Precision–recall curves of both phases; {mean}average precision is {both('average_precision')}."
    if chart == "reliability":
        return f"Reliability diagram of both phases; the expected calibration error is {both('ece')}."
    if len(classes) > _FEW_CLASSES:  # each stands in the table of classes
        whole = [
            f"{phase}: {np.trace(counts):,} of {counts.sum():,} images predicted correctly"
            for phase, counts in evaluation.confusion.items()
        ]
        return f"Confusion matrices of {len(classes)} classes. {'; '.join(whole)}."
    parts = [
        f"{phase}: {counts[label, label]} of {counts[label].sum()} {name} predicted correctly"
        for phase, counts in evaluation.confusion.items()
        for label, name in enumerate(classes)
    ]
    return f"Confusion matrices. {'; '.join(parts)}."


def _explorer(report: Report) -> dict[str, Any]:
    """What the page's script needs: [TN, FP, FN, TP] at each threshold, and the index of the one in use.

    Of calibrated probabilities: both phases' of the test images, and the chosen one's of the validation images, as the
    place to choose a threshold at. The second class is the positive one.
    """
    choice = report.evaluation.choice
    validation, test = report.pairs["validation"], report.pairs["test"]
    threshold = between_two(choice.threshold)
    thresholds = sorted({*_THRESHOLDS, threshold})
    counted = {"validation": (validation.labels, choice.in_use(validation))}
    counted |= {phase: (test.labels, p) for phase, p in by_phase(choice.calibrated(test)).items()}
    return {
        "thresholds": thresholds,
        "start": thresholds.index(threshold),
        "counts": {
            name: threshold_counts(labels, probabilities, thresholds).reshape(-1, 4).tolist()
            for name, (labels, probabilities) in counted.items()
        },
    }


def _class_rows(confusion: Mapping[str, np.ndarray], classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One row per class: its test images, and each phase's precision and recall as text."""
    for number, name in enumerate(classes):
        yield {
            "name": name,
            "images": int(confusion["transfer"][number].sum()),
            "precision": {
                phase: _share(counts[number, number], counts[:, number]) for phase, counts in confusion.items()
            },
            "recall": {phase: _share(counts[number, number], counts[number]) for phase, counts in confusion.items()},
        }


def _share(hits: int, images: np.ndarray) -> str:
    return f"{hits / images.sum():.3f}" if images.any() else "undefined"


def _confused_pairs(evaluation: Evaluation, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The pairs of classes that the chosen model confuses most, either way around, with both phases' images."""
    either = {phase: np.triu(counts + counts.T, 1) for phase, counts in evaluation.confusion.items()}
    worst = either[evaluation.choice.phase]
    order = np.argsort(-worst, axis=None, kind="stable")[:_PAIRS]
    pairs = [np.unravel_index(cell, worst.shape) for cell in order]
    return [
        {"names": [classes[first], classes[second]], **{phase: int(n[first, second]) for phase, n in either.items()}}
        for first, second in pairs
        if worst[first, second]
    ]


def _figure_rows(evaluation: Evaluation, classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One row per figure: those of the phases, of the chosen model in use, and of guessing, as text."""
    columns = {**evaluation.figures, "in_use": evaluation.in_use, "guessing": evaluation.guessing.figures}
    for figure, (name, better, of_two, of_more) in _FIGURES.items():
        values = {column: found.get(figure) for column, found in columns.items()}
        if any(value is not None for value in values.values()):
            yield {
                "name": name,
                "better": better,
                "meaning": of_two.format(first=classes[0], second=classes[1]) if len(classes) == 2 else of_more,
                "values": ["undefined" if value is None else f"{value:.4f}" for value in values.values()],
            }


def _has_submission(report: Report) -> bool:
    """Whether there are images to write submission.csv for."""
    return bool(report.data["unlabelled"]) and len(report.classes) == 2


def _effect_rows(report: Report) -> Iterator[dict[str, str]]:
    """One row for the chosen model's probabilities as it gives them, and one per way to calibrate them."""
    settings, evaluation = report.settings.evaluate, report.evaluation
    parts = [name for name, wanted in asdict(settings.submission).items() if wanted]
    before = evaluation.figures[evaluation.choice.phase]
    yield {
        "name": "As the model gives them" + (", in use" if settings.calibrate == "none" else ""),
        "log_loss": f"{before['log_loss']:.4f}",
        "difference": "",
        "interval": "",
        "ece": f"{before['ece']:.4f}",
    }
    for effect in report.effects if _has_submission(report) else report.effects[:-1]:
        calibration = effect.calibration
        name = {
            "flip": "Mean with the mirrored image",
            "temperature": f"Temperature {calibration.temperature:.4g}"
            + (", in use" if settings.calibrate == "temperature" else ""),
            "clip": f"Clipped to {calibration.clip:.2g} from 0 and 1"
            + (", then divided by their sum" if len(report.classes) > 2 else ""),
            "submission": f"As in submission.csv ({', '.join(['as in use', *parts])})",
        }[effect.name]
        digits = max(4, decimals(effect.difference, effect.interval.low, effect.interval.high))
        yield {
            "name": name,
            "log_loss": f"{effect.log_loss:.4f}",
            "difference": signed(effect.difference, digits),
            "interval": f"{signed(effect.interval.low, digits)} to {signed(effect.interval.high, digits)}",
            "ece": f"{effect.ece:.4f}",
        }


def _images(report: Report) -> dict[str, Any]:
    return {
        "cut_layer": report.settings.model.cut_layer,
        "galleries": {
            name: {"total": gallery.total, "shown": [_image(image) for image in gallery.shown]}
            for name, gallery in report.galleries.items()
        },
    }


def _image(image: ShownImage) -> dict[str, Any]:
    size = image.pixels.shape[:2]
    return {
        "name": image.name,
        "facts": image.facts,
        "source": _jpeg(image.pixels),
        "heat": {
            phase: {
                "source": data_url("png", heat_png(heat.map, size)),
                "alt": f"{NAMES[phase]}: what speaks for {heat.explained} lies {where(heat.map)}",
            }
            for phase, heat in image.heat.items()
        },
    }


def _jpeg(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90, subsampling=0)
    return data_url("jpeg", buffer.getvalue())


def _data(report: Report) -> dict[str, Any]:
    rejected = report.data["rejected"].items()
    return {
        "resamples": report.settings.evaluate.bootstrap,
        "data": report.data,
        "rejected": sorted(rejected, key=lambda item: (-item[1], item[0])),
    }


def _reproduction(report: Report) -> dict[str, Any]:
    settings = flatten(settings_of(report.settings, "evaluate"))
    return {
        "digests": {"Prepared data": report.data["digest"], **report.digests},
        "software": {name: version(package) for package, name in _SOFTWARE.items()},
        "settings": [
            (key, value if key == "preprocess.group" and value else _shown(value, report.found.get(key)))  # no path
            for key, value in settings.items()
        ],
    }


def _shown(value: Any, found: float | None) -> str:
    """A setting's value, and what it was `found` to be; of an absolute path only the last part: the page names no
    machine."""
    for kind in (PurePosixPath, PureWindowsPath):
        if isinstance(value, str) and kind(value).is_absolute():
            return f"…/{kind(value).name}"
    text = hide_credentials(value) if isinstance(value, str) else str(value)
    return text if found is None else f"{text}: {found:g}"


def _svg(path: Path, alt: str) -> Markup:
    """The drawing in `path`, our own, to stand in the page as one image that `alt` describes."""
    drawing = path.read_text(encoding="utf-8").removeprefix("<svg")
    return Markup('<svg role="img" aria-label="{}"{}').format(alt, Markup(drawing))  # noqa: S704 (matplotlib escapes)
