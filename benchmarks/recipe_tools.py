"""What each tool of a recipe changes in the test log loss of a head on frozen features, over folds and seeds.

    python benchmarks/recipe_tools.py [--data FOLDER] [--weights FILE.h5] [--seeds 3] [--cut mixed7]

The plain head is Dense(1024) → Dropout(0.5) on the mean of the cut layer's output, trained on plain and mirrored
pictures by Adam at 1e-4 for at most 40 epochs, with the weights of the best epoch by validation. Each tool is added to
it alone. Differences are paired by picture; each picture's loss is the mean over the seeds. Two classes.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from measuring import prepare, weights_from
from rich.console import Console
from rich.table import Table

from frostline.common.seeds import generator
from frostline.config.paths import BACKBONE_WEIGHTS, PROCESSED
from frostline.data.dataset import SPLITS, Dataset, load_dataset
from frostline.metrics.calibration import fit_temperature
from frostline.metrics.log_loss import log_losses
from frostline.metrics.temperature import with_temperature
from frostline.models.backbone import build_backbone
from frostline.models.inference import by_class, inference_copy
from frostline.runtime.quiet_tensorflow import keras, tf
from frostline.training import precision
from frostline.training.augmentation import build_augmentation
from frostline.training.folds import choose_images

FOLDS, BATCH, PATIENCE, WARM_UP = 5, 32, 5, 0.1


@dataclass(frozen=True)
class Tools:
    """What is added to the plain head."""

    size: int = 150
    pooling: str = "average"
    views: int = 2
    """Of each training picture, from which every epoch draws one: plain, mirrored, then random crops and colours."""
    standard: bool = False
    """Each feature scaled to mean 0 and deviation 1 over the training pictures."""
    epochs: int = 40
    cosine: bool = False
    weight_decay: float = 0
    smoothing: float = 0
    ema: float = 0
    mixup: float = 0
    mirror: bool = False
    """At test time: mean with the mirrored picture."""
    temperature: bool = False


TOOLS = {
    "no mirrored pictures in training": Tools(views=1),
    "8 more cached views: crops, colours, mirror": Tools(views=10),
    "mirror at test time": Tools(mirror=True),
    "temperature": Tools(temperature=True),
    "224 x 224 pixels": Tools(size=224),
    "299 x 299 pixels": Tools(size=299),
    "means of four quarters": Tools(pooling="grid"),
    "standardised features": Tools(standard=True),
    "warm-up + cosine": Tools(cosine=True),
    "weight decay 0.1 (AdamW)": Tools(weight_decay=0.1),
    "label smoothing 0.1": Tools(smoothing=0.1),
    "mean of the weights (EMA 0.98)": Tools(ema=0.98),
    "mixup 0.2": Tools(mixup=0.2),
}
PLAIN = Tools()


@dataclass(frozen=True)
class Features:
    views: list[np.ndarray]
    """(N, channels) float32 each: of the plain pictures, the mirrored ones, and further views where asked for."""
    labels: np.ndarray
    folds: np.ndarray


def features(data: Dataset, cut: str, tools: Tools, folds_of: dict[str, int]) -> Features:
    """What the cut layer says of all labelled pictures, pooled."""
    images = np.concatenate([data.stored_images(split) for split in SPLITS])
    names = [name for split in SPLITS for name in data.paths[split]]
    labels = np.concatenate([data.labels(split) for split in SPLITS]).astype(int)
    network = inference_copy(build_backbone(images.shape[1], BACKBONE_WEIGHTS), [cut], precision.resolve("auto"))
    forward = tf.function(lambda batch: tf.cast(network(batch, training=False), tf.float32), reduce_retracing=True)
    changes: list[Callable[[np.ndarray], np.ndarray]] = [lambda batch: batch, lambda batch: batch[:, :, ::-1]]
    for seed in range(max(0, tools.views - len(changes))):
        augment = build_augmentation(seed)
        changes.append(lambda batch, augment=augment: augment(batch, training=True).numpy())
    views = []
    for change in changes:
        starts = range(0, len(images), 64)
        batches = (change(images[start : start + 64].astype(np.float32)) for start in starts)
        views.append(np.concatenate([pooled(forward(batch).numpy(), tools.pooling) for batch in batches]))
    return Features(views, labels, np.array([folds_of[name] for name in names]))


def pooled(features: np.ndarray, pooling: str) -> np.ndarray:
    """(N, height, width, channels) → (N, channels), or of a grid (N, 4 channels): the means of the four quarters."""
    if pooling == "average":
        return np.asarray(features.mean(axis=(1, 2)))
    side = features.shape[1]
    half = -(-side // 2)
    places = [slice(0, half), slice(side - half, side)]
    return np.concatenate([features[:, y, x].mean(axis=(1, 2)) for y in places for x in places], axis=1)


def folds_by_name(data: Dataset) -> dict[str, int]:
    return {name: fold for fold in range(FOLDS) for name in choose_images(data, fold, FOLDS, 1).names("test")}


def test_losses(given: Features, tools: Tools, seeds: Sequence[int]) -> np.ndarray:
    """Log loss of each picture by the models that never saw it, (seeds, N)."""
    losses = np.zeros((len(seeds), len(given.labels)))
    for row, seed in enumerate(seeds):
        for fold in range(FOLDS):
            test, validation = given.folds == fold, given.folds == (fold + 1) % FOLDS
            says = train(given, ~test & ~validation, validation, tools, seed * FOLDS + fold)
            probabilities = says(test)
            if tools.temperature:
                temperature = fit_temperature(given.labels[validation], says(validation))
                probabilities = with_temperature(probabilities, temperature)
            losses[row, test] = log_losses(given.labels[test], probabilities)
    return losses


def train(
    given: Features, training: np.ndarray, validation: np.ndarray, tools: Tools, seed: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Train a head; return what gives the probabilities of the pictures that a mask names, (n, 2)."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    views = np.stack(given.views)
    if tools.standard:
        seen = views[:2, training]
        views = (views - seen.mean(axis=(0, 1))) / (seen.std(axis=(0, 1)) + 1e-3)
    layers = [keras.layers.Dense(1024, activation="relu"), keras.layers.Dropout(0.5, seed=seed)]
    model = keras.Sequential([keras.Input(views.shape[-1:]), *layers, keras.layers.Dense(1, activation="sigmoid")])
    loss = keras.losses.BinaryCrossentropy(label_smoothing=tools.smoothing)
    model.compile(optimizer_of(tools, int(training.sum())), loss, jit_compile=False)
    draw, rows = generator(seed, "views"), np.flatnonzero(training)

    def says(mask: np.ndarray) -> np.ndarray:
        shown = range(2 if tools.mirror else 1)
        answers = [by_class(model(views[view][mask], training=False).numpy().astype(float)) for view in shown]
        return np.asarray(np.mean(answers, axis=0))

    best, kept, since = np.inf, model.get_weights(), 0
    for _ in range(tools.epochs):
        inputs, targets = an_epoch(views[: tools.views], given.labels, draw.permutation(rows), tools, draw)
        model.fit(inputs, targets, BATCH, shuffle=False, verbose=0)
        at_hand = model.get_weights()
        if tools.ema:
            model.optimizer.finalize_variable_values(model.trainable_variables)
        validated = float(log_losses(given.labels[validation], says(validation)).mean())
        since += 1
        if validated < best:
            best, kept, since = validated, model.get_weights(), 0
        model.set_weights(at_hand)
        if since == PATIENCE:
            break
    model.set_weights(kept)
    return says


def optimizer_of(tools: Tools, count: int) -> keras.optimizers.Optimizer:
    rate, batches = 1e-4, tools.epochs * -(-count // BATCH)
    if tools.cosine:
        rising = round(WARM_UP * batches)
        schedule = keras.optimizers.schedules.CosineDecay
        rate = schedule(0.0, batches - rising, warmup_target=rate, warmup_steps=rising)
    averaged = {"use_ema": True, "ema_momentum": tools.ema} if tools.ema else {}
    optimizer = keras.optimizers.Adam(rate, weight_decay=tools.weight_decay or None, **averaged)
    if tools.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


def an_epoch(
    views: np.ndarray, labels: np.ndarray, order: np.ndarray, tools: Tools, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One view of each picture in `order`, and its target (n, 1); mixed with another one's, if asked for."""
    inputs, targets = (
        views[draw.integers(len(views), size=len(order)), order],
        labels[order].astype(np.float32)[:, None],
    )
    if tools.mixup:
        share = draw.beta(tools.mixup, tools.mixup, size=(len(order), 1)).astype(np.float32)
        others = draw.permutation(len(order))
        inputs = share * inputs + (1 - share) * inputs[others]
        targets = share * targets + (1 - share) * targets[others]
    return inputs, targets


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder of pictures of two classes (default: drawn ones)")
    parser.add_argument("--weights", type=Path, help="InceptionV3's weights (default: seeded random ones)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each tool on each fold")
    parser.add_argument("--cut", default="mixed7", help="the layer that the head takes in")
    return parser.parse_args()


def main() -> None:
    arguments, console = parse_arguments(), Console(width=110)
    overrides = ["data=folder", f"data.path='{arguments.data.resolve()}'"] if arguments.data else ["data.unlabelled=0"]
    overrides += weights_from(arguments.weights)
    table = Table("tool", "log loss", "difference", "95% CI", "CPU s")
    plain, found, folds = np.empty(0), {}, {}
    for name, tools in {"the plain head": PLAIN, **TOOLS}.items():
        cached = replace(PLAIN, size=tools.size, pooling=tools.pooling, views=max(2, tools.views))
        if cached not in found:
            with tempfile.TemporaryDirectory() as project:
                prepare(Path(project), *overrides, f"preprocess.image_size={tools.size}")
                os.chdir(project)
                data = load_dataset(PROCESSED)
                folds = folds or folds_by_name(data)
                found[cached] = features(data, arguments.cut, tools, folds)
                os.chdir("/")
        began = time.process_time()
        losses = test_losses(found[cached], tools, range(1, arguments.seeds + 1)).mean(axis=0)
        seconds = f"{time.process_time() - began:.0f}"
        if tools == PLAIN:
            plain = losses
        difference = losses - plain
        margin = 1.96 * difference.std(ddof=1) / np.sqrt(len(difference))
        low, high = difference.mean() - margin, difference.mean() + margin
        beside = ["", ""] if tools == PLAIN else [f"{difference.mean():+.3f}", f"{low:+.3f} to {high:+.3f}"]
        table.add_row(name, f"{losses.mean():.3f}", *beside, seconds)
        console.print(" ".join([name, f"{losses.mean():.3f}", *beside, seconds]))
    console.print(table)


if __name__ == "__main__":
    main()
