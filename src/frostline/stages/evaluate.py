"""evaluate: both phases on the same test set; figures, report, predictions, submission."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from frostline import plots, tracking
from frostline.dataset import UNLABELLED, Dataset, load_dataset
from frostline.evaluation import evaluate, scored_classes
from frostline.files import read_csv, read_json, replacing, sha256_of, write_csv, write_json, write_text
from frostline.galleries import decision_galleries, suspects_gallery
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
            _write_predictions(folder, data, both)
            if data.has(UNLABELLED) and len(data.classes) == 2:
                _write_submission(folder, data, predict(models[winner], data, UNLABELLED, config))
            write_text(folder / "verdict.md", f"{note}\n")
        write_json(METRICS, result.as_metrics())
        held_out = {"validation": predict(models[winner], data, "validation", config), "test": both[winner]}
        write_report(
            REPORT,
            settings=config,
            data=read_json(DATA_SUMMARY),
            curves=curves,
            labels=labels,
            both=both,
            evaluation=result,
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

        for phase, figures in result.figures.items():
            phase_run = tracking.find_or_restore(phase, pipeline, MODELS[phase], curves[phase])
            tracking.log_metrics(phase_run, {f"test/{name}": value for name, value in figures.items()})
        tracking.log_metrics(run_id, {f"difference/{name}": value for name, value in result.difference.items()})
        tracking.log_data(config.data.source, config.data.depends_on, data.digest, context="testing")
        tracking.log_files(REPORT, EVALUATION)
        tracking.describe(run_id, note)
    print(result.verdict.headline)


def _read_curve(path: Path) -> list[Epoch]:
    return [{name: float(value) for name, value in row.items()} for row in read_csv(path)]


def _write_predictions(folder: Path, data: Dataset, both: dict[str, np.ndarray]) -> None:
    """predictions.csv: each test picture's path, class and both phases' probabilities.

    Of two classes in the columns "transfer" and "finetune" that of the second; else that of each, as "transfer/cat".
    """
    columns: dict[str, Iterable[str]] = {
        "path": data.names("test"),
        "class": [data.classes[label] for label in data.labels("test")],
    }
    for phase, probabilities in both.items():
        for number in scored_classes(probabilities):
            name = phase if len(data.classes) == 2 else f"{phase}/{data.classes[number]}"
            columns[name] = [f"{value:.6f}" for value in probabilities[:, number]]
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    write_csv(folder / "predictions.csv", tuple(columns), rows)


def _write_submission(folder: Path, data: Dataset, probabilities: np.ndarray) -> None:
    """submission.csv in Kaggle's form: the file's number and the probability of the second class (dog)."""
    ids = [Path(name).stem for name in data.names(UNLABELLED)]
    rows = ({"id": name, "label": f"{value:.6f}"} for name, value in zip(ids, probabilities[:, 1], strict=True))
    write_csv(folder / "submission.csv", ("id", "label"), rows)


if __name__ == "__main__":
    run_stage(main)
