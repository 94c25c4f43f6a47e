"""Stage evaluate: the phase that validation chooses, judged on the test set; figures, report, predictions."""

from collections.abc import Mapping, Sequence

from frostline.common.files import read_csv, read_json
from frostline.config.paths import CLASSIFIER, CURVES, EVALUATION, MODELS, REPORT, TRAINING
from frostline.config.settings import Config
from frostline.evaluation.evaluate import Assessment, Trained, assess, write_assessment
from frostline.models.saving import load_model
from frostline.runtime.quiet_tensorflow import warn_of_unused_gpu
from frostline.tracking import runs
from frostline.tracking.registry import Candidate, register
from frostline.training.loop import Epoch, with_kept_last
from frostline.training.phases import load_images
from frostline.training.resolved import Found


def main(config: Config) -> None:
    warn_of_unused_gpu()
    data = load_images(config)
    pipeline = runs.open_pipeline(config, data.digest)
    judged = runs.times_judged(pipeline)
    with runs.phase_run("evaluate", pipeline) as run:
        models = {phase: load_model(path) for phase, path in MODELS.items()}
        curves = {phase: _numbers(read_csv(path)) for phase, path in CURVES.items()}
        told = {phase: Found.from_json(read_json(path)) for phase, path in TRAINING.items()}
        trained = Trained(models, curves, data, config, told)
        found = assess(trained)
        write_assessment(found, trained)
        _log(run, pipeline, found, trained, judged)
    print(found.evaluation.verdict.headline, *found.cautions, *_ledger(judged), sep="\n")


def _numbers(rows: Sequence[Mapping[str, str]]) -> list[Epoch]:
    return [{name: float(value) for name, value in row.items()} for row in rows]


def _ledger(judged: int) -> list[str]:
    """What the figures are worth where the test images have judged other settings before."""
    if judged == 1:
        return []
    return [
        f"These test images have now judged {judged} settings: the more they judge, the likelier one looks good by"
        " chance. A study judges each image by models that never saw it (docs/studies.md)."
    ]


def _log(run: runs.Run, pipeline: runs.Pipeline, found: Assessment, trained: Trained, judged: int) -> None:
    """Log what was found: the test figures on the runs of the phases, so that these compare; the rest on `run`, the
    model that is registered among it."""
    config, data, choice, figures = trained.config, trained.data, found.choice, found.evaluation.figures
    for phase, values in figures.items():
        epochs = with_kept_last(trained.curves[phase], getattr(config, phase).patience)  # if DVC restored the stage
        found_by = {phase: trained.found[phase]}
        phases_run = runs.find_or_restore(phase, pipeline, MODELS[phase], epochs, found_by, asked_by=run)
        run.log_metrics({f"test/{name}": value for name, value in values.items()}, on=phases_run)
    run.log_metrics({f"difference/{name}": value for name, value in found.evaluation.difference.items()})
    run.log_data(config.data.name, config.data.depends_on, data.digest, context="testing")
    run.log_files(REPORT, EVALUATION)
    told = {
        **{f"test/{name}": value for name, value in figures[choice.phase].items()},
        **{f"in_use/{name}": value for name, value in found.evaluation.in_use.items()},
        **{f"guessing/{name}": value for name, value in found.evaluation.guessing.figures.items()},
    }
    run.describe("\n\n".join([found.note, *_ledger(judged)]), told)
    if config.tracking.log_models:
        register(
            run,
            pipeline,
            Candidate(CLASSIFIER, MODELS[choice.phase], choice, found.note),
            data,
            resamples=config.evaluate.bootstrap,
            seed=config.seed,
        )
