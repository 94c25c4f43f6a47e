"""What a sweep's command line asks for: its trials, worked out and checked before the first one runs."""

import functools
import itertools
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from frostline.common.fit_names import SQUASH
from frostline.config.dvc_lock import recorded
from frostline.config.flat import flatten
from frostline.config.kept import gone_choices
from frostline.config.load import compose_conf, load_params
from frostline.config.overrides import Override, assigned, interval_in, parse_overrides
from frostline.config.paths import ARCHIVE, BACKBONE_WEIGHTS, PARAMS, PROCESSED
from frostline.config.settings import Config, settings_of
from frostline.runtime.durations import seconds_of
from frostline.runtime.errors import FrostlineError, check_installed
from frostline.sweep.race import longest, rounds_of

_log = logging.getLogger(__name__)

CONF = Path("conf")
_PREPARED = ("data", "weights", "preprocess")
_MADE = {"fetch-data": "images were", "preprocess": "images were", "fetch-weights": "backbone's weights were"}
"""By stage, what it makes of settings."""
_AXES_DEPEND_ON = ("hydra", "study", "experiment", "folds", "model")
_ENGINES = {"RayLauncher": "ray", "LocalLauncher": "submitit", "SlurmLauncher": "submitit"}
"""What our launchers need, module and extra alike."""


def is_search(settings: Any) -> bool:
    """Whether Hydra's `settings` name our search as their sweeper."""
    return str(settings.sweeper._target_).startswith("hydra_plugins.frostline_optuna.")


def is_race(settings: Any) -> bool:
    """Likewise, a race over folds."""
    return str(settings.sweeper._target_).startswith("hydra_plugins.frostline_race.")


def with_prepared_data(config: Config) -> Config:
    """`config` with the sections of params.yaml that made what lies in data/processed and models/backbone.h5.

    Raises FrostlineError where `config` has another backbone than that file.
    """
    prepared = load_params()
    if config.model.backbone != prepared.model.backbone:
        raise FrostlineError(
            f"model.backbone is {config.model.backbone}, but {BACKBONE_WEIGHTS} is for {prepared.model.backbone} (in "
            f"{PARAMS}).\nChoose the same here (model=...), or change it first: dvc exp run -S model=..."
        )
    if config.model.preset != prepared.model.preset:
        raise FrostlineError(
            f"model.preset is {config.model.preset}, but {BACKBONE_WEIGHTS} is {prepared.model.preset} (in {PARAMS}).\n"
            "Choose the same here, or change it first: dvc exp run -S model=hub -S model.preset=..."
        )
    for key in ("image_size", "fit"):  # those that a recipe may well have
        _say_other(key, getattr(config.preprocess, key), getattr(prepared.preprocess, key))
    return replace(config, name=prepared.name, **{section: getattr(prepared, section) for section in _PREPARED})


@functools.cache  # once for all trials
def _say_other(key: str, asked: int | str, prepared: int | str) -> None:
    if asked != prepared:
        _log.warning(
            "a recipe here has preprocess.%s=%s, but all trials take the images as they are prepared, by %s. "
            "To compare it as it is: frostline set preprocess.%s=%s; dvc repro preprocess",
            key,
            asked,
            prepared,
            key,
            asked,
        )


def check_prepared() -> None:
    """Raise FrostlineError where DVC made the images or the backbone by other settings than those of params.yaml by
    now, or the images from another archive than the one that it fetched last.

    Trials would be recorded with settings that neither was made with. What DVC has no record of is not compared.
    """
    settings = load_params()
    stale = {stage: changed for stage in _MADE if (changed := _changed_since(stage, settings))}
    if stale:
        stage, key = next(iter(stale.items()))
        again = dict.fromkeys("fetch-weights" if stage == "fetch-weights" else "preprocess" for stage in stale)
        raise FrostlineError(
            f"{key} in {PARAMS} is not that by which the {_MADE[stage]} prepared.\n"
            f"Run `dvc repro {' '.join(again)}` first."
        )
    fetched, taken = _digest_of_archive("fetch-data", "outs"), _digest_of_archive("preprocess", "deps")
    if fetched and taken and fetched != taken:
        raise FrostlineError(f"the images in {PROCESSED} are not of {ARCHIVE}.\nRun `dvc repro preprocess` first.")


def _changed_since(stage: str, settings: Config) -> str:
    """The first of `settings`, by dotted key, by which DVC has not run `stage`; empty where there is none.

    A setting that the record lacks is of a later release than the record.
    """
    known = recorded(stage).get("params", {}).get(str(PARAMS)) or {}
    # A record without a fit is of a release that had none: it squashed pictures. Likewise, the seed was the run's.
    before = {"preprocess.fit": SQUASH} | ({"preprocess.seed": known["seed"]} if "seed" in known else {})
    by = (before if known else {}) | flatten(known)
    now = flatten(settings_of(settings, stage))
    return next((key for key, value in now.items() if key in by and by[key] != value), "")


def _digest_of_archive(stage: str, side: str) -> str:
    """What DVC recorded for it among the `side` ("deps" or "outs") of `stage`; empty where it recorded nothing."""
    files = recorded(stage).get(side) or ()
    return next((str(file.get("md5", "")) for file in files if file.get("path") == ARCHIVE.as_posix()), "")


@dataclass(frozen=True)
class Plan:
    """What a command line asks for."""

    trials: list[list[str]]
    """Each trial's overrides. Of a search: some trials in which every value that it may try occurs, to be checked."""
    total: int
    """How many trials will run."""
    text: str
    """The same for the same settings, or the same space to search."""
    hydra: Any
    """Hydra's own settings: sweeper, launcher, folders."""

    @property
    def study(self) -> str | None:
        """The option of conf/study, if there is one."""
        chosen = self.hydra.runtime.choices.get("study")
        return str(chosen) if chosen else None


def plan(overrides: Sequence[str]) -> Plan:
    """Work out the trials of a sweep.

    Raises FrostlineError for what is no override, and for settings that only `dvc repro` can change.
    """
    try:
        parsed = parse_overrides(overrides)
        _check_each_key_once(parsed)
        settings = _hydras_settings(
            [
                item.input_line or ""
                for item in parsed
                if _section(item) in _AXES_DEPEND_ON and not item.is_sweep_override()
            ]
        )
        params = [f"{key}={value}" for key, value in (settings.sweeper.get("params") or {}).items()]
        asked = _last_of_each([*parse_overrides(params), *(item for item in parsed if _section(item) != "hydra")])
    except MissingConfigException as error:
        if gone := gone_choices().get(error.missing_cfg_file or ""):
            raise FrostlineError(gone) from error
        valid = ", ".join(error.options or ())
        raise FrostlineError(f"{error.missing_cfg_file}: there is no such option; valid: {valid}.") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise FrostlineError(f"not a list of overrides: {' '.join(str(error).split())}") from error
    engine = _ENGINES.get(str(settings.launcher._target_).rpartition(".")[2])
    if engine:
        check_installed("this launcher", "sweeps", engine)
    _check_that_it_can_be_swept(asked, settings)
    try:
        assignments = [_assignments(override) for override in asked]
    except (HydraException, OmegaConfBaseException) as error:  # glob, which has no meaning here; a range in a list
        raise FrostlineError(
            f"not a list of values: {' '.join(str(error).split())}.\nList them: model=resnet50,xception seed=1,2,3"
        ) from error
    text = json.dumps([is_search(settings), *sorted(item.input_line or "" for item in asked)])
    if is_search(settings):
        check_installed("hydra/sweeper=optuna", "sweeps", "optuna")
        return Plan(_each_value_once(assignments), settings.sweeper.n_trials, text, settings)
    trials = [list(each) for each in itertools.product(*assignments)]
    if is_race(settings):
        _check_race(settings, trials)
        return Plan(trials, longest(trials), text, settings)
    return Plan(trials, len(trials), text, settings)


def trials_of(lines: Sequence[str]) -> list[list[str]]:
    """Every combination of what the overrides `lines` give; of two for one key the later one counts."""
    return [list(each) for each in itertools.product(*map(_assignments, _last_of_each(parse_overrides(lines))))]


def _last_of_each(asked: Sequence[Override]) -> list[Override]:
    return list({item.get_key_element(): item for item in asked}.values())


def _check_race(settings: Any, trials: Sequence[list[str]]) -> None:
    if settings.sweeper.time_limit is not None:
        seconds_of(str(settings.sweeper.time_limit))
    rounds = rounds_of(trials)
    if len(rounds) < 2 or len(rounds[0]) < 2:
        raise FrostlineError(
            "hydra/sweeper=race: it compares settings over folds, at least two of each.\n"
            "Name them, e.g. model.dropout=0.2,0.5 'fold=range(5)'; study=auto has some of its own."
        )
    if not str(settings.launcher._target_).endswith("BasicLauncher"):
        raise FrostlineError("hydra/sweeper=race: it runs one trial after the other; leave out hydra/launcher.")


def _check_each_key_once(overrides: Sequence[Override]) -> None:
    lines: dict[str, str | None] = {}
    for override in overrides:
        key, line = override.get_key_element(), override.input_line
        if lines.setdefault(key, line) != line:
            raise FrostlineError(
                f"{key} is given twice, {lines[key]} and {line}.\nGive all values of a key at once: {key}=…,…"
            )


def _check_that_it_can_be_swept(swept: Sequence[Override], settings: Any) -> None:
    search = is_search(settings)
    for override in swept:
        if _section(override) == "study" and override.is_sweep_override():
            raise FrostlineError(f"{override.input_line}: one study at a time.")
        if _section(override) in _PREPARED:
            raise FrostlineError(
                f"{override.input_line}: a sweep runs on the data that is prepared in {PROCESSED}.\n"
                f"Change it first: dvc exp run -S {override.key_or_group}=..."
            )
        if override.key_or_group == "folds" and override.is_sweep_override():
            raise FrostlineError(f"{override.input_line}: how many folds there are is the same for all trials.")
        if override.key_or_group == "folds_of" and override.is_sweep_override():
            raise FrostlineError(f"{override.input_line}: of which images folds are made is the same for all trials.")
        if override.key_or_group == "fold" and override.is_sweep_override() and search:
            raise FrostlineError(f"{override.input_line}: a search takes no folds; leave out hydra/sweeper=optuna.")
        if override.key_or_group == "seed" and override.is_sweep_override() and search:
            raise FrostlineError(
                f"{override.input_line}: a search would choose the luckiest seed.\n"
                "Give it one; sweep over seeds without hydra/sweeper=optuna."
            )
        if interval_in(override) and not search:
            raise FrostlineError(f"{override.input_line}: only a search takes an interval; add hydra/sweeper=optuna.")
    if search and not any(override.is_sweep_override() for override in swept):
        raise FrostlineError(
            "hydra/sweeper=optuna: there is nothing to search. Name it, e.g. model.dropout=0.2,0.5\n"
            "'finetune.learning_rate=tag(log,interval(1e-6,1e-3))'; hydra/sweeper=optuna_recipe has a space of its own."
        )


def _hydras_settings(overrides: list[str]) -> Any:
    with hydra.initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        return hydra.compose("config", overrides=overrides, return_hydra_config=True).hydra


def _section(override: Override) -> str:
    return override.key_or_group.split(".")[0].split("/")[0]


def _each_value_once(assignments: Sequence[Sequence[str]]) -> list[list[str]]:
    """As few combinations as hold each of `assignments`: so many as the longest of them has values."""
    count = max(map(len, assignments), default=1)
    return [[some[min(row, len(some) - 1)] for some in assignments] for row in range(count)]


def _assignments(override: Override) -> list[str]:
    """``key=value`` for each value that `override` gives to its key; of an interval, for both ends."""
    interval = interval_in(override)
    values = [repr(interval.start), repr(interval.end)] if interval else assigned(override)
    return [f"{override.get_key_element()}={value}" for value in values]


def compose_trial(overrides: Sequence[str]) -> Config:
    """The settings of a trial; raises FrostlineError as `config.compose_conf` does."""
    return with_prepared_data(compose_conf(overrides))
