"""evaluate: both phases on the same test set; figures, report, predictions, submission."""

from frostline import tracking
from frostline.assessment import Assessment, assess, write_assessment
from frostline.dataset import Dataset, load_dataset
from frostline.files import read_csv
from frostline.logged_model import log_model
from frostline.model_registry import Winner, register
from frostline.paths import CURVES, EVALUATION, MODELS, PROCESSED, REPORT
from frostline.saving import load_model
from frostline.settings import Config
from frostline.stages import run_stage
from frostline.training import Epoch, with_kept_last

Curves = dict[str, list[Epoch]]


def main(config: Config) -> None:
    data = load_dataset(PROCESSED)
    models = {phase: load_model(path) for phase, path in MODELS.items()}
    curves = {phase: _numbers(read_csv(path)) for phase, path in CURVES.items()}
    pipeline = tracking.open_pipeline(config, data.digest)
    with tracking.phase_run("evaluate", pipeline) as run_id:
        found = assess(models, data, config)
        write_assessment(found, models, data, curves, config)
        _log(found, data, curves, pipeline, run_id, config)
    print(found.evaluation.verdict.headline)


def _numbers(rows: list[dict[str, str]]) -> list[Epoch]:
    return [{name: float(value) for name, value in row.items()} for row in rows]


def _log(
    found: Assessment, data: Dataset, curves: Curves, pipeline: tracking.Pipeline, run_id: str, config: Config
) -> None:
    """The test figures go to the runs of the phases, so that these compare; the rest to this stage's own run."""
    runs = {}
    for phase, figures in found.evaluation.figures.items():
        epochs = with_kept_last(curves[phase], getattr(config, phase).patience)
        runs[phase] = tracking.find_or_restore(phase, pipeline, MODELS[phase], epochs)
        tracking.log_metrics(runs[phase], {f"test/{name}": value for name, value in figures.items()})
    tracking.log_metrics(run_id, {f"difference/{name}": value for name, value in found.evaluation.difference.items()})
    tracking.log_data(config.data.source, config.data.depends_on, data.digest, context="testing")
    tracking.log_files(REPORT, EVALUATION)
    best = {f"test/{name}": value for name, value in found.evaluation.figures[found.winner].items()}
    tracking.describe(run_id, found.note, best)
    if config.tracking.log_models:
        model = MODELS[found.winner]
        log_model(model, data.pictures("test")[0], runs[found.winner])
        register(
            f"{config.tracking.experiment}-{config.data.source}",
            Winner(model, found.winner, runs[found.winner], run_id, found.note),
            data.classes,
            resamples=config.evaluate.bootstrap,
            seed=config.seed,
        )


if __name__ == "__main__":
    run_stage(main)
