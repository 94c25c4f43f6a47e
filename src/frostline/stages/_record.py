"""What MLflow gets of a stage, by a process beside the stage's own (see `companion`).

There MLflow is imported while TensorFlow is imported in the other, each for some seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from frostline.config.paths import CURVES, EVALUATION, MODELS, PROCESSED, REPORT
from frostline.config.settings import Config
from frostline.data.dataset import load_dataset
from frostline.runtime.background_process import Line


@dataclass(frozen=True)
class Findings:
    """What the stage evaluate found."""

    figures: Mapping[str, Mapping[str, float]]
    """By phase, on the test set."""
    difference: Mapping[str, float]
    winner: str
    """The better phase."""
    note: str
    """The verdict, Markdown."""
    epochs: Mapping[str, Sequence[Mapping[str, float]]]
    """By phase, what its run has: for where there is none, as DVC has restored the stage."""


def record_phase(phase: str, line: Line, config: Config) -> None:
    """Keep the run of `phase` ("transfer" or "finetune").

    Hears what the phase computes in, answers None once the run is open; then hears each epoch and, when all outputs are
    there, None; answers when these are logged. Raises FrostlineError where the store cannot be used.
    """
    from frostline.tracking import runs as tracking
    from frostline.tracking.logged_model import log_model

    tracking.import_store()
    precision = line.hear()
    data = load_dataset(PROCESSED)
    with tracking.phase_run(phase, tracking.open_pipeline(config, data.digest)) as run_id:
        tracking.log_data(config.data.source, config.data.depends_on, data.digest, context="training")
        tracking.tag_computing(precision)
        line.tell(None)
        while epoch := line.hear():
            tracking.log_epoch(epoch)
        tracking.log_files(CURVES[phase])
        tracking.tag_model(MODELS[phase])
        if config.tracking.log_models:
            log_model(MODELS[phase], data.pictures("train")[0], lambda: run_id)
    line.tell(None)


def record_evaluation(line: Line, config: Config) -> None:
    """Keep the run of the evaluation: hears when to open it, answers, hears its Findings, answers when all is logged.

    The test figures go to the runs of the phases, so that these compare; the rest to this stage's own run.
    Raises FrostlineError where the store cannot be used.
    """
    from frostline.tracking import runs as tracking
    from frostline.tracking.logged_model import log_model
    from frostline.tracking.registry import Winner, register

    tracking.import_store()
    line.hear()
    data = load_dataset(PROCESSED)
    pipeline = tracking.open_pipeline(config, data.digest)
    with tracking.phase_run("evaluate", pipeline) as run_id:
        line.tell(None)
        found: Findings = line.hear()
        runs = {}
        for phase, figures in found.figures.items():
            runs[phase] = tracking.find_or_restore(phase, pipeline, MODELS[phase], found.epochs[phase])
            tracking.log_metrics(runs[phase], {f"test/{name}": value for name, value in figures.items()})
        tracking.log_metrics(run_id, {f"difference/{name}": value for name, value in found.difference.items()})
        tracking.log_data(config.data.source, config.data.depends_on, data.digest, context="testing")
        tracking.log_files(REPORT, EVALUATION)
        best = {f"test/{name}": value for name, value in found.figures[found.winner].items()}
        tracking.describe(run_id, found.note, best)
        if config.tracking.log_models:
            model, its_run = MODELS[found.winner], runs[found.winner]
            log_model(model, data.pictures("test")[0], its_run)
            register(
                f"{config.tracking.experiment}-{config.data.source}",
                Winner(model, found.winner, its_run, run_id, found.note),
                data.classes,
                resamples=config.evaluate.bootstrap,
                seed=config.seed,
            )
    line.tell(None)
