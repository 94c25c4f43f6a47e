"""The model card: a page of Markdown that goes with a model, made of what files say of it and of nothing else."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jinja2 import Environment, PackageLoader

from frostline.common.files import md5_of, read_json
from frostline.common.fit_names import Fit
from frostline.common.urls import hide_credentials
from frostline.config.dvc_lock import recorded
from frostline.config.paths import CLASSIFIER, DATA_SUMMARY, FIGURES, MODELS, PARAMS
from frostline.metrics.cautions import cautions
from frostline.metrics.predicted import costs_in, rule_in_words

if TYPE_CHECKING:  # it imports TensorFlow
    from frostline.models.saving import Metadata

CARD = "MODEL_CARD.md"
_THRESHOLD = 0.5

FITTED: Mapping[Fit, str] = {
    "squash": "width and height are scaled independently",
    "crop": "the largest centred square is taken",
    "pad": "the shape is kept, between white margins",
}
"""What becomes of a picture that is not square, in words."""


@dataclass(frozen=True)
class Origin:
    """What is known of how a model came to be; empty where it is not."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of its run, nested as params.yaml is."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """As reports/data.json has it."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """On the test images, by name, the ends of a 95% interval under ``<name>_low`` and ``<name>_high``."""
    images: int | None = None
    """Of the test set."""


def key_figures(metrics: Mapping[str, Any], phase: str | None = None) -> dict[str, float]:
    """log_loss, accuracy, cost and roc_auc by reports/figures.json, as far as it has them: of what is in use or of a
    `phase`.

    The ends of 95% intervals are ``<name>_low`` and ``<name>_high``. The model in use has those of its phase as it was
    trained, where calibration leaves the figure as it was.
    """
    trained = metrics.get(phase or metrics.get("verdict", {}).get("chosen"), {})
    wanted = trained if phase else metrics.get("in_use", {})
    found = {}
    for name in ("log_loss", "accuracy", "cost", "roc_auc"):
        if name in wanted:
            found[name] = wanted[name]
            with_ends = trained if trained.get(name) == wanted[name] else wanted
            found |= {end: with_ends[end] for end in (f"{name}_low", f"{name}_high") if end in with_ends}
    return found


def recorded_origin(model: Path) -> Origin:
    """Where the file `model` comes from: what dvc.lock says of the last run, if that judged it, byte by byte.

    Figures and data are those of reports/figures.json and reports/data.json, where these are of that run, too.
    """
    try:
        judged = recorded("evaluate")
        digests = {entry["path"]: entry["md5"] for entry in (*judged["deps"], *judged["outs"])}
        settings = judged["params"][str(PARAMS)]
    except (KeyError, TypeError):
        return Origin()

    def of_this_run(name: Path, file: Path) -> bool:
        return file.is_file() and digests.get(name.as_posix()) == md5_of(file)

    place = next((place for place in (CLASSIFIER, *MODELS.values()) if of_this_run(place, model)), None)
    if place is None:
        return Origin()
    data = read_json(DATA_SUMMARY) if of_this_run(DATA_SUMMARY, DATA_SUMMARY) else {}
    metrics = read_json(FIGURES) if of_this_run(FIGURES, FIGURES) else {}
    phase = next((phase for phase, path in MODELS.items() if path == place), None)
    figures = key_figures(metrics, phase)
    if phase and settings["evaluate"]["threshold"] != _THRESHOLD:  # what a phase's file is used with, uncalibrated
        figures = {name: value for name, value in figures.items() if not name.startswith(("accuracy", "cost"))}
    return Origin(settings, data, figures, _images(metrics))


def current_origin(evaluated: bool) -> Origin:
    """Where a model comes from that a stage has just made; `evaluated`: reports/figures.json is of this model."""
    settings = yaml.safe_load(PARAMS.read_text(encoding="utf-8")) if PARAMS.is_file() else {}
    data = read_json(DATA_SUMMARY) if DATA_SUMMARY.is_file() else {}
    metrics = read_json(FIGURES) if evaluated and FIGURES.is_file() else {}
    return Origin(settings, data, key_figures(metrics), _images(metrics))


def _images(metrics: Mapping[str, Any]) -> int | None:
    images: int | None = metrics.get("verdict", {}).get("images")
    return images


def model_card(metadata: "Metadata", size: int, origin: Origin, form: str, file: str) -> str:
    """Return the card, Markdown. The same arguments give the same text: it names no time, machine or folder.

    Args:
        metadata: what the model's file says of its classes and of how it is used.
        size: side of the images that it takes, in pixels.
        origin: of the model.
        form: "mlflow" or a format of `export`: says how it is loaded.
        file: by what name.
    """
    environment = Environment(  # noqa: S701 - not HTML
        loader=PackageLoader("frostline.serving", "card_page"), trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["plain"] = _plain
    environment.filters["shown"] = hide_credentials
    counts, figures = origin.data.get("counts", {}), origin.figures
    grouped = origin.settings.get("preprocess", {}).get("group") is not None
    classes = [_plain(name) for name in metadata.classes]
    return (
        environment.get_template(f"{CARD}.jinja").render(
            classes=classes,
            rule=rule_in_words(metadata.threshold, classes),
            thresholds=isinstance(metadata.threshold, Sequence),
            by_costs=costs_in(metadata.threshold) is not None,
            temperature=metadata.temperature,
            size=size,
            fit=metadata.fit,
            fitted=FITTED[metadata.fit],
            settings=origin.settings,
            data=origin.data,
            figures={
                name: (value, figures.get(f"{name}_low"), figures.get(f"{name}_high"))
                for name, value in figures.items()
                if not name.endswith(("_low", "_high"))
            },
            images=origin.images,
            cautions=[_plain(each) for each in cautions(counts, metadata.threshold, grouped)] if counts else [],
            form=form,
            file=json.dumps(file, ensure_ascii=False),
        )
        + "\n"
    )


def is_card(path: Path) -> bool:
    """Whether the file at `path` begins as a model card does."""
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        begun = [file.readline(10_000) for _ in range(3)]
    return begun[0].startswith("# Image classifier: ") and begun[2].startswith("Written by Frostline from ")


def _plain(text: str) -> str:
    """`text` for Markdown that shows it as it is."""
    return re.sub(r"([\\`*_{}\[\]<>|#~&])", r"\\\1", " ".join(text.split()))
