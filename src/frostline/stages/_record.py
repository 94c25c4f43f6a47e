"""What MLflow gets of a stage, by a background process (see `background_process`).

There MLflow is imported while TensorFlow is imported in the stage's own, each for some seconds. What the two say:

| the stage | tells        | is answered | then tells                                   | is answered |
|-----------|--------------|-------------|----------------------------------------------|-------------|
| a phase   | `Computing`  | `Opened`    | `EpochEnded` for each epoch, `AllWritten`    | `Logged`    |
| evaluate  | `Evaluating` | `Opened`    | `Findings`                                   | `Logged`    |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from frostline.config.paths import CLASSIFIER, CURVES, EVALUATION, MODELS, PROCESSED, REPORT
from frostline.config.settings import Config
from frostline.data.dataset import load_dataset
from frostline.runtime.background_process import Channel


@dataclass(frozen=True)
class Computing:
    """A phase has its data, and trains once its run is open."""

    precision: str
    """What its layers compute in: "float32" or "bfloat16"."""


@dataclass(frozen=True)
class Evaluating:
    """The stage evaluate has its data, and goes on once its run is open."""


@dataclass(frozen=True)
class Opened:
    """The run is open: the store can be used."""


@dataclass(frozen=True)
class EpochEnded:
    """An epoch of a phase has ended."""

    figures: Mapping[str, float]
    """The epoch's number ("epoch") and its figures."""


@dataclass(frozen=True)
class AllWritten:
    """All outputs of a phase are there."""


@dataclass(frozen=True)
class Findings:
    """What the stage evaluate found; all its outputs are there."""

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


@dataclass(frozen=True)
class Logged:
    """All is logged, but for what a warning names."""


def record_phase(phase: str, channel: Channel, config: Config) -> None:
    """Keep the run of `phase` ("transfer" or "finetune").

    `channel`: see above. Raises FrostlineError where the store cannot be used.
    """
    from frostline.tracking import runs
    from frostline.tracking.logged_model import log_model

    runs.import_store()
    computing: Computing = channel.hear()
    data = load_dataset(PROCESSED)
    with runs.phase_run(phase, runs.open_pipeline(config, data.digest)) as run:
        run.log_data(config.data.source, config.data.depends_on, data.digest, context="training")
        run.tag_computing(computing.precision)
        channel.tell(Opened())
        while isinstance(message := channel.hear(), EpochEnded):  # AllWritten comes after the last one
            run.log_epoch(message.figures)
        run.log_files(CURVES[phase])
        run.tag_model(MODELS[phase])
        if config.tracking.log_models:
            log_model(run, MODELS[phase], data.images("train")[0])
    channel.tell(Logged())


def record_evaluation(channel: Channel, config: Config) -> None:
    """Keep the run of the evaluation.

    The test figures go to the runs of the phases, so that these compare; the rest to this stage's own run, the model
    that is registered among it.

    `channel`: see above. Raises FrostlineError where the store cannot be used.
    """
    from frostline.tracking import runs
    from frostline.tracking.registry import Candidate, register

    runs.import_store()
    channel.hear()  # Evaluating
    data = load_dataset(PROCESSED)
    pipeline = runs.open_pipeline(config, data.digest)
    with runs.phase_run("evaluate", pipeline) as run:
        channel.tell(Opened())
        found: Findings = channel.hear()
        for phase, figures in found.figures.items():
            phases_run = runs.find_or_restore(phase, pipeline, MODELS[phase], found.epochs[phase], asked_by=run)
            run.log_metrics({f"test/{name}": value for name, value in figures.items()}, on=phases_run)
        run.log_metrics({f"difference/{name}": value for name, value in found.difference.items()})
        run.log_data(config.data.source, config.data.depends_on, data.digest, context="testing")
        run.log_files(REPORT, EVALUATION)
        best = {f"test/{name}": value for name, value in found.figures[found.winner].items()}
        run.describe(found.note, best)
        if config.tracking.log_models:
            trained = MODELS[found.chosen]
            register(
                run,
                f"{config.tracking.experiment}-{config.data.source}",
                Candidate(CLASSIFIER, trained, found.chosen, found.threshold, found.note),
                data.classes,
                example=data.images("test")[0],
                resamples=config.evaluate.bootstrap,
                seed=config.seed,
            )
    channel.tell(Logged())
