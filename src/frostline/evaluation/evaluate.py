"""Both phases' models: which one the validation images choose, what the test images say of it, and what shows that."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from frostline.common.files import read_json, replacing, sha256_of, write_json, write_text
from frostline.config.paths import (
    BACKBONE_WEIGHTS,
    CLASSIFIER,
    DATA_SUMMARY,
    EVALUATION,
    FIGURES,
    METRICS,
    MODELS,
    REPORT,
)
from frostline.config.settings import BALANCED, Config, check_threshold
from frostline.data.dataset import SPLITS, UNLABELLED, Dataset
from frostline.evaluation.predictions import write_predictions, write_submission
from frostline.metrics.bootstrap import Pair, by_phase
from frostline.metrics.calibration import CalibrationEffect, Views, calibration_effects, fit_temperature
from frostline.metrics.cautions import cautions
from frostline.metrics.choice import Choice
from frostline.metrics.comparison import CALLED, Evaluation, evaluate
from frostline.metrics.predicted import costs_in
from frostline.metrics.threshold import cost_matrix, threshold_for, thresholds_of_many
from frostline.models.saving import save_for_use
from frostline.report import charts
from frostline.report.galleries import label_issues_gallery, prediction_galleries
from frostline.report.page import Report, write_report
from frostline.runtime.quiet_tensorflow import keras
from frostline.training.loop import Epoch, kept_epoch
from frostline.training.phases import predictor_of
from frostline.training.resolved import Found

Predict = Callable[..., np.ndarray]
"""As `phases.predictor_of` returns."""
_SHOWN = 8
"""Images per gallery of the report."""
_FEW = "A study judges every image, by models that never saw it: python -m frostline.sweep -m study=worth_it"
"""What to do about few test images."""


@dataclass(frozen=True)
class Trained:
    """What the stages before this one made, and the settings of the run."""

    models: Mapping[str, keras.Model]
    """By phase."""
    curves: Mapping[str, Sequence[Epoch]]
    """By phase, its epochs."""
    data: Dataset
    """The prepared images."""
    config: Config
    found: Mapping[str, Found] = field(default_factory=dict)
    """By phase, what its settings that say auto were found to be."""


@dataclass(frozen=True)
class Assessment:
    """What the validation images choose of what was trained, and what the test images say of it."""

    pairs: Mapping[str, Pair]
    """By split, validation and test, both phases' probabilities, as they were trained."""
    evaluation: Evaluation
    cautions: Sequence[str]
    """What to keep in mind of the data (`metrics.cautions`)."""
    effects: Sequence[CalibrationEffect]
    """Of each way to calibrate the chosen model's probabilities, and last of those that submission.csv takes."""
    predict: Predict
    """The chosen model's."""

    @property
    def choice(self) -> Choice:
        return self.evaluation.choice

    @property
    def note(self) -> str:
        """The verdict as Markdown, and below it, a line each, the cautions."""
        verdict = self.evaluation.verdict
        lines = [f"**{verdict.title}.** {verdict.choice} {verdict.detail}", *self.cautions]
        return "\n\n".join(lines)


def assess(trained: Trained) -> Assessment:
    """Choose a phase, its temperature and what submission.csv takes on the validation images; judge it on the test set.

    Raises FrostlineError where the test set is empty, or a model that diverged predicts no probabilities.
    """
    data, config, settings = trained.data, trained.config, trained.config.evaluate
    predictors = {phase: predictor_of(model, config) for phase, model in trained.models.items()}
    pairs = {
        split: Pair(
            data.labels(split),
            baseline=predictors["transfer"](data, split),
            candidate=predictors["finetune"](data, split),
        )
        for split in ("validation", "test")
    }
    drawing: dict[str, Any] = {
        "bins": settings.calibration_bins,
        "resamples": settings.bootstrap,
        "seed": config.seed,
    }
    count = len(data.classes)
    shares = np.bincount(data.labels("train"), minlength=count) / len(data.labels("train"))
    choice = choose(trained, pairs["validation"], shares)
    evaluation = evaluate(pairs["test"], choice, shares, **drawing)
    predict = predictors[choice.phase]
    validation, test = (
        Views(pair.labels, by_phase(pair)[choice.phase], _mirrored(predict, data, split, config))
        for split, pair in pairs.items()
    )
    submission = {**asdict(settings.submission), "temperature": settings.calibrate == "temperature"}
    effects = calibration_effects(validation, test, submission=submission, threshold=choice.threshold, **drawing)
    said = cautions(_counts(data), choice.threshold, config.preprocess.group is not None, _FEW)
    return Assessment(pairs, evaluation, said, effects, predict)


def choose(trained: Trained, validation: Pair, shares: np.ndarray) -> Choice:
    """Choose the phase whose model has the lower validation loss, each one's temperature and the threshold.

    Not by the test set, which then would judge its own choice. `validation`: both phases' probabilities; `shares`:
    (classes,), of the training images.

    Raises FrostlineError as `check_threshold`.
    """
    settings = trained.config.evaluate
    losses = {
        phase: float(kept_epoch(epochs, getattr(trained.config, phase).patience)["validation/loss"])
        for phase, epochs in trained.curves.items()
    }
    temperatures = {
        phase: fit_temperature(validation.labels, p) if settings.calibrate == "temperature" else 1.0
        for phase, p in by_phase(validation).items()
    }
    classes = trained.data.classes
    check_threshold(settings.threshold, classes)
    as_it_is = Choice(losses, temperatures, None)
    if isinstance(settings.threshold, dict):
        return replace(as_it_is, threshold=cost_matrix(settings.threshold, classes))
    if len(classes) > 2:
        return replace(as_it_is, threshold=thresholds_of_many(shares)) if settings.threshold == BALANCED else as_it_is
    if settings.threshold == "accuracy":
        return replace(as_it_is, threshold=0.5)
    if isinstance(settings.threshold, str):
        second = as_it_is.in_use(validation)[:, 1]
        return replace(as_it_is, threshold=threshold_for(settings.threshold, second, float(shares[1])))
    return replace(as_it_is, threshold=settings.threshold)


def _mirrored(predict: Predict, data: Dataset, split: str, config: Config) -> np.ndarray | None:
    return predict(data, split, mirrored=True) if config.evaluate.submission.flip else None


def write_assessment(found: Assessment, trained: Trained) -> None:
    """Write the stage's outputs: classifier.keras, reports/evaluation, metrics.json, figures.json and report.html.

    `found`: what `assess` found of what was `trained`.
    """
    data, choice, test = trained.data, found.choice, found.pairs["test"]
    save_for_use(MODELS[choice.phase], CLASSIFIER, threshold=choice.threshold, temperature=choice.temperature)
    drawing: dict[str, Any] = {"bins": trained.config.evaluate.calibration_bins, "classes": data.classes}
    predicted = choice.predicted(test)
    with replacing(EVALUATION) as folder:
        folder.mkdir()
        for phase, probabilities in by_phase(test).items():
            charts.write_dvc_plots(folder / phase, test.labels, probabilities, predicted[phase], **drawing)
        charts.write_figures(folder, test, curves=trained.curves, choice=choice, **drawing)
        write_predictions(folder / "predictions.csv", data, "test", test, choice)
        write_predictions(folder / "validation_predictions.csv", data, "validation", found.pairs["validation"], choice)
        if data.has(UNLABELLED) and len(data.classes) == 2:
            asked = found.predict(data, UNLABELLED)
            mirrored = _mirrored(found.predict, data, UNLABELLED, trained.config)
            write_submission(folder / "submission.csv", data, found.effects[-1].calibration.apply(asked, mirrored))
        write_text(folder / "verdict.md", f"{found.note}\n")
    submission = {"submission": found.effects[-1].as_metrics()}
    write_json(METRICS, found.evaluation.compared())
    write_json(FIGURES, found.evaluation.as_metrics(data.classes) | submission)
    write_report(REPORT, _report(found, trained))


def _report(found: Assessment, trained: Trained) -> Report:
    data, choice = trained.data, found.choice
    held_out = {split: choice.in_use(pair) for split, pair in found.pairs.items()}
    return Report(
        settings=trained.config,
        found={
            f"{phase}.{key}": number for phase, told in trained.found.items() for key, number in told.numbers().items()
        },
        data={**read_json(DATA_SUMMARY), "counts": _counts(data)},
        curves=trained.curves,
        pairs=found.pairs,
        evaluation=found.evaluation,
        effects=found.effects,
        figures={path.stem: path for path in EVALUATION.glob("*.svg")},
        galleries={
            **prediction_galleries(data, trained.models, found.pairs["test"], choice, _SHOWN),
            "label_issues": label_issues_gallery(data, trained.models, held_out, _SHOWN),
        },
        digests={
            "Backbone's weights": sha256_of(BACKBONE_WEIGHTS),
            "Transfer model": sha256_of(MODELS["transfer"]),
            "Fine-tuned model": sha256_of(MODELS["finetune"]),
            f"{CLASSIFIER}, {_in_words(choice)}": sha256_of(CLASSIFIER),
        },
    )


def _counts(data: Dataset) -> dict[str, dict[str, int]]:
    """Images by split and class: those of a fold are others than preprocess counted."""
    counts = {split: np.bincount(data.labels(split), minlength=len(data.classes)).tolist() for split in SPLITS}
    return {split: dict(zip(data.classes, numbers, strict=True)) for split, numbers in counts.items()}


def _in_words(choice: Choice) -> str:
    used = []
    if costs_in(choice.threshold) is not None:
        used = ["costs of mistakes"]
    elif choice.threshold is not None:
        used = [f"threshold {choice.threshold}" if isinstance(choice.threshold, float) else "a threshold of each class"]
    used += [f"temperature {choice.temperature:.4g}"] if choice.temperature != 1 else []
    with_these = f" with {' and '.join(used)}" if used else ""
    return f"the {CALLED[choice.phase]}, chosen by validation loss{with_these}"
