"""Sweep the two-phase recipe over settings: a Hydra multirun on the data that `dvc repro` prepared.

    python -m frostline.sweep -m model.cut_layer=mixed5,mixed7 finetune.learning_rate=1e-5,1e-4
    python -m frostline.sweep -m hydra/sweeper=optuna 'finetune.learning_rate=tag(log,interval(1e-6,1e-3))'
    python -m frostline.sweep -m hydra/launcher=ray seed=1,2,3,4
    python -m frostline.sweep -m study=worth_it

Settings come from conf/ and the command line; the sections data, weights and preprocess are those of params.yaml,
since these made what lies in data/processed. Trials are chosen by the validation loss of the better
phase; the test set is looked at once, at the end, for the chosen one. Trials that ran before are taken from disk;
--force runs them again. A study (conf/study/) is a sweep over folds of all labelled images, which ends in an answer
instead of a ranking.
"""

import math
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import hydra
from filelock import lock_descriptor
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from frostline.common.files import digest_of, write_json, write_text
from frostline.config.load import parse
from frostline.config.overrides import text_of
from frostline.config.paths import FEATURES, WORK
from frostline.config.settings import Config
from frostline.features.cache import prune
from frostline.runtime.errors import FrostlineError
from frostline.sweep import table
from frostline.sweep.closeness import close_to_best
from frostline.sweep.memory import Memory
from frostline.sweep.plan import CONF, Plan, check_prepared, compose_trial, is_search, plan, with_prepared_data
from frostline.sweep.results import (
    BEST,
    REBUILD,
    RESULT,
    begin,
    better_phase,
    describe,
    group_of,
    has_finished,
    headline,
    inputs_of,
    lowest_loss,
    new_record,
    rank,
    read_trials,
    reason,
    write_tables,
)
from frostline.sweep.study import answer_study
from frostline.sweep.swept import write_swept

if TYPE_CHECKING:  # TensorFlow and MLflow are imported once per sweep, and not for a mistyped key
    from frostline.sweep.trials import Shared
    from frostline.tracking.runs import Pipeline
    from frostline.training.loop import Epoch


Hopeless = Callable[[int, float], bool]
"""Given an epoch's number and its validation loss: is there no hope for this trial?"""


def trial_command(memory: Memory) -> Callable[[], None]:
    """The command that Hydra runs: one trial, or all of a multirun, each in this process or one of the launcher's.

    `memory`: what this process keeps of its trials. A trial returns its validation loss, which Hydra's optimizing
    sweepers minimize.
    """

    @hydra.main(version_base="1.3", config_path=str(CONF.resolve()), config_name="config")
    def main(raw: DictConfig) -> float:
        this = HydraConfig.get()
        output = Path(this.runtime.output_dir)
        record = new_record(list(this.overrides.task))
        try:
            config, folder = with_prepared_data(parse(raw, "conf/")), Path(this.sweep.dir)
            sweep = group_of(folder), inputs_of(folder)
            record |= run_trial(config, record["trial"], *sweep, memory, _hopeless(this))
        except FrostlineError as error:  # the other trials go on; the table shows this one
            record["error"] = str(error)
        except Exception as error:  # noqa: BLE001  (out of memory, most likely: that, too, must not stop the others)
            record["error"] = f"{type(error).__name__}: {error}"
            write_text(output / "traceback.txt", traceback.format_exc())
        write_json(output / RESULT, record)
        return lowest_loss(record) if has_finished(record) else math.inf

    return cast(Callable[[], None], main)


def run_trial(
    config: Config, name: str, group: str, inputs: str | None, memory: Memory, hopeless: Hopeless | None = None
) -> dict[str, Any]:
    """Run both phases as the MLflow run `name` below the run of the sweep `group`, or take them from disk.

    Raises FrostlineError where the data or the weights are not those of the sweep's `inputs` (None: whatever they are).

    Returns the figures of the epoch that each phase kept; or, where `hopeless` ended the trial, why.
    """
    from frostline.sweep import trials as sweep_trials
    from frostline.tracking import runs
    from frostline.training import precision
    from frostline.training.resolved import Found

    shared = sweep_trials.open_shared()
    if inputs:
        sweep_trials.check_inputs(shared, inputs)
    pipeline = runs.open_pipeline(config, shared.data.digest, group)
    result = sweep_trials.stored(config, shared)
    if result is not None:
        found = {phase: Found.from_json(told) for phase, told in result.found.items()}
        runs.restore_phase(name, pipeline, result.epochs(config), found)
    else:
        total = config.transfer.epochs + config.finetune.epochs

        with runs.phase_run(name, pipeline, of_sweep=True) as tracked:

            def on_epoch(epoch: "Epoch") -> None:
                tracked.log_epoch(epoch)
                number, loss = int(epoch["epoch"]), epoch["validation/loss"]
                if hopeless and number < total and hopeless(number, loss):
                    raise sweep_trials.PrunedError(f"validation loss {loss:.4g} after epoch {number} of {total}")

            tracked.log_data(config.data.name, config.data.depends_on, shared.data.digest, context="training")
            tracked.tag_computing(precision.resolve(config.precision))
            try:
                result = sweep_trials.run(config, shared, memory, on_epoch)
            except sweep_trials.PrunedError as reason:  # within the run: it has not failed
                return {"pruned": str(reason)}
            for phase, told in result.found.items():
                tracked.log_found(phase, Found.from_json(told))
            for epoch in result.epochs(config)[len(result.transfer) + len(result.finetune) :]:
                tracked.log_epoch(epoch)
    for cache in (FEATURES, sweep_trials.TRANSFERS):
        prune(config.feature_cache_gib, cache)
    return {"key": sweep_trials.trial_key(config, shared), **result.kept(config)}


def _hopeless(this: Any) -> Hopeless | None:
    if this.mode != hydra.types.RunMode.MULTIRUN or not is_search(this):
        return None
    from frostline.sweep import search

    return search.reporter(this.sweeper.storage, group_of(Path(this.sweep.dir)), this.job.num)


def run(arguments: list[str]) -> None:
    """The command: check every trial, compute all features in one pass, run the trials, say what they found."""
    force = "--force" in arguments
    arguments = [argument for argument in arguments if argument != "--force"]
    flags = {argument for argument in arguments if argument.startswith("-")}
    sys.argv[1:] = arguments
    if flags - {"-m", "--multirun"}:  # --help, --cfg …
        trial_command(Memory())()
        return
    if not flags:  # one trial, most likely: it is told as those of a sweep are
        sys.argv.insert(1, "-m")
    overrides = [argument for argument in arguments if argument not in flags]
    asked = plan(overrides)
    configs = [compose_trial(trial) for trial in asked.trials]
    if not is_search(asked.hydra):
        _check_that_none_is_twice(asked.trials, configs)
    folds = {config.fold for config in configs}
    if None in folds and len(folds) > 1:
        raise FrostlineError("fold=null is the prepared splits: not one of a sweep's folds.\nLeave it out.")

    from frostline.runtime.quiet_tensorflow import warn_of_unused_gpu
    from frostline.sweep import trials as sweep_trials

    warn_of_unused_gpu()
    check_prepared()
    shared = sweep_trials.open_shared()
    _check_that_trials_differ(asked, configs, shared)
    memory = Memory(None if is_search(asked.hydra) else sweep_trials.several_go_on_from(configs, shared))
    keys = sorted(sweep_trials.trial_key(config, shared) for config in configs)
    group = digest_of([asked.text, keys])[:16]
    folder = Path(asked.hydra.sweep.dir)
    same = "the same search runs already.\nWait for its end; hydra.sweeper.n_jobs=2 tries two at once."
    search = _alone_in(WORK / "searches" / group, same) if is_search(asked.hydra) else nullcontext()
    with _alone_in(folder), search:
        if force:
            _forget(asked, configs, shared, group)
        begin(folder, group, shared.inputs)
        pipeline = _open_sweep(configs, shared, group, new=force)
        unfinished = [config for config in configs if not sweep_trials.stored(config, shared)]
        if len(unfinished) > 1:
            sweep_trials.extract_features(unfinished, shared.data)
        sys.argv.append(f"hydra.sweep.dir={text_of(str(folder))}")
        with table.watching(folder, asked.total):
            trial_command(memory)()
        sweep_trials.check_inputs(sweep_trials.open_shared(), shared.inputs)
        if len(folds) > 1:
            answer_study(asked.study or "folds", overrides, folder, configs, shared, pipeline)
        else:
            _finish(folder, shared, memory, pipeline, is_search(asked.hydra))


@contextmanager
def _alone_in(folder: Path, said: str = "") -> Iterator[None]:
    """Meanwhile no other sweep runs in `folder`, whose trials would be taken for this one's; `said`: where one does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        if not lock_descriptor(file.fileno(), blocking=False):
            name = f"another sweep runs in {folder}.\nName another folder: hydra.sweep.dir=multirun/..."
            raise FrostlineError(said or name)
        yield


def _check_that_none_is_twice(trials: Sequence[Sequence[str]], configs: Sequence[Config]) -> None:
    """`seed=3,3` would count as two seeds, and so would 1e-4,0.0001 as two rates: what is swept is read first."""
    seen: dict[str, Sequence[str]] = {}
    for trial, config in zip(trials, configs, strict=True):
        before = seen.setdefault(repr(config), trial)
        if before is not trial:
            both = " and ".join(dict.fromkeys([" ".join(before), " ".join(trial)]))
            raise FrostlineError(f"two trials have the same settings: {both}.\nGive each value once.")


def _check_that_trials_differ(asked: Plan, configs: Sequence[Config], shared: "Shared") -> None:
    """Raise FrostlineError where settings would be ranked on which no result of a trial depends."""
    from frostline.sweep.trials import trial_key

    trials = asked.trials
    if is_search(asked.hydra):  # its trials are samples, in which other settings differ as well
        first = trials[0]
        swept = [(place, list(dict.fromkeys(values))) for place, values in enumerate(zip(*trials, strict=True))]
        trials = [[*first[:place], value, *first[place + 1 :]] for place, values in swept for value in values[1:]]
        trials = [first, *trials]
        configs = [compose_trial(trial) for trial in trials]
    seen: dict[str, Sequence[str]] = {}
    for trial, config in zip(trials, configs, strict=True):
        before = seen.setdefault(trial_key(config, shared), trial)
        if before is not trial:
            one, other = next((a, b) for a, b in zip(before, trial, strict=True) if a != b)
            raise FrostlineError(
                f"no trial depends on what differs between {one} and {other}: to rank them would say nothing.\n"
                f"Give {one.partition('=')[0]} one value; what only evaluate depends on, try with dvc exp run -S."
            )


def _forget(asked: Plan, configs: Sequence[Config], shared: "Shared", group: str) -> None:
    from frostline.sweep import trials as sweep_trials

    again = list(configs)
    if is_search(asked.hydra):
        from frostline.sweep import search

        again += [compose_trial(trial) for trial in search.delete_study(asked.hydra.sweeper.storage, group)]
    for config in again:
        sweep_trials.forget(config, shared)


def _open_sweep(configs: Sequence[Config], shared: "Shared", group: str, new: bool) -> "Pipeline":
    """Make the sweep's MLflow run once, here, wherever its trials run; its parameters are those that all share."""
    from frostline.tracking import runs

    pipeline = runs.open_pipeline(configs[0], shared.data.digest, group)
    flat = [runs.params_of(config) for config in configs]
    common = {key: value for key, value in flat[0].items() if all(other[key] == value for other in flat)}
    pipeline = replace(pipeline, name=f"{pipeline.name} sweep", settings=common)
    with runs.sweep_run(pipeline, new=new):
        return pipeline


def _finish(folder: Path, shared: "Shared", memory: Memory, pipeline: "Pipeline", searched: bool) -> None:
    """Rank the trials, write what they found into `folder`, and log it on the sweep's run."""
    from frostline.sweep import plots
    from frostline.sweep import trials as sweep_trials
    from frostline.tracking import runs

    trials = read_trials(folder)
    settings, files = rank(trials), write_tables(folder, trials)
    table.print_trials(trials)
    figures, test, close, rebuild = {}, None, "", REBUILD
    if settings:
        files += plots.write_figures(folder, settings)
        best = compose_trial(settings[0].best["overrides"])
        if best.fold is None:  # of a fold, the images that trials were told of are the test images
            close = close_to_best(settings)
        rebuild = write_swept(best, headline(trials), folder / BEST)
        test = sweep_trials.score_on_test(best, shared, memory, better_phase(settings[0].best))
        figures = {"validation/loss": settings[0].mean(), "test/loss": test["loss"], "test/accuracy": test["accuracy"]}
    text = describe(trials, test, close, rebuild)
    table.print_summary(trials, test, close, folder, rebuild)
    with runs.sweep_run(pipeline) as parent:
        parent.log_files(*files)
        parent.describe(text, figures)
    failed = [trial for trial in trials if "error" in trial]
    if failed:
        raise FrostlineError(
            f"{len(failed)} of {len(trials)} trials failed: {reason(failed[0])}\n"
            f"The same command runs {'others in their places' if searched else 'these again'}."
        )
    if not settings:
        raise FrostlineError("no trial finished.")
