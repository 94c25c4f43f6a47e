"""What the two training stages share: train, leave the model and its curve, tell MLflow's process of them."""

from collections.abc import Callable
from pathlib import Path

from frostline.common.files import check_writable, write_csv, write_json
from frostline.config.paths import CURVES, MODELS, PROCESSED, TRAINING
from frostline.config.settings import Config
from frostline.data.dataset import Dataset, load_dataset
from frostline.features.cache import prune
from frostline.models.saving import save_model
from frostline.runtime.background_process import Channel
from frostline.runtime.quiet_tensorflow import keras
from frostline.stages._record import AllWritten, Computing, EpochEnded
from frostline.training import distribution, precision
from frostline.training.loop import EPOCH_COLUMNS, Epoch, OnEpoch, kept_epoch, with_kept_last
from frostline.training.phases import checkpoint_path

Build = Callable[[Dataset], keras.Model]
Train = Callable[[keras.Model, Dataset, Config, OnEpoch, Path], list[Epoch]]


def run_phase(phase: str, config: Config, start: Path, record: Channel, build: Build, train: Train) -> None:
    """Run the stage `phase` ("transfer" or "finetune"): `train` what `build` makes of the weights in the file `start`.

    Of several processes (see `distribution`) only the chief leaves anything; the others end when its outputs are there.
    `record`: the channel to `record_phase`.
    """
    strategy = distribution.strategy_of(config.distribution)
    if distribution.is_chief(strategy):
        _train_and_tell(phase, config, start, record, build, train)
    else:
        data = load_dataset(PROCESSED)
        train(build(data), data, config, lambda epoch: None, checkpoint_path(phase, config, data, start))
    distribution.wait_for_all(strategy)


def _train_and_tell(phase: str, config: Config, start: Path, record: Channel, build: Build, train: Train) -> None:
    for output in (MODELS[phase], CURVES[phase], TRAINING[phase]):
        check_writable(output)
    data = load_dataset(PROCESSED)
    record.tell(Computing(precision.resolve(config.precision)))
    model = build(data)
    record.hear()  # Opened, or nothing is trained
    checkpoint = checkpoint_path(phase, config, data, start)
    patience = getattr(config, phase).patience

    def on_epoch(epoch: Epoch) -> None:
        record.tell(EpochEnded(epoch))

    history = train(model, data, config, on_epoch, checkpoint)
    for epoch in with_kept_last(history, patience)[len(history) :]:  # the others were told as they came
        on_epoch(epoch)
    save_model(model, MODELS[phase], data.classes)
    write_csv(CURVES[phase], EPOCH_COLUMNS, history)
    write_json(TRAINING[phase], kept_epoch(history, patience))
    record.ask(AllWritten())
    checkpoint.unlink(missing_ok=True)
    prune(config.feature_cache_gib)
