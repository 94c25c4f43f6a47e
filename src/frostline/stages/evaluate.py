"""evaluate: both phases on the same test set; figures, report, predictions, submission."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from frostline import adjustments, plots, tracking
from frostline.adjustments import Views
from frostline.dataset import UNLABELLED, Dataset, load_dataset
from frostline.evaluation import evaluate
from frostline.files import read_csv, read_json, replacing, sha256_of, write_json, write_text
from frostline.galleries import decision_galleries, suspects_gallery
from frostline.logged_model import log_model
from frostline.model_registry import Winner, register
from frostline.paths import (
    BACKBONE_WEIGHTS,
    CURVES,
    DATA_SUMMARY,
    EVALUATION,
    METRICS,
    MODELS,
    PROCESSED,
    REPORT,
)
from frostline.phases import predict
from frostline.prediction_files import write_predictions, write_submission
from frostline.quiet_tensorflow import keras
from frostline.report import write_report
from frostline.saving import load_model
from frostline.settings import Config
from frostline.stages import run_stage
from frostline.training import Epoch

_SHOWN = 8
"""Pictures per gallery of the report."""


def main(config: Config) -> None:
    data = load_dataset(PROCESSED)
    models = {phase: load_model(path) for phase, path in MODELS.items()}
    curves = {phase: _read_curve(path) for phase, path in CURVES.items()}
    pipeline = tracking.open_pipeline(config, data.digest)
    with tracking.phase_run("evaluate", pipeline) as run_id:
        labels, settings = data.labels("test"), config.evaluate
        both = {phase: predict(model, data, "test", config) for phase, model in models.items()}
        compared = (labels, both["transfer"], both["finetune"])
        result = evaluate(
            *compared,
            threshold=settings.threshold,
            bins=settings.calibration_bins,
            resamples=settings.bootstrap,
            seed=config.seed,
        )
        winner, note = result.verdict.winner, f"**{result.verdict.title}**: {result.verdict.detail}"

        held_out = {"validation": predict(models[winner], data, "validation", config), "test": both[winner]}
        effects = adjustments.effects(
            *(
                Views(data.labels(split), probabilities, _mirrored(models[winner], data, split, config))
                for split, probabilities in held_out.items()
            ),
            chosen=asdict(settings.submission),
            threshold=settings.threshold,
            bins=settings.calibration_bins,
            resamples=settings.bootstrap,
            seed=config.seed,
        )

        drawing: dict[str, Any] = {
            "threshold": settings.threshold,
            "bins": settings.calibration_bins,
            "classes": data.classes,
        }
        with replacing(EVALUATION) as folder:
            folder.mkdir()
            for phase, probabilities in both.items():
                plots.write_dvc_plots(folder / phase, labels, probabilities, **drawing)
            plots.write_figures(folder, *compared, curves=curves, **drawing)
            write_predictions(folder / "predictions.csv", data, both)
            if data.has(UNLABELLED) and len(data.classes) == 2:
                asked = predict(models[winner], data, UNLABELLED, config)
                asked = effects[-1].adjustment.apply(asked, _mirrored(models[winner], data, UNLABELLED, config))
                write_submission(folder / "submission.csv", data, asked)
            write_text(folder / "verdict.md", f"{note}\n")
        write_json(METRICS, result.as_metrics() | {"submission": effects[-1].as_metrics()})
        write_report(
            REPORT,
            settings=config,
            data=read_json(DATA_SUMMARY),
            curves=curves,
            labels=labels,
            both=both,
            evaluation=result,
            effects=effects,
            figures={path.stem: path for path in EVALUATION.glob("*.svg")},
            galleries={
                **decision_galleries(data, models, both, winner, settings.threshold, _SHOWN),
                "suspects": suspects_gallery(data, models, held_out, _SHOWN),
            },
            command="dvc repro",
            digests={
                "Backbone's weights": sha256_of(BACKBONE_WEIGHTS),
                "Transfer model": sha256_of(MODELS["transfer"]),
                "Fine-tuned model": sha256_of(MODELS["finetune"]),
            },
        )

        runs = {phase: tracking.find_or_restore(phase, pipeline, MODELS[phase], curves[phase]) for phase in MODELS}
        for phase, figures in result.figures.items():
            tracking.log_metrics(runs[phase], {f"test/{name}": value for name, value in figures.items()})
        tracking.log_metrics(run_id, {f"difference/{name}": value for name, value in result.difference.items()})
        tracking.log_data(config.data.source, config.data.depends_on, data.digest, context="testing")
        tracking.log_files(REPORT, EVALUATION)
        tracking.describe(run_id, note, {f"test/{name}": value for name, value in result.figures[winner].items()})
        if config.tracking.log_models:
            log_model(MODELS[winner], data.pictures("test")[0], runs[winner])
            register(
                f"{config.tracking.experiment}-{config.data.source}",
                Winner(MODELS[winner], winner, runs[winner], run_id, note),
                data.classes,
                resamples=settings.bootstrap,
                seed=config.seed,
            )
    print(result.verdict.headline)


def _read_curve(path: Path) -> list[Epoch]:
    return [{name: float(value) for name, value in row.items()} for row in read_csv(path)]


def _mirrored(model: keras.Model, data: Dataset, split: str, config: Config) -> np.ndarray | None:
    return predict(model, data, split, config, mirrored=True) if config.evaluate.submission.flip else None


if __name__ == "__main__":
    run_stage(main)
