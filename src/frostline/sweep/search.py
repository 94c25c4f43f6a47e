"""A sweep that searches, on Optuna: where to look next, from what is known, and which trials are without hope.

The study lies in a database, so that a search that was killed goes on with the trial at hand. Trials may run in other
processes: they reach the study through the database.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from frostline.common.seeds import seed32
from frostline.config.overrides import assigned, interval_in, parse_overrides
from frostline.sweep.results import has_finished, lowest_loss

optuna.logging.set_verbosity(optuna.logging.WARNING)

_RECORD = "record"
_LEARN_FROM = 3
"""Finished trials before a median means anything (the rule: Golovin et al. 2017, "Google Vizier", KDD)."""


def open_study(storage: str, name: str) -> optuna.Study:
    """Open the study `name` in the database at the URL `storage`, made where it is missing."""
    if storage.startswith("sqlite:///"):
        Path(storage.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return optuna.create_study(
        storage=storage,
        study_name=name,
        direction="minimize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_LEARN_FROM),
        load_if_exists=True,
    )


def space_of(lines: Sequence[str]) -> tuple[dict[str, BaseDistribution], list[str]]:
    """What Hydra's overrides say to search (intervals, log-uniform where tagged `log`; choices), and those that stay as
    they are. Of two for one key the later one counts."""
    parsed = {item.get_key_element(): item for item in parse_overrides(lines)}
    space: dict[str, BaseDistribution] = {}
    fixed: list[str] = []
    for override in parsed.values():
        key, interval = override.get_key_element(), interval_in(override)
        if interval:
            low, high = float(interval.start or 0), float(interval.end or 0)
            space[key] = FloatDistribution(low, high, log="log" in interval.tags)
        elif override.is_sweep_override():
            space[key] = CategoricalDistribution(assigned(override))
        else:
            fixed.append(f"{key}={assigned(override)[0]}")
    return space, fixed


def next_trial(study: optuna.Study, space: Mapping[str, BaseDistribution], seed: int, parallel: bool) -> Trial:
    """Ask TPE for the next trial. Its seed is the trial's own: a search that was killed asks the same again."""
    sampling = seed32(seed, "search", count(study))
    study.sampler = optuna.samplers.TPESampler(seed=sampling, constant_liar=parallel)
    return study.ask(dict(space))


def count(study: optuna.Study) -> int:
    """How many trials were asked for. A trial that was given up before it had all its settings is none."""
    trials = study.get_trials(deepcopy=False)
    return sum(trial.state != TrialState.FAIL or _RECORD in trial.user_attrs for trial in trials)


def failed(study: optuna.Study) -> list[int]:
    """The numbers of the trials that ended in an error."""
    return [number for number, record in told(study).items() if "error" in record]


def unfinished_trials(study: optuna.Study, space: Mapping[str, BaseDistribution]) -> list[Trial]:
    """The trials that a killed process left; those without all their settings are given up."""
    left = []
    for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
        if set(frozen.params) == set(space):
            left.append(_open_trial(study, frozen))
        else:
            study.tell(frozen.number, state=TrialState.FAIL)
    return left


def _open_trial(study: optuna.Study, frozen: FrozenTrial) -> Trial:
    """The trial as its own process has it. Optuna documents no way to go on with one that another process began; where
    a release breaks this, keep the older one in pyproject.toml until its new way stands here."""
    return Trial(study, frozen._trial_id)


def overrides_of(trial: Trial, fixed: Sequence[str]) -> list[str]:
    return [*fixed, *(f"{key}={value}" for key, value in trial.params.items())]


def tell(study: optuna.Study, trial: Trial, record: Mapping[str, Any]) -> None:
    """Tell the study what came of `trial`: its record, which the study keeps, too."""
    trial.set_user_attr(_RECORD, dict(record))
    if has_finished(record):
        study.tell(trial, lowest_loss(record))
    else:
        study.tell(trial, state=TrialState.PRUNED if "pruned" in record else TrialState.FAIL)


def told(study: optuna.Study) -> dict[int, dict[str, Any]]:
    """The records of all trials that ended, by their number."""
    return {
        trial.number: trial.user_attrs[_RECORD]
        for trial in study.get_trials(deepcopy=False)
        if _RECORD in trial.user_attrs
    }


def delete_study(storage: str, name: str) -> list[list[str]]:
    """Delete the study, if there is one; return the overrides of its trials."""
    study = open_study(storage, name)
    trials = [record["overrides"] for record in told(study).values()]
    optuna.delete_study(study_name=name, storage=storage)
    return trials


def reporter(storage: str, name: str, number: int) -> Callable[[int, float], bool]:
    """Return a function that reports a validation loss after an epoch of trial `number` and says whether to give up:
    whether the best so far is worse than the median of the others' losses after as many epochs."""
    study = open_study(storage, name)
    frozen = study.get_trials(deepcopy=False)[number]
    trial, reported = _open_trial(study, frozen), set(frozen.intermediate_values)

    def hopeless(epoch: int, loss: float) -> bool:
        if epoch not in reported:  # a killed process may have got so far before
            trial.report(loss, epoch)
        return trial.should_prune()

    return hopeless
