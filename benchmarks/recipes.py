"""experiment=best against the tutorial's recipe, experiment=tutorial: which has the lower log loss on the test set?

    python benchmarks/recipes.py [--seeds 10] [--data FOLDER | --images 600] [--weights FILE.h5]

Both recipes train on the same images and split, with each seed anew. Of each training the phase with the lower
validation loss counts, and its log loss on the test set is compared image by image.
"""

import argparse
import gc
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measuring import prepare, weights_from
from rich.console import Console
from rich.table import Table

from frostline.config.load import compose_conf
from frostline.config.paths import BACKBONE_WEIGHTS, PROCESSED
from frostline.config.settings import Config
from frostline.data.dataset import Dataset, load_dataset
from frostline.metrics.log_loss import log_losses
from frostline.runtime.quiet_tensorflow import keras
from frostline.training import phases
from frostline.training.loop import kept_epoch

RECIPES = ("tutorial", "best")
RESAMPLES = 10_000


@dataclass(frozen=True)
class Trained:
    """What one training leaves for the comparison: of the phase with the lower validation loss, on the test set."""

    phase: str
    losses: np.ndarray
    """Log loss of each image, (N,)."""
    accuracy: float


def train(data: Dataset, config: Config) -> Trained:
    """Train both phases of `config`; return the better one by validation."""
    keras.utils.clear_session()
    gc.collect()
    model = phases.build_classifier(data, BACKBONE_WEIGHTS, config)
    history = phases.transfer(model, data, config)
    losses = {"transfer": kept_epoch(history, config.transfer.patience)["validation/loss"]}
    answers = {"transfer": phases.predict(model, data, "test", config)}
    history = phases.finetune(model, data, config)
    losses["finetune"] = kept_epoch(history, config.finetune.patience)["validation/loss"]
    answers["finetune"] = phases.predict(model, data, "test", config)
    phase = min(losses, key=losses.__getitem__)
    labels = data.labels("test")
    hits = answers[phase].argmax(axis=1) == labels
    return Trained(phase, log_losses(labels, answers[phase]), float(hits.mean()))


def interval(differences: np.ndarray) -> tuple[float, float]:
    """95% percentile interval of the mean of `differences` (seeds, images), both of which are resampled.

    Efron & Tibshirani 1993, "An Introduction to the Bootstrap", ch. 13, over two crossed factors.
    """
    rng, (seeds, images) = np.random.default_rng(0), differences.shape
    means = [
        differences[rng.integers(seeds, size=(seeds, 1)), rng.integers(images, size=(images,))].mean()
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="trainings of each recipe")
    parser.add_argument("--images", type=int, default=600, help="how many are drawn")
    parser.add_argument("--data", type=Path, help="a folder of images, one subfolder per class, instead")
    parser.add_argument("--weights", type=Path, help="the backbone's weights (default: seeded random ones)")
    return parser.parse_args()


def main() -> None:
    arguments, console = parse_arguments(), Console(width=110)
    overrides = [f"data.images={arguments.images}", "data.unlabelled=0"]
    if arguments.data:
        overrides = ["data=folder", f"data.path='{arguments.data.resolve()}'"]
    overrides += weights_from(arguments.weights)
    with tempfile.TemporaryDirectory() as temporary:
        project = Path(temporary)
        prepare(project, *overrides)
        os.chdir(project)
        data = load_dataset(PROCESSED)
        table = Table(
            "seed", *(f"{recipe}: {what}" for recipe in RECIPES for what in ("phase", "log loss", "accuracy"))
        )
        found: dict[str, list[Trained]] = {recipe: [] for recipe in RECIPES}
        for seed in range(1, arguments.seeds + 1):
            row = [str(seed)]
            for recipe in RECIPES:
                trained = train(data, compose_conf([*overrides, f"experiment={recipe}", f"seed={seed}"]))
                found[recipe].append(trained)
                row += [trained.phase, f"{trained.losses.mean():.3g}", f"{trained.accuracy:.3f}"]
            table.add_row(*row)
        os.chdir("/")
    before, after = (np.stack([trained.losses for trained in found[recipe]]) for recipe in RECIPES)
    low, high = interval(after - before)
    console.print(table)
    console.print(
        f"Log loss on {before.shape[1]} test images, mean of {arguments.seeds} seeds: tutorial {before.mean():.3g}, "
        f"best {after.mean():.3g}; difference {(after - before).mean():.3g}, 95% CI {low:.3g} to {high:.3g}."
    )


if __name__ == "__main__":
    main()
