"""The report, one self-contained HTML page: how good is the classifier, and was fine-tuning worth it?"""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from frostline.evaluation import INTERVAL_FIGURES, Evaluation, Interval, decimals, signed
from frostline.files import write_text
from frostline.plots import COLOURS, NAMES
from frostline.settings import Config
from frostline.splitting import SPLITS

Gallery = tuple[np.ndarray, Sequence[str]]
"""Pictures (K, S, S, 3) uint8 and their captions; a caption's first line names the picture."""

_BACKBONES = {"inception_v3": "InceptionV3"}
_FEW_PICTURES = 30  # below it, bootstrap percentiles are known to be too narrow (Efron & Tibshirani 1993, ch. 13)

_FIGURES = {  # name, the better direction, meaning
    "log_loss": ("Log loss", "↓", "mean of −ln P(actual class); punishes confident mistakes"),
    "accuracy": ("Accuracy", "↑", "share of pictures decided correctly"),
    "roc_auc": (
        "ROC AUC",
        "↑",
        "chance that a picture of {second} gets a higher P({second}) than one of {first}",
    ),
    "average_precision": ("Average precision", "↑", "area under the precision–recall curve of {second}"),
    "f1": ("F1", "↑", "harmonic mean of precision and recall of {second}"),
    "brier": ("Brier score", "↓", "mean squared error of P({second})"),
    "ece": (
        "Calibration error (ECE)",
        "↓",
        "mean gap between P({second}) and the observed share of {second}",
    ),
}
_CAPTIONS = {  # in the page's order: heading, caption
    "roc": ("ROC curves", "Up and left is better; the diagonal is guessing."),
    "precision_recall": ("Precision and recall", "Up and right is better."),
    "reliability": (
        "Reliability",
        "On the diagonal, probabilities mean what they say; larger dots hold more pictures.",
    ),
    "confusion": ("Confusion matrices", "Decisions by actual class; the diagonal from top left is correct."),
}


def write_report(
    path: Path,
    *,
    settings: Config,
    data: Mapping[str, Any],
    evaluation: Evaluation,
    figures: Mapping[str, Path],
    galleries: Mapping[str, Gallery],
    command: str,
    weights_digest: str,
) -> None:
    """Write the page to `path`; it loads nothing else, and the same inputs give the same bytes.

    - `data`: what preprocess counted: classes [first, second], counts {split: {class: n}}, unlabelled n,
      rejected {reason: n}, duplicates {groups: n, pictures: n}, ignored n, digest (SHA-256).
    - `figures`: PNG files by name, as `plots.write_figures` returns them.
    - `galleries`: "mistakes" (of the winner, surest first), "set_right" and "got_wrong" (by fine-tuning).
    - `command` reproduces the run; `weights_digest` is the SHA-256 of the backbone's weights.
    """
    environment = Environment(
        loader=PackageLoader("frostline"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    classes, verdict = data["classes"], evaluation.verdict
    totals = {split: sum(data["counts"][split].values()) for split in SPLITS}
    page = environment.get_template("report.html.jinja").render(
        name=settings.name,
        backbone=_BACKBONES.get(settings.model.backbone, settings.model.backbone),
        classes=classes,
        totals=totals,
        untrained=settings.weights.source == "random",
        few=evaluation.pictures < _FEW_PICTURES,
        evaluation=evaluation,
        verdict=verdict,
        names=NAMES,
        colours=COLOURS,
        winner_mark=_winner_mark(evaluation),
        summary_rows=list(_summary_rows(evaluation)),
        figure_rows=list(_figure_rows(evaluation, classes)),
        learning_curves=_embedded(figures["learning_curves"].read_bytes()),
        charts=[
            {
                "title": title,
                "caption": caption,
                "alt": _alt(chart, evaluation, classes),
                "source": _embedded(figures[chart].read_bytes()),
            }
            for chart, (title, caption) in _CAPTIONS.items()
            if chart in figures
        ],
        galleries={name: list(_pictures(*gallery)) for name, gallery in galleries.items()},
        n_mistakes=_mistakes(evaluation),
        data=data,
        rejected=sorted(data["rejected"].items(), key=lambda item: (-item[1], item[0])),
        settings=list(_flat(_without_tracking(settings))),
        command=command,
        resamples=settings.evaluate.bootstrap,
        weights_digest=weights_digest,
    )
    write_text(path, page)


def _winner_mark(evaluation: Evaluation) -> str:
    if evaluation.difference["log_loss"] == 0:
        return "tie: simpler"
    return "maybe ahead" if evaluation.verdict.outcome == "indistinguishable" else "winner"


def _summary_rows(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """One row per figure that has intervals; each cell is (value, interval) as text."""
    for figure in INTERVAL_FIGURES:
        if figure not in evaluation.difference:
            continue
        difference, interval = evaluation.difference[figure], evaluation.intervals["difference"][figure]
        digits = min(4, decimals(difference, interval.low, interval.high))
        name, better, _ = _FIGURES[figure]
        yield {
            "name": name,
            "better": better,
            **{
                phase: (f"{values[figure]:.{digits}f}", _range(evaluation.intervals[phase][figure], digits))
                for phase, values in evaluation.figures.items()
            },
            "difference": (
                signed(difference, digits),
                f"{signed(interval.low, digits)} to {signed(interval.high, digits)}",
            ),
            "beyond_chance": interval.excludes_zero(),
        }


def _range(interval: Interval, digits: int) -> str:
    return f"{interval.low:.{digits}f}–{interval.high:.{digits}f}"


def _figure_rows(evaluation: Evaluation, classes: Sequence[str]) -> Iterator[dict[str, str]]:
    for figure, (name, better, meaning) in _FIGURES.items():
        values = {phase: found.get(figure) for phase, found in evaluation.figures.items()}
        if any(value is not None for value in values.values()):
            yield {
                "name": name,
                "better": better,
                "meaning": meaning.format(first=classes[0], second=classes[1]),
                **{phase: "undefined" if value is None else f"{value:.4f}" for phase, value in values.items()},
            }


def _alt(chart: str, evaluation: Evaluation, classes: Sequence[str]) -> str:
    """Say in words what the chart shows."""

    def both(figure: str) -> str:
        return " and ".join(f"{values[figure]:.3f} for {phase}" for phase, values in evaluation.figures.items())

    if chart == "roc":
        return f"ROC curves of both phases; the area below is {both('roc_auc')}."
    if chart == "precision_recall":
        return f"Precision–recall curves of both phases; average precision is {both('average_precision')}."
    if chart == "reliability":
        return f"Reliability diagram of both phases; the expected calibration error is {both('ece')}."
    parts = [
        f"{phase}: {counts[label, label]} of {counts[label].sum()} {classes[label]} decided correctly"
        for phase, counts in evaluation.confusion.items()
        for label in (0, 1)
    ]
    return f"Confusion matrices. {'; '.join(parts)}."


def _mistakes(evaluation: Evaluation) -> int:
    counts = evaluation.confusion[evaluation.verdict.winner]
    return int(counts[0, 1] + counts[1, 0])


def _pictures(pixels: np.ndarray, captions: Sequence[str]) -> Iterator[dict[str, Any]]:
    for picture, caption in zip(pixels, captions, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG")
        name, *facts = caption.split("\n")
        yield {"source": _embedded(buffer.getvalue()), "name": name, "facts": facts}


def _embedded(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _without_tracking(settings: Config) -> dict[str, Any]:
    """The settings that bear on the result; a tracking address may also hold a password."""
    return {group: value for group, value in asdict(settings).items() if group != "tracking"}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted key, value); of an absolute path only the last part: the page names no machine."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, str) and PurePosixPath(value).is_absolute():
            yield prefix + key, f"…/{PurePosixPath(value).name}"
        elif isinstance(value, str) and PureWindowsPath(value).is_absolute():
            yield prefix + key, f"…/{PureWindowsPath(value).name}"
        else:
            yield prefix + key, str(value)
