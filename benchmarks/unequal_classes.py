"""Where one class is small: what do class weights, balanced sampling and the threshold give?

    python benchmarks/unequal_classes.py [--ratio 20] [--seeds 3] [--data FOLDER | --images 1200] [--weights FILE.h5]

Of pictures of two classes, those of the second that are trained on and validated with are cut to 1 in `ratio`, others
with each seed. The test images keep all of them: each counts so much in the log loss that it is that of such a set.
Both phases are trained on each fold with each seed, with the classes counting the same in three ways; the phase of the
lower validation loss counts, with the temperature that the validation images give it, as in the stage evaluate.
"""

import argparse
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from measuring import prepare, weights_from
from rich.console import Console
from rich.table import Table

from frostline.common.seeds import generator
from frostline.config.load import compose_conf
from frostline.config.paths import BACKBONE_WEIGHTS, PROCESSED
from frostline.config.settings import Config
from frostline.data.dataset import Dataset, load_dataset
from frostline.metrics.calibration import fit_temperature
from frostline.metrics.log_loss import log_losses
from frostline.metrics.temperature import with_temperature
from frostline.runtime.quiet_tensorflow import keras
from frostline.studies.cross_validation import mean_difference
from frostline.training import phases
from frostline.training.folds import choose_images
from frostline.training.loop import Session, kept_epoch

FOLDS = 5
WAYS = {
    "none": "class_weight=none",
    "weights": "class_weight=balanced",
    "weights, as they are": "the same, probabilities not put right",
    "sampling": "class_weight=balanced_sampling",
}
POINTS = [
    ("none", "0.5"),
    ("none", "balanced_accuracy"),
    ("weights", "0.5"),
    ("weights", "balanced_accuracy"),
    ("weights, as they are", "0.5"),
    ("sampling", "balanced_accuracy"),
]
COMPARED = [(1, 0), (3, 0), (5, 0), (3, 1), (5, 1), (5, 3)]
"""Points beside others."""
Point = tuple[str, str]


def cut(data: Dataset, ratio: int, seed: int) -> Dataset:
    """`data`, a fold, with 1 training and 1 validation image of the second class to `ratio` of the first."""
    rows = {"test": data.rows["test"]}
    for split in ("train", "validation"):
        labels, own = data.labels(split), data.rows[split]
        small = generator(seed, "cut", split).permutation(own[labels == 1])
        rows[split] = np.sort(np.concatenate([own[labels == 0], small[: round(np.sum(labels == 0) / ratio)]]))
    return replace(data, rows=rows, digest=f"{data.digest}/{ratio}/{seed}")


def odds_times(probabilities: np.ndarray, factor: float) -> np.ndarray:
    """Probabilities (N, 2) with the odds of the second class `factor` times what they are."""
    weighed = probabilities * [1, factor]
    times: np.ndarray = weighed / weighed.sum(axis=1, keepdims=True)
    return times


def train(data: Dataset, config: Config) -> dict[str, np.ndarray]:
    """Train both phases; what the model of the lower validation loss says of the validation and the test images."""
    session = Session()
    model = phases.build_classifier(data, BACKBONE_WEIGHTS, config)
    best, said = np.inf, {}
    for phase, run in (("transfer", phases.transfer), ("finetune", phases.finetune)):
        history = run(model, data, config, session)
        loss = kept_epoch(history, getattr(config, phase).patience)["validation/loss"]
        if loss < best:
            predict = phases.predictor_of(model, config)
            best, said = loss, {split: predict(data, split) for split in ("validation", "test")}
    return said


def calibrated(said: Mapping[str, np.ndarray], data: Dataset) -> np.ndarray:
    """The test images' probabilities, by the temperature of the validation images."""
    return with_temperature(said["test"], fit_temperature(data.labels("validation"), said["validation"]))


def all_ways(data: Dataset, overrides: list[str], seed: int) -> tuple[dict[str, np.ndarray], float]:
    """The test images' probabilities in each of WAYS, and the share of the second class in training."""
    keras.utils.clear_session()
    labels = data.labels("train")
    odds = np.sum(labels == 0) / np.sum(labels == 1)
    said = {}
    for way in ("none", "balanced", "balanced_sampling"):
        both = [f"{phase}.class_weight={way}" for phase in ("transfer", "finetune")]
        said[way] = train(data, compose_conf([*overrides, f"seed={seed}", *both]))
    found = {
        "none": calibrated(said["none"], data),
        "weights": calibrated(said["balanced"], data),
        "weights, as they are": odds_times(said["balanced"]["test"], odds),
        "sampling": calibrated(said["balanced_sampling"], data),
    }
    return found, float(np.mean(labels == 1))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ratio", type=int, default=20, help="training images of the first class to one of the second")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each fold, each way")
    parser.add_argument("--images", type=int, default=1200, help="how many are drawn, before the cut")
    parser.add_argument("--data", type=Path, help="a folder of images, with two subfolders, instead")
    parser.add_argument("--weights", type=Path, help="the backbone's weights (default: seeded random ones)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="other settings, such as the size")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    overrides = [f"data.images={arguments.images}", "data.unlabelled=0"]
    if arguments.data:
        overrides = ["data=folder", f"data.path='{arguments.data.resolve()}'"]
    overrides += [*weights_from(arguments.weights), *arguments.set]
    losses: dict[Point, list[np.ndarray]] = {point: [] for point in POINTS}
    hits: dict[Point, list[np.ndarray]] = {point: [] for point in POINTS}
    with tempfile.TemporaryDirectory() as temporary:
        prepare(Path(temporary), *overrides)
        os.chdir(temporary)
        stored = load_dataset(PROCESSED)
        parts = [choose_images(stored, fold, FOLDS, 1) for fold in range(FOLDS)]
        for seed in range(1, arguments.seeds + 1):
            row: dict[Point, list[tuple[np.ndarray, np.ndarray]]] = {point: [] for point in POINTS}
            for fold, part in enumerate(parts):
                data, actual = cut(part, arguments.ratio, seed), part.labels("test")
                said, share = all_ways(data, overrides, seed * FOLDS + fold)
                for way, threshold in POINTS:
                    above = said[way][:, 1] > (share if threshold == "balanced_accuracy" else 0.5)
                    row[way, threshold].append((log_losses(actual, said[way]), above == actual))
                print(f"seed {seed}, fold {fold}: {len(data.rows['train'])} training images", flush=True)
            for point in POINTS:
                for kept, values in zip((losses, hits), zip(*row[point], strict=True), strict=True):
                    kept[point].append(np.concatenate(values))
        labels = np.concatenate([part.labels("test") for part in parts])
        folds = np.concatenate([np.full(len(part.labels("test")), fold) for fold, part in enumerate(parts)])
        os.chdir("/")
    show(losses, hits, labels, folds, arguments.ratio)


def show(
    losses: Mapping[Point, list[np.ndarray]],
    hits: Mapping[Point, list[np.ndarray]],
    labels: np.ndarray,
    folds: np.ndarray,
    ratio: int,
) -> None:
    """Print each point's figures, and the differences of those COMPARED with their intervals, over images and luck."""
    console, counts = Console(width=120), np.bincount(labels)
    balance = len(labels) / 2 / counts[labels]  # so that a mean over images is one of both classes
    prior = np.array([ratio, 1])[labels] / (ratio + 1) * len(labels) / counts[labels]  # and one over a set of 1:ratio
    table = Table("classes in training", "threshold", "balanced accuracy", "recall of the small class", "log loss")
    for point in POINTS:
        loss, hit = np.mean(losses[point], axis=0), np.mean(hits[point], axis=0)
        figures = np.mean(hit * balance), np.mean(hit[labels == 1]), np.mean(loss * prior)
        table.add_row(WAYS[point[0]], point[1], *(f"{figure:.4f}" for figure in figures))
    console.print(table)
    table = Table("", "balanced accuracy, 95% CI", "log loss, 95% CI")
    for new, old in ((POINTS[first], POINTS[second]) for first, second in COMPARED):
        cells = []
        for values, weights in ((hits, balance), (losses, prior)):
            found = mean_difference((np.array(values[new], float) - np.array(values[old], float)) * weights, folds)
            cells.append(f"{found.mean:+.4f}, {found.low:+.4f} to {found.high:+.4f}")
        table.add_row(f"{', '.join(new)} - {', '.join(old)}", *cells)
    console.print(table)


if __name__ == "__main__":
    main()
