"""The two-phase recipe: transfer trains a new head on the frozen backbone, finetune thaws the top of the backbone."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from frostline import backbone, features, training
from frostline.dataset import Dataset
from frostline.head import add_head
from frostline.quiet_tensorflow import keras
from frostline.seeds import derive_seed
from frostline.settings import Config, Phase
from frostline.training import Epoch, Examples

OnEpoch = Callable[[Epoch], None]


def transfer(data: Dataset, weights: Path, settings: Config, on_epoch: OnEpoch) -> tuple[keras.Model, list[Epoch]]:
    """Train a new head on the frozen backbone with the pretrained `weights`.

    Returns the classifier (pictures (N, size, size, 3) from 0 to 255 → probability (N, 1)) and each epoch's figures.
    """
    base = backbone.build_backbone(settings.preprocess.picture_size, weights)
    cut = settings.model.cut_layer
    thaw_from = backbone.resolve_thaw_from(base, cut, settings.finetune.thaw_from)
    model = add_head(
        base,
        cut,
        dense_units=settings.model.dense_units,
        dropout=settings.model.dropout,
        seed=derive_seed(settings.seed, "head"),
    )
    # The second phase's features come from the same pass over the pictures.
    layers = list(dict.fromkeys([cut, *backbone.frontier(model, thaw_from)]))
    examples = {}
    for split in ("train", "validation"):
        at_cut = _features(model, data, split, layers)[:1]
        examples[split] = Examples(at_cut, data.labels(split))
    backbone.freeze(model, backbone=base)
    history = _train(backbone.part(model, [cut]), examples, "transfer", settings.transfer, settings.seed, on_epoch)
    return model, history


def finetune(model: keras.Model, data: Dataset, settings: Config, on_epoch: OnEpoch) -> list[Epoch]:
    """Thaw the classifier `model` from the frost line on and train it on, in place; return each epoch's figures."""
    thaw_from = backbone.resolve_thaw_from(model, settings.model.cut_layer, settings.finetune.thaw_from)
    layers = backbone.frontier(model, thaw_from)
    examples = {
        split: Examples(_features(model, data, split, layers), data.labels(split)) for split in ("train", "validation")
    }
    backbone.thaw(model, thaw_from)
    return _train(backbone.part(model, layers), examples, "finetune", settings.finetune, settings.seed, on_epoch)


def _train(
    model: keras.Model,
    examples: Mapping[str, Examples],
    phase: str,
    settings: Phase,
    seed: int,
    on_epoch: OnEpoch,
) -> list[Epoch]:
    return training.train(
        model,
        examples["train"],
        examples["validation"],
        phase=phase,
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        batch_size=settings.batch_size,
        seed=seed,
        on_epoch=on_epoch,
    )


def predict(model: keras.Model, data: Dataset, split: str, settings: Config) -> np.ndarray:
    """Probabilities of the second class, (N,) float64, for the pictures of `split`, through the cache.

    Both phases' models are the same below the frost line, so the second one finds its features computed.
    """
    thaw_from = backbone.resolve_thaw_from(model, settings.model.cut_layer, settings.finetune.thaw_from)
    layers = backbone.frontier(model, thaw_from)
    return training.predict(backbone.part(model, layers), _features(model, data, split, layers))


def _features(model: keras.Model, data: Dataset, split: str, layers: Sequence[str]) -> list[np.ndarray]:
    return features.extract(model, data.pictures(split), f"{data.digest}/{split}", layers)
