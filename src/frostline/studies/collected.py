"""What a study's trainings found, as arrays: each image judged, under each seed, by models that never saw it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np
import pandas as pd

from frostline.common.phase_names import PHASES, PhaseName
from frostline.metrics.choice import chosen_phase
from frostline.metrics.log_loss import log_losses
from frostline.runtime.errors import FrostlineError
from frostline.studies.tables import classes_of, labels_of, probabilities_of


@dataclass(frozen=True)
class Training:
    """One trial of a study: both phases, trained on all folds but two."""

    values: Mapping[str, str]
    """The swept settings, but for fold and seed."""
    seed: int
    fold: int
    train_images: int
    validation: Mapping[str, float]
    """By phase, the validation loss of the weights that it kept."""
    said: pd.DataFrame
    """What both phases' models say of the fold's images, as `studies.tables` says."""


@dataclass(frozen=True)
class Point:
    """What a study compares: trainings of the same settings, over S seeds and all folds."""

    values: Mapping[str, str]
    """These settings; empty where the study has one point only."""
    train_images: int
    """On how many each training learned, on average."""
    losses: Mapping[PhaseName, np.ndarray]
    """By phase, the log loss of each image, (S, N) float64."""
    hits: Mapping[PhaseName, np.ndarray]
    """Likewise, whether the most probable class is the actual one, (S, N) bool."""
    validation: Mapping[str, float]
    """By phase, the mean validation loss of the trainings."""

    @property
    def label(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.values.items()) or "the recipe"

    @property
    def phase(self) -> PhaseName:
        """The phase to take, chosen on the validation images."""
        return chosen_phase(self.validation)


@dataclass(frozen=True)
class Collected:
    """All points of a study, on the same N images."""

    points: list[Point]
    images: list[str]
    """Their paths."""
    labels: np.ndarray
    """(N,) class indices."""
    classes: list[str]
    folds: np.ndarray
    """(N,) int: in which fold each image is."""
    seeds: list[int]
    shares: np.ndarray
    """(N, classes) float64: the classes' shares of the labels in the other folds, what somebody says who only knows
    these."""


def collect(trainings: Sequence[Training]) -> Collected:
    """Join the trainings of a study.

    Raises FrostlineError where there is one fold only, or where those of a point do not judge every image once under
    each seed: some did not finish.
    """
    groups: dict[tuple[str, ...], list[Training]] = {}
    for training in trainings:
        groups.setdefault(tuple(training.values.values()), []).append(training)
    first = min(groups.values(), key=lambda group: min(training.seed for training in group))
    seeds = sorted({training.seed for training in trainings})
    one = [training for training in first if training.seed == first[0].seed]
    table = pd.concat([_of_phase(training, "transfer").assign(fold=training.fold) for training in one])
    images, folds = table["image"].tolist(), table["fold"].to_numpy()
    classes, labels = classes_of(table), labels_of(table)
    if len(np.unique(folds)) < 2:
        raise FrostlineError("A study needs images in at least two folds.\nSweep over more of them: fold=0,1,2,3,4")
    points = [_point(group, images, labels, seeds) for group in groups.values()]
    # Every class was trained on: one of which the other folds that were judged have no image counts as one image.
    counts = [np.maximum(1, np.bincount(labels[folds != fold], minlength=len(classes))) for fold in folds]
    shares = np.stack([each / each.sum() for each in counts])
    return Collected(points, images, labels, classes, folds, seeds, shares)


def _of_phase(training: Training, phase: str) -> pd.DataFrame:
    return training.said[training.said["phase"] == phase]


def _point(group: Sequence[Training], images: Sequence[str], labels: np.ndarray, seeds: Sequence[int]) -> Point:
    place = {image: number for number, image in enumerate(images)}
    losses = {phase: np.full((len(seeds), len(images)), np.nan) for phase in PHASES}
    hits = {phase: np.zeros((len(seeds), len(images)), bool) for phase in PHASES}
    for training in group:
        for phase in PHASES:
            table = _of_phase(training, phase)
            probabilities = probabilities_of(table)
            columns = [place[image] for image in table["image"]]
            at = np.ix_([seeds.index(training.seed)], columns)
            losses[phase][at] = log_losses(labels[columns], probabilities)
            hits[phase][at] = probabilities.argmax(axis=1) == labels[columns]
    point = Point(
        values=group[0].values,
        train_images=round(mean(training.train_images for training in group)),
        losses=losses,
        hits=hits,
        validation={phase: mean(training.validation[phase] for training in group) for phase in PHASES},
    )
    if any(np.isnan(found).any() for found in losses.values()):
        raise FrostlineError(f"{point.label}: not every fold was trained with every seed.\nRun the study again.")
    return point


def out_of_fold(trainings: Sequence[Training]) -> pd.DataFrame:
    """Every image as every model says that never saw it: columns trial, seed, fold, and those of `Training.said`."""
    tables = []
    for training in trainings:
        trial = " ".join(f"{key}={value}" for key, value in training.values.items())
        table = training.said.copy()
        for name, value in (("fold", training.fold), ("seed", training.seed), ("trial", trial)):
            table.insert(0, name, value)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)
