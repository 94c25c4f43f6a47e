"""One trial of a sweep: both phases, kept on disk by all that their results depend on, so that nothing runs twice."""

import functools
import gc
import logging
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from frostline.common.files import digest_of, locked, read_json, replacing, sha256_of, write_json
from frostline.common.phase_names import PhaseName
from frostline.config.paths import BACKBONE_WEIGHTS, PROCESSED, WORK
from frostline.config.settings import Config
from frostline.data.dataset import Dataset, load_dataset
from frostline.features import extract
from frostline.metrics.calibration import fit_temperature
from frostline.metrics.log_loss import score
from frostline.metrics.temperature import with_temperature
from frostline.models import backbone, frost_line, hub
from frostline.models.saving import load_model, save_model
from frostline.runtime.code_digest import code_digest
from frostline.runtime.errors import FrostlineError
from frostline.runtime.quiet_tensorflow import keras, tf
from frostline.studies.tables import probability_column
from frostline.sweep.memory import Memory, set_values, values_of
from frostline.training import checkpoints, distribution, folds, phases, precision
from frostline.training.loop import Epoch, OnEpoch, Session, kept_epoch, with_kept_last
from frostline.training.resolved import Found

_log = logging.getLogger(__name__)

TRANSFERS = WORK / "transfer"
"""A folder per transfer phase: its model and its epochs."""
TRIALS = WORK / "trials"
"""Two files per trial, its epochs and what both phases' models say of images held out; and, for winners, one with the
figures of the test set."""

Pass = tuple[str, str, bool]
"""Over the images: in which precision, of which split, whether mirrored."""


@dataclass(frozen=True)
class Shared:
    """What all trials of a sweep have in common."""

    data: Dataset
    digest: str
    """Of the data, the weights, the code, the libraries and the kinds of devices."""
    inputs: str
    """Of the data and the weights alone, which are the same on all machines."""

    def images(self, settings: Config) -> Dataset:
        """The data set, split as `settings` say."""
        return folds.images_for(self.data, settings)


@dataclass(frozen=True)
class Result:
    """Each epoch's figures in both phases, numbered from 1 in each."""

    transfer: list[Epoch]
    finetune: list[Epoch]
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By phase, what its settings that say auto were found to be, as `Found` has it."""

    def epochs(self, settings: Config) -> list[Epoch]:
        """Both phases' epochs in one row, numbered from 1 to the last, as a tracker shall have them."""
        row = [*self.transfer, *with_kept_last(self.finetune, settings.finetune.patience)]
        return [{**epoch, "epoch": number} for number, epoch in enumerate(row, 1)]

    def kept(self, settings: Config) -> dict[str, Epoch]:
        """Of each phase the epoch whose weights it kept."""
        return {
            "transfer": kept_epoch(self.transfer, settings.transfer.patience),
            "finetune": kept_epoch(self.finetune, settings.finetune.patience),
        }


class PrunedError(Exception):
    """Raised by `on_epoch` to end a trial without hope; says after which epoch and why."""


def open_shared() -> Shared:
    """Raises FrostlineError where the data or the weights are missing."""
    data = load_dataset(PROCESSED)
    if not BACKBONE_WEIGHTS.is_file():
        raise FrostlineError(f"{BACKBONE_WEIGHTS} not found.\nRun `dvc repro fetch-weights`.")
    inputs = [data.digest, sha256_of(BACKBONE_WEIGHTS)]
    facts = [
        *inputs,
        code_digest(__name__),
        {name: version(name) for name in ("tensorflow", "keras", "numpy")},
        [device.device_type for device in tf.config.list_physical_devices()],
    ]
    return Shared(data, digest_of(facts), digest_of(inputs))


def check_inputs(shared: Shared, known: str) -> None:
    """Raise FrostlineError where the data or the weights are not those of the sweep, whose `inputs` were `known`."""
    if shared.inputs != known:
        raise FrostlineError(
            f"{PROCESSED} or {BACKBONE_WEIGHTS} has changed since the sweep began, so its trials cannot be compared.\n"
            "Run the same command again: it trains on what is there then."
        )


def several_go_on_from(trials: Sequence[Config], shared: Shared) -> frozenset[str]:
    """The keys of the transfer phases that more than one of `trials` goes on from (see Memory)."""
    counts = Counter(_transfer_key(trial, shared) for trial in trials)
    return frozenset(key for key, count in counts.items() if count > 1)


def _transfer_key(settings: Config, shared: Shared) -> str:
    """As trial_key, of the transfer phase."""
    release = hub.release_for(settings.model.backbone)
    return digest_of([phases.settings_that_matter("transfer", settings), shared.digest, *release])


def trial_key(settings: Config, shared: Shared) -> str:
    """The digest of all that the trial's result depends on: trials of one key have one result."""
    matters = phases.settings_that_matter("finetune", settings)
    calibrate = None if settings.fold is None else settings.evaluate.calibrate
    return digest_of([_transfer_key(settings, shared), matters, calibrate])


def stored(settings: Config, shared: Shared) -> Result | None:
    """The trial's result, if it has been run before."""
    path = TRIALS / f"{trial_key(settings, shared)}.json"
    return Result(**read_json(path)) if path.is_file() else None


def held_out(key: str) -> pd.DataFrame:
    """What both phases' models of the trial `key`, which was `run`, say of images held out, as `studies.tables` says.

    These are the test images of a fold, which is one of several, and of them what they say in use: calibrated as
    `evaluate.calibrate` says, on the fold's validation images. Else they are the validation images.
    """
    return pd.read_parquet(TRIALS / f"{key}.parquet")


def forget(settings: Config, shared: Shared) -> None:
    """Delete the trial's result and its transfer phase, so that both are run again."""
    for path in TRIALS.glob(f"{trial_key(settings, shared)}.*"):
        path.unlink()
    shutil.rmtree(TRANSFERS / _transfer_key(settings, shared), ignore_errors=True)


def run(settings: Config, shared: Shared, memory: Memory, on_epoch: OnEpoch) -> Result:
    """Run the trial and keep its result; `on_epoch` gets the epochs of both phases in one row, numbered from 1.

    What `on_epoch` raises ends the trial, and nothing is kept of the phase that it ended.
    """
    key, (model, result, said) = trial_key(settings, shared), _train(settings, shared, memory, on_epoch)
    with replacing(TRIALS / f"{key}.parquet") as temporary:
        _as_table(said, shared.images(settings), _held_out_split(settings)).to_parquet(temporary, index=False)
    write_json(TRIALS / f"{key}.json", asdict(result))
    loss = result.kept(settings)["finetune"]["validation/loss"]
    if loss < memory.best_loss:
        memory.best_key, memory.best_loss, memory.best_values = key, loss, values_of(model)
    return result


def _held_out_split(settings: Config) -> str:
    return "validation" if settings.fold is None else "test"


def _as_table(said: Mapping[PhaseName, np.ndarray], data: Dataset, split: str) -> pd.DataFrame:
    """As `held_out`; `said`: by phase, (N, classes) float64 for the images of `split`."""
    actual = [data.classes[label] for label in data.labels(split)]
    columns = [probability_column(name) for name in data.classes]
    tables = [pd.DataFrame(probabilities, columns=columns) for probabilities in said.values()]
    for phase, table in zip(said, tables, strict=True):
        table.insert(0, "phase", phase)
        table.insert(0, "class", actual)
        table.insert(0, "image", data.names(split))
    return pd.concat(tables, ignore_index=True)


def score_on_test(settings: Config, shared: Shared, memory: Memory, phase: PhaseName) -> dict[str, float]:
    """Log loss and accuracy of the trial's model after `phase` on the test set.

    Where the fine-tuned model is not in memory any more (another process ran the trial), it is fine-tuned again, which
    gives the same one: 190 MB for each trial's would be much to keep.
    """
    key = trial_key(settings, shared)
    path = TRIALS / f"{key}.{phase}.test.json"
    if not path.is_file():
        if phase == "transfer":
            _transfer_once(settings, shared, memory, lambda epoch: None, {})
            model = _model_at(_transfer_model(settings, shared), memory)
        elif memory.best_key == key and _transfer_model(settings, shared).is_file():
            model = set_values(_model_at(_transfer_model(settings, shared), memory), memory.best_values)
        else:
            model, _, _ = _train(settings, shared, memory, on_epoch=lambda epoch: None)
        data = shared.images(settings)
        labels = data.labels("test")
        loss, accuracy = score(labels, phases.predictor_of(model, settings)(data, "test"))
        write_json(path, {"loss": loss, "accuracy": accuracy, "images": len(labels)})
    return cast(dict[str, float], read_json(path))


Trained = tuple[keras.Model, Result, dict[PhaseName, np.ndarray]]
"""The final model; and by phase what its model says of the images held out, (N, classes) float64."""


def _train(settings: Config, shared: Shared, memory: Memory, on_epoch: OnEpoch) -> Trained:
    gc.collect()  # the last trial's graphs
    said: dict[PhaseName, np.ndarray] = {}
    computed_in = precision.resolve(settings.precision)  # as while training: the features are there
    data = shared.images(settings)

    def predict(phase: PhaseName) -> None:
        key = f"{settings.finetune.thaw_from} {computed_in}"  # below another frost line other layers have learned
        if key not in memory.predictors:
            memory.predictors[key] = phases.predictor_of(model, settings, computed_in)
        said[phase] = _in_use(memory.predictors[key], data, _held_out_split(settings), settings)

    start = _transfer_model(settings, shared)
    found: dict[str, dict[str, Any]] = {}
    first = _transfer_once(settings, shared, memory, on_epoch, found)

    def after_transfer(epoch: Epoch) -> None:
        on_epoch({**epoch, "epoch": epoch["epoch"] + len(first)})

    model = _model_at(start, memory)
    predict("transfer")
    with _session("finetune", settings, shared, memory, after_transfer, found) as session:
        second = phases.finetune(model, data, settings, session)
    predict("finetune")
    return model, Result(first, second, found), said


def _in_use(predict: Callable[[Dataset, str], np.ndarray], data: Dataset, split: str, settings: Config) -> np.ndarray:
    """What `predict` says of the images of `split`; of a fold's test images as `evaluate` would have it, calibrated."""
    said = predict(data, split)
    if split == "validation" or settings.evaluate.calibrate == "none":
        return said
    return with_temperature(said, fit_temperature(data.labels("validation"), predict(data, "validation")))


def _transfer_model(settings: Config, shared: Shared) -> Path:
    return TRANSFERS / _transfer_key(settings, shared) / "model.keras"


def _model_at(path: Path, memory: Memory) -> keras.Model:
    """The model in the file `path`. For trials in a row that share it, it is read once and then set back: building a
    backbone takes as long as an epoch over a thousand images."""
    if path != memory.start:
        memory.keep(None, None)
        keras.utils.clear_session()
        memory.keep(path, load_model(path))
    return set_values(memory.model, memory.values)


def _transfer_once(
    settings: Config, shared: Shared, memory: Memory, on_epoch: OnEpoch, found: dict[str, dict[str, Any]]
) -> list[Epoch]:
    """Leave the transfer phase's model in its file, trained once for all trials that differ only in fine-tuning.

    It is kept for later sweeps. Returns its epochs, and adds to `found` as `Result` has it.
    """
    key, model_path = _transfer_key(settings, shared), _transfer_model(settings, shared)
    history_path = model_path.with_name("history.json")
    model_path.parent.mkdir(parents=True, exist_ok=True)
    with locked(model_path.with_name("lock"), "another process trains the same head; waiting for it."):
        if history_path.is_file():
            kept = read_json(history_path)
            history, found["transfer"] = cast(list[Epoch], kept["epochs"]), kept["found"]
            for epoch in history:
                on_epoch(epoch)
        else:
            with _session("transfer", settings, shared, memory, on_epoch, found) as session:
                model = _untrained(settings, shared, memory)
                history = phases.transfer(model, shared.images(settings), settings, session)
                if settings.fold is None or memory.several_go_on_from is None or key in memory.several_go_on_from:
                    save_model(model, model_path, shared.data.classes, shared.data.fit)
                    kept = {"epochs": history, "found": found["transfer"]}
                    write_json(history_path, kept)  # last: it says that the model is there
            for variable in model.variables:
                if variable.path.endswith("seed_generator_state"):  # a file does not say how often dropout has drawn
                    variable.assign([variable[0], 0])
            memory.keep(model_path, model)
    os.utime(model_path.parent)  # used now: the longest unused are pruned
    return history


def _untrained(settings: Config, shared: Shared, memory: Memory) -> keras.Model:
    """What `build_classifier` gives: trials in a row that differ in their seeds and images only build it once."""
    built = digest_of([asdict(settings.model), settings.preprocess.image_size, shared.digest])
    data = shared.images(settings)
    build = functools.partial(phases.build_classifier, data, BACKBONE_WEIGHTS, settings)
    model = memory.untrained_model(built, build)
    phases.renew_head(model, data, settings)
    return model


@contextmanager
def _session(
    phase: PhaseName,
    settings: Config,
    shared: Shared,
    memory: Memory,
    on_epoch: OnEpoch,
    found: dict[str, dict[str, Any]],
) -> Iterator[Session]:
    """How `phase` runs; its checkpoint is no longer needed when it ended or was given up. It adds to `found`."""

    def on_found(what: Found) -> None:
        found[phase] = what.as_json()

    strategy = distribution.strategy_of(settings.distribution)
    start = shared.digest if phase == "transfer" else _transfer_key(settings, shared)
    path = phases.checkpoint_path(phase, settings, shared.images(settings), start, strategy)
    try:
        yield Session(on_epoch, path, strategy, settings.checkpoint_every, memory.trainers, on_found=on_found)
    except PrunedError:
        checkpoints.delete(path)
        raise
    checkpoints.delete(path)


def extract_features(trials: Sequence[Config], data: Dataset) -> None:
    """Compute what the frozen layers of all `trials` give, in one pass over the images of each split.

    Without it each trial would pass over them for its own layers. Where all layers together are more than the cache
    may hold, that is left to the trials.
    """
    for trial in trials:
        phases.choose_determinism(trial)
    # All trials have one backbone: its weights lie in one file.
    first = trials[0]
    base = backbone.build_backbone(first.preprocess.image_size, BACKBONE_WEIGHTS, first.model.backbone)
    wanted = _wanted_layers(base, trials, data)
    order = [layer.name for layer in base.layers]
    needed, limit = 0, min(trial.feature_cache_gib for trial in trials)
    for (_, split, _), layers in wanted.items():
        numbers = sum(int(np.prod(base.get_layer(name).output.shape[1:])) for name in layers)
        needed += len(data.names(split)) * numbers * np.dtype(extract.DTYPE).itemsize
    if needed > limit * 2**30:
        _log.info(
            "features of all trials: %.1f GiB, over feature_cache_gib=%g; each trial computes its own.",
            needed / 2**30,
            limit,
        )
        return
    extractors: dict[tuple[str, ...], extract.Extractor] = {}
    for (computed_in, split, mirrored), layers in sorted(wanted.items()):
        names = sorted(layers, key=order.index)
        key = (computed_in, *names)
        if key not in extractors:
            extractors[key] = phases.extractor_of(base, names, first, computed_in)
        phases.split_features(extractors[key], data, split, mirrored)


def _wanted_layers(base: keras.Model, trials: Sequence[Config], data: Dataset) -> dict[Pass, set[str]]:
    @functools.cache
    def layers_of(cut: str, thaw_from: str) -> set[str]:
        """As `phases` asks for them."""
        try:
            line = frost_line.resolve_thaw_from(base, cut, thaw_from)
        except FrostlineError:  # the trial itself will say so
            return set()
        below = keras.Model(base.input, base.get_layer(cut).output)
        return {cut, *frost_line.frontier(below, line)}

    wanted: dict[Pass, set[str]] = defaultdict(set)
    for trial in trials:
        layers = layers_of(trial.model.cut_layer, trial.finetune.thaw_from)
        views = [("validation", False), *([("test", False)] if trial.fold is not None else [])]
        views += [("train", False)] if trial.augment != "full" else []
        views += [("train", True)] if trial.augment == "flip" else []
        images = folds.images_for(data, trial)
        for split, mirrored in views if layers else []:
            for stored in images.stored_in(split):
                wanted[(precision.resolve(trial.precision), stored, mirrored)] |= layers
    return wanted
