"""What the two training stages share: train, leave the model and its curve, log the run."""

import gc
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from frostline.common.files import check_writable, sha256_of, write_csv, write_json
from frostline.common.phase_names import PhaseName
from frostline.config.paths import CURVES, MODELS, TRAINING
from frostline.config.settings import Config, check_threshold
from frostline.data.dataset import Dataset
from frostline.features.cache import prune
from frostline.models.saving import save_model
from frostline.runtime.quiet_tensorflow import keras, tf, warn_of_unused_gpu
from frostline.tracking import runs
from frostline.tracking.logged_model import log_model
from frostline.training import checkpoints, distribution, precision
from frostline.training.loop import EPOCH_COLUMNS, BatchTooLargeError, Epoch, Session, kept_epoch, with_kept_last
from frostline.training.phases import checkpoint_path, load_images
from frostline.training.resolved import Found

_log = logging.getLogger(__name__)

Build = Callable[[Dataset], keras.Model]
Train = Callable[[keras.Model, Dataset, Config, Session], list[Epoch]]


def run_phase(phase: PhaseName, config: Config, start: Path, build: Build, train: Train) -> None:
    """Run the stage `phase`: `train` what `build` makes of the weights in the file `start`.

    Of several processes (see `distribution`) only the chief leaves anything; the others end when its outputs are there.
    """
    strategy = distribution.strategy_of(config.distribution)
    warn_of_unused_gpu()
    if distribution.is_chief(strategy):
        _train_and_log(phase, config, start, build, train, strategy)
    else:
        data = load_images(config)
        checkpoint = checkpoint_path(phase, config, data, sha256_of(start), strategy)
        train(build(data), data, config, Session(checkpoint=checkpoint, strategy=strategy))
    distribution.wait_for_all(strategy)


def _train_and_log(
    phase: PhaseName,
    config: Config,
    start: Path,
    build: Build,
    train: Train,
    strategy: tf.distribute.Strategy | None,
) -> None:
    for output in (MODELS[phase], CURVES[phase], TRAINING[phase]):
        check_writable(output)
    data = load_images(config)
    check_threshold(config.evaluate.threshold, data.classes)  # and not after hours of training
    checkpoint = checkpoint_path(phase, config, data, sha256_of(start), strategy)
    patience, found = getattr(config, phase).patience, Found()
    with runs.phase_run(phase, runs.open_pipeline(config, data.digest)) as run:
        run.log_data(config.data.name, config.data.depends_on, data.digest, context="training")
        run.tag_computing(precision.resolve(config.precision))

        def on_found(what: Found) -> None:
            nonlocal found
            found = what
            run.log_found(phase, what)

        session = Session(run.log_epoch, checkpoint, strategy, config.checkpoint_every, on_found=on_found)
        model, history = _trained(phase, config, lambda: build(data), data, train, session)
        for epoch in with_kept_last(history, patience)[len(history) :]:  # the others were logged as they came
            run.log_epoch(epoch)
        save_model(model, MODELS[phase], data.classes, data.fit)
        write_csv(CURVES[phase], EPOCH_COLUMNS, history)
        write_json(TRAINING[phase], kept_epoch(history, patience) | found.as_json())
        run.log_files(CURVES[phase])
        run.tag_model(MODELS[phase])
        if config.tracking.log_models:
            log_model(run, MODELS[phase], data.images("train")[0])
    checkpoints.delete(checkpoint)
    prune(config.feature_cache_gib)


def _trained(
    phase: PhaseName, config: Config, build: Callable[[], keras.Model], data: Dataset, train: Train, session: Session
) -> tuple[keras.Model, list[Epoch]]:
    """The trained model and its epochs. Where the memory does not hold a batch beside all features, these are read
    batch by batch; where it does not hold one at all, it is trained in more and more parts.

    Each time from a model built anew, or the checkpoint of so many parts: what the failed step has left is of no use.
    But what auto was found to be holds for all, and is told once.
    """
    told = None

    def on_found(what: Found) -> None:
        nonlocal told
        if what != told:
            session.on_found(what)
        told = what

    def attempt(parts: int, settings: Config) -> tuple[keras.Model, list[Epoch]]:
        gc.collect()  # the model of the last one
        model = build()
        return model, train(model, data, settings, replace(session, parts=parts, on_found=on_found))

    parts, settings = 1, config
    while True:
        try:
            return attempt(parts, settings)
        except BatchTooLargeError as error:
            batch_size, beside_features = error.batch_size, error.beside_features
            if session.strategy or (parts >= batch_size and not beside_features):
                raise
        if beside_features:
            _log.warning(
                "%s: the memory does not hold a step beside all features; they are read batch by batch.", phase
            )
            settings = replace(config, feeding="batches")
            continue
        parts = min(2 * parts, batch_size)
        _log.warning(
            "%s: the memory does not hold a batch of %d images; their gradients are added up from %d parts.",
            phase,
            batch_size,
            parts,
        )
