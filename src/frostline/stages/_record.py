"""What MLflow gets of a stage, by a process beside the stage's own (see `companion`).

There MLflow is imported while TensorFlow is imported in the other, each for some seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from frostline.config.paths import CLASSIFIER, CURVES, EVALUATION, MODELS, PROCESSED, REPORT
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
    """The better phase on the test set."""
    note: str
    """The verdict, Markdown."""
    epochs: Mapping[str, Sequence[Mapping[str, float]]]
    """By phase, what its run has: for where there is none, as DVC has restored the stage."""
    chosen: str
    """The phase whose model is in classifier.keras."""
    threshold: float | None
    """That of classifier.keras; None for more than two classes."""


def record_phase(phase: str, line: Line, config: Config) -> None:
    """Keep the run of `phase` ("transfer" or "finetune").

    Hears what the phase computes in, answers None once the run is open; then hears each epoch and, when all outputs are
    there, None; answers when these are logged. Raises FrostlineError where the store cannot be used.
    """
    from frostline.tracking import runs
    from frostline.tracking.logged_model import log_model

    runs.import_store()
    precision = line.hear()
    data = load_dataset(PROCESSED)
    with runs.phase_run(phase, runs.open_pipeline(config, data.digest)) as run_id:
        runs.log_data(config.data.source, config.data.depends_on, data.digest, context="training")
        runs.tag_computing(precision)
        line.tell(None)
        while epoch := line.hear():
            runs.log_epoch(epoch)
        runs.log_files(CURVES[phase])
        runs.tag_model(MODELS[phase])
        if config.tracking.log_models:
            log_model(MODELS[phase], data.images("train")[0], run_id)
    line.tell(None)


def record_evaluation(line: Line, config: Config) -> None:
    """Keep the run of the evaluation: hears when to open it, answers, hears its Findings, answers when all is logged.

    The test figures go to the runs of the phases, so that these compare; the rest to this stage's own run, the model
    that is registered among it.
    Raises FrostlineError where the store cannot be used.
    """
    from frostline.tracking import runs
    from frostline.tracking.registry import Candidate, register

    runs.import_store()
    line.hear()
    data = load_dataset(PROCESSED)
    pipeline = runs.open_pipeline(config, data.digest)
    with runs.phase_run("evaluate", pipeline) as run_id:
        line.tell(None)
        found: Findings = line.hear()
        for phase, figures in found.figures.items():
            run = runs.find_or_restore(phase, pipeline, MODELS[phase], found.epochs[phase])
            runs.log_metrics(run, {f"test/{name}": value for name, value in figures.items()})
        runs.log_metrics(run_id, {f"difference/{name}": value for name, value in found.difference.items()})
        runs.log_data(config.data.source, config.data.depends_on, data.digest, context="testing")
        runs.log_files(REPORT, EVALUATION)
        best = {f"test/{name}": value for name, value in found.figures[found.winner].items()}
        runs.describe(run_id, found.note, best)
        if config.tracking.log_models:
            trained = MODELS[found.chosen]
            register(
                f"{config.tracking.experiment}-{config.data.source}",
                Candidate(CLASSIFIER, trained, found.chosen, found.threshold, run_id, found.note),
                data.classes,
                example=data.images("test")[0],
                resamples=config.evaluate.bootstrap,
                seed=config.seed,
            )
    line.tell(None)
