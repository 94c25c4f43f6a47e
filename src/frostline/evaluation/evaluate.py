"""Both phases' models on the same test set: what they say, how good that is, and the files that show it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from frostline.common.files import read_json, replacing, sha256_of, write_json, write_text
from frostline.config.paths import BACKBONE_WEIGHTS, CLASSIFIER, DATA_SUMMARY, EVALUATION, METRICS, MODELS, REPORT
from frostline.config.settings import Config
from frostline.data.dataset import UNLABELLED, Dataset
from frostline.evaluation.predictions import write_predictions, write_submission
from frostline.metrics.bootstrap import Pair, by_phase
from frostline.metrics.calibration import CalibrationEffect, Views, calibration_effects
from frostline.metrics.comparison import Evaluation, Phase, evaluate
from frostline.models.saving import save_with_threshold
from frostline.report import charts
from frostline.report.galleries import label_issues_gallery, prediction_galleries
from frostline.report.page import Report, write_report
from frostline.runtime.quiet_tensorflow import keras
from frostline.training.loop import Epoch, kept_epoch
from frostline.training.phases import predictor_of

Predict = Callable[..., np.ndarray]
"""As `phases.predictor_of` returns."""
_SHOWN = 8
"""Images per gallery of the report."""


@dataclass(frozen=True)
class Assessment:
    """What the test set says of both phases' models."""

    pair: Pair
    """Both phases on the test set; see `evaluate`."""
    held_out: dict[str, np.ndarray]
    """By split, the winner's probabilities, (N, classes) float64, for the validation and the test set."""
    evaluation: Evaluation
    effects: list[CalibrationEffect]
    """Of each way to calibrate the winner's probabilities, and last of those that submission.csv takes."""
    predict: Predict
    """The winner's."""

    @property
    def winner(self) -> Phase:
        """The phase whose model to take."""
        return self.evaluation.verdict.winner

    @property
    def note(self) -> str:
        """The verdict as Markdown."""
        verdict = self.evaluation.verdict
        return f"**{verdict.title}.** {verdict.choice} {verdict.detail}"


def assess(models: Mapping[str, keras.Model], data: Dataset, config: Config) -> Assessment:
    """Compare both phases on the test set, and measure what calibrating the better one's probabilities changes.

    Args:
        models: by phase, "transfer" and "finetune".
        data: the prepared images.
        config: of the run; `evaluate` says how to judge.

    Raises:
        FrostlineError: the test set is empty, or a model that diverged predicts no probabilities.
    """
    settings = config.evaluate
    how: dict[str, Any] = {
        "threshold": settings.threshold,
        "bins": settings.calibration_bins,
        "resamples": settings.bootstrap,
        "seed": config.seed,
    }
    predictors = {phase: predictor_of(model, config) for phase, model in models.items()}
    pair = Pair(
        data.labels("test"),
        baseline=predictors["transfer"](data, "test"),
        candidate=predictors["finetune"](data, "test"),
    )
    evaluation = evaluate(pair, **how)
    winner = evaluation.verdict.winner
    predict = predictors[winner]
    held_out = {"validation": predict(data, "validation"), "test": by_phase(pair)[winner]}
    validation, test = (
        Views(data.labels(split), probabilities, _mirrored(predict, data, split, config))
        for split, probabilities in held_out.items()
    )
    effects = calibration_effects(validation, test, chosen=asdict(settings.submission), **how)
    return Assessment(pair, held_out, evaluation, effects, predict)


def _mirrored(predict: Predict, data: Dataset, split: str, config: Config) -> np.ndarray | None:
    return predict(data, split, mirrored=True) if config.evaluate.submission.flip else None


@dataclass(frozen=True)
class Chosen:
    """The phase whose model becomes models/classifier.keras, and its threshold (see `predicted_classes`)."""

    phase: Phase
    threshold: float | None


def choose(data: Dataset, curves: Mapping[str, Sequence[Epoch]], config: Config) -> Chosen:
    """Choose the phase whose model has the lower validation loss; a tie goes to transfer, the simpler model.

    Not by the test set, which then would judge its own choice. `curves`: by phase, its epochs.
    """
    before, after = (
        kept_epoch(curves[phase], getattr(config, phase).patience)["validation/loss"]
        for phase in ("transfer", "finetune")
    )
    threshold = config.evaluate.threshold if len(data.classes) == 2 else None
    return Chosen("finetune" if after < before else "transfer", threshold)


def write_assessment(
    found: Assessment,
    models: Mapping[str, keras.Model],
    data: Dataset,
    curves: Mapping[str, Sequence[Epoch]],
    config: Config,
) -> Chosen:
    """Write the stage's outputs: classifier.keras, reports/evaluation, metrics.json and report.html.

    Args:
        found: what `assess` found of the `models`.
        models: by phase.
        data: the prepared images.
        curves: by phase, its epochs.
        config: of the run.

    Returns:
        What classifier.keras is.
    """
    chosen = choose(data, curves, config)
    save_with_threshold(MODELS[chosen.phase], CLASSIFIER, chosen.threshold)
    pair, threshold = found.pair, config.evaluate.threshold
    drawing: dict[str, Any] = {
        "threshold": threshold,
        "bins": config.evaluate.calibration_bins,
        "classes": data.classes,
    }
    with replacing(EVALUATION) as folder:
        folder.mkdir()
        for phase, probabilities in by_phase(pair).items():
            charts.write_dvc_plots(folder / phase, pair.labels, probabilities, **drawing)
        charts.write_figures(folder, pair, curves=curves, **drawing)
        write_predictions(folder / "predictions.csv", data, pair, threshold)
        if data.has(UNLABELLED) and len(data.classes) == 2:
            asked, mirrored = found.predict(data, UNLABELLED), _mirrored(found.predict, data, UNLABELLED, config)
            write_submission(folder / "submission.csv", data, found.effects[-1].calibration.apply(asked, mirrored))
        write_text(folder / "verdict.md", f"{found.note}\n")
    write_json(METRICS, found.evaluation.as_metrics() | {"submission": found.effects[-1].as_metrics()})
    write_report(REPORT, _report(found, chosen, models, data, curves, config))
    return chosen


def _report(
    found: Assessment,
    chosen: Chosen,
    models: Mapping[str, keras.Model],
    data: Dataset,
    curves: Mapping[str, Sequence[Epoch]],
    config: Config,
) -> Report:
    pair, winner = found.pair, found.winner
    return Report(
        settings=config,
        data=read_json(DATA_SUMMARY),
        curves=curves,
        pair=pair,
        evaluation=found.evaluation,
        effects=found.effects,
        figures={path.stem: path for path in EVALUATION.glob("*.svg")},
        galleries={
            **prediction_galleries(data, models, pair, winner, config.evaluate.threshold, _SHOWN),
            "label_issues": label_issues_gallery(data, models, found.held_out, _SHOWN),
        },
        digests={
            "Backbone's weights": sha256_of(BACKBONE_WEIGHTS),
            "Transfer model": sha256_of(MODELS["transfer"]),
            "Fine-tuned model": sha256_of(MODELS["finetune"]),
            f"{CLASSIFIER}, {_in_words(chosen)}": sha256_of(CLASSIFIER),
        },
    )


def _in_words(chosen: Chosen) -> str:
    phase = {"transfer": "transfer model", "finetune": "fine-tuned model"}[chosen.phase]
    by = "" if chosen.threshold is None else f" with threshold {chosen.threshold}"
    return f"the {phase}, chosen by validation loss{by}"
