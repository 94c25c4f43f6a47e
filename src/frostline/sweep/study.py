"""The end of a sweep that is a study: from its trials to its answer."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.config.settings import Config
from frostline.runtime.errors import FrostlineError
from frostline.sweep import table
from frostline.sweep.plan import compose_trial
from frostline.sweep.results import Record, read_trials, reason, swept_keys, values_of, write_tables

if TYPE_CHECKING:
    from frostline.studies.collected import Training
    from frostline.sweep.trials import Shared
    from frostline.tracking.runs import Pipeline

_AXES = ("fold", "seed")


def answer_study(name: str, folder: Path, shared: "Shared", pipeline: "Pipeline") -> None:
    """Answer the study `name`, whose trials are in `folder`; leave its files, log them on the sweep's run, say it.

    Raises FrostlineError where a trial did not finish.
    """
    from frostline.studies.page import Study, write_study
    from frostline.tracking import runs

    trials = read_trials(folder)
    tables = write_tables(folder, trials)
    lost = [trial for trial in trials if "finetune" not in trial]
    if lost:
        table.print_trials(trials)
        raise FrostlineError(
            f"{len(lost)} of {len(trials)} trials did not finish: {reason(lost[0])}.\n"
            "The same command runs these again, and answers then."
        )
    study = Study(
        name,
        pipeline.name,
        sorted((key, str(value)) for key, value in pipeline.settings.items()),
        f"python -m frostline.sweep -m study={name}",
    )
    answer, files = write_study(study, _trainings(trials, shared))
    table.print_answer(answer.sentence, next(file for file in files if file.suffix == ".html"))
    with runs.sweep_run(pipeline) as parent:
        parent.log_files(*files, *tables)
        parent.describe(f"**{answer.title}.** {answer.text}\n", {})


def _trainings(trials: Sequence[Record], shared: "Shared") -> list["Training"]:
    from frostline.studies.collected import Training
    from frostline.sweep.trials import out_of_fold

    keys = [key for key in swept_keys(trials) if key not in _AXES]
    found = []
    for trial in trials:
        config, values = compose_trial(trial["overrides"]), values_of(trial)
        found.append(
            Training(
                values={key: values.get(key, "") for key in keys},
                seed=config.seed,
                fold=_fold(config),
                train_images=len(shared.images(config).names("train")),
                validation={phase: trial[phase]["validation/loss"] for phase in ("transfer", "finetune")},
                said=out_of_fold(config, shared),
            )
        )
    return found


def _fold(config: Config) -> int:
    if config.fold is None:
        raise FrostlineError("A study needs folds.\nLeave fold out: it is one of the study's axes.")
    return config.fold
