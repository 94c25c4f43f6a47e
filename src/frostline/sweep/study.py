"""The end of a sweep that is a study: from its trials to its answer."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from frostline.common.files import write_json
from frostline.common.phase_names import PHASES
from frostline.config.paths import BACKBONE_WEIGHTS, WINNER
from frostline.config.settings import Config
from frostline.runtime.errors import FrostlineError
from frostline.sweep import table
from frostline.sweep.closeness import held_out_losses
from frostline.sweep.plan import compose_trial
from frostline.sweep.race import Outcome, read_outcome
from frostline.sweep.results import (
    LUCK,
    REBUILD,
    Record,
    better_phase,
    label,
    read_trials,
    reason,
    swept_keys,
    swept_values,
    unfinished,
    write_tables,
)
from frostline.sweep.swept import write_swept

if TYPE_CHECKING:
    from frostline.studies.collected import Training
    from frostline.sweep.trials import Shared
    from frostline.tracking.runs import Pipeline

_CUT = "model.cut_layer"


def answer_study(
    name: str,
    overrides: Sequence[str],
    folder: Path,
    configs: Sequence[Config],
    shared: "Shared",
    pipeline: "Pipeline",
) -> None:
    """Answer the study `name`, which `overrides` asked for, whose trials have `configs` and are in `folder`.

    Leaves its files, logs them on the sweep's run, and says it.

    Raises FrostlineError where a trial did not finish.
    """
    from frostline.studies.page import Study, write_study
    from frostline.sweep.trials import trial_key
    from frostline.tracking import runs

    trials, race = read_trials(folder), read_outcome(folder)
    tables, keys = write_tables(folder, trials), [key for key in swept_keys(trials) if key not in LUCK]
    if race and race.compared:
        trials = [trials[number] for number in race.compared]
    lost = unfinished(trials)
    if lost:
        table.print_trials(trials)
        raise FrostlineError(
            f"{len(lost)} of {len(trials)} trials did not finish: {reason(lost[0])}.\n"
            "The same command runs these again, and answers then."
        )
    by_key = {trial_key(config, shared): config for config in configs}
    if race and len({by_key[trial["key"]].fold for trial in trials}) < 2:
        _take_best_of_one_fold(folder, trials, keys, race)
        return
    study = Study(
        name,
        pipeline.name,
        sorted((key, str(value)) for key, value in pipeline.settings.items()),
        shlex.join(["python", "-m", "frostline.sweep", "-m", *overrides]),
        folds=configs[0].folds,
        of=configs[0].folds_of,
        grouped=configs[0].preprocess.group is not None,
        first_stays=race is not None and race.first_runs,
    )
    trainings = _trainings(trials, keys, by_key, shared)
    if keys == [_CUT] and not study.first_stays:
        trainings = _from_the_lowest_cut(trainings, configs[0])
    answer, files = write_study(study, trainings, race.notes if race else ())
    alone = race is not None and answer.take is None  # all others failed
    take = {key: swept_values(trials[0])[key] for key in keys} if alone else answer.take
    rebuild = REBUILD
    if take is not None:
        taken = next(trial for trial in trials if take.items() <= swept_values(trial).items())
        rebuild = _keep_winner(folder, taken, take, answer.title)
    table.print_answer(answer, next(file for file in files if file.suffix == ".html"), rebuild)
    with runs.sweep_run(pipeline) as parent:
        parent.log_files(*files, *tables)
        parent.describe(f"**{answer.title}.** {answer.text}\n", {})


def _take_best_of_one_fold(folder: Path, trials: Sequence[Record], keys: Sequence[str], race: Outcome) -> None:
    """What a race that the time limit ended so early says: no interval can be given, and one setting is no choice."""
    from frostline.studies.cross_validation import is_better
    from frostline.studies.ranking import stays

    losses: dict[tuple[str, ...], list[np.ndarray]] = {}
    for trial in trials:
        losses.setdefault(tuple(swept_values(trial)[key] for key in keys), []).append(
            held_out_losses(trial, better_phase(trial))
        )
    names = {values: label(dict(zip(keys, values, strict=True))) for values in losses}
    if len(losses) == 1:
        print(*race.notes, f"There was time for one setting only: {next(iter(names.values()))}.", sep="\n")  # noqa: T201
        return
    means = {values: float(np.mean(of_images)) for values, of_images in losses.items()}
    first, best = next(iter(losses)), min(means, key=lambda values: means[values])
    difference = np.stack(losses[best]) - np.stack(losses[first])
    taken = best if not race.first_runs or is_better(difference, np.zeros(difference.shape[1], int)) else first
    said = f"Best by one fold only, which may well be chance: {names[best]}, log loss {means[best]:.4f}."
    if taken != best:
        said += f" That of {names[first]} is {means[first]:.4f}. {stays(names[first])}"
    print(*race.notes, said, sep="\n")  # noqa: T201
    values = dict(zip(keys, taken, strict=True))
    trial = next(each for each in trials if values.items() <= swept_values(each).items())
    _keep_winner(folder, trial, values, said)


def _keep_winner(folder: Path, trial: Record, values: Mapping[str, str], note: str) -> str:
    """Leave the setting to take, that of `trial`, as a recipe, and its swept `values`, by key, in the sweep's `folder`;
    return the command that rebuilds it.

    It is composed anew: trials of one key may differ in what no training depends on, as the threshold.
    """
    write_json(folder / WINNER, dict(values))
    whole = replace(compose_trial(trial["overrides"]), fold=None, train_share=1.0, folds_of="all")
    return write_swept(whole, note)


def _trainings(
    trials: Sequence[Record], keys: Sequence[str], by_key: Mapping[str, Config], shared: "Shared"
) -> list["Training"]:
    from frostline.studies.collected import Training
    from frostline.sweep.trials import held_out

    found = []
    for trial in trials:
        config, values = by_key[trial["key"]], swept_values(trial)
        assert config.fold is not None  # as `run` has seen
        found.append(
            Training(
                values={key: values.get(key, "") for key in keys},
                seed=config.seed,
                fold=config.fold,
                train_images=len(shared.images(config).names("train")),
                validation={phase: trial[phase]["validation/loss"] for phase in PHASES},
                said=held_out(trial["key"]),
            )
        )
    return found


def _from_the_lowest_cut(trainings: Sequence["Training"], config: Config) -> list["Training"]:
    """These trainings, which differ in their cut only, the lowest first, in whatever order cuts were named."""
    from frostline.models.backbone import layer_names

    order = layer_names(config.model.backbone, config.preprocess.image_size, BACKBONE_WEIGHTS)
    return sorted(trainings, key=lambda training: order.index(training.values[_CUT]))
