"""Do the intervals of studies hold what they promise? Measured on studies whose truth is known.

    python benchmarks/study_intervals.py [--studies 1000] [--json FILE]

Every study is drawn by seeded chance. "Differences" are drawn as they are: images with a heavy or a long tail, the luck
of each training, noise. "Networks" have a log loss by image: fine-tuning sharpens the margins of a transfer model, and
luck changes the scale and the offset of a training's margins. "Classifiers" are trained, on random features of drawn
images, so that folds share training images as in real cross-validation; "real" ones are scikit-learn's data sets.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.optimize import brentq
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from frostline.common.files import write_json
from frostline.common.seeds import generator
from frostline.metrics.bootstrap import Pair, bootstrap_intervals
from frostline.metrics.log_loss import log_losses
from frostline.studies.cross_validation import mean_difference, shallowest_enough, within_chance
from frostline.studies.learning_curve import fit_learning_curve

FOLDS = 5
TEST = 0.15  # of the images: the single split that a study is compared with
RESAMPLES = 1000
COUNTS, SEEDS = (90, 300, 600), (1, 3)
LOOKS = (1, 10, 50)
LUCK = {"none": 0.0, "some": 0.1, "strong": 0.3}
POINTS = 12
TIMES = (2, 4)  # how far beyond the largest size a forecast goes
SPLITS = 20  # of each real data set
FEATURES = 12  # of a drawn image

Rng = np.random.Generator
Study = tuple[np.ndarray, np.ndarray]  # differences (S, N), folds (N,)
Row = dict[str, str | float]


def mean(values: Any) -> float:
    return float(np.mean(values))


def folds_of(images: int) -> np.ndarray:
    return np.arange(images) % FOLDS


def differences(rng: Rng, images: int, seeds: int, tail: str, luck: float) -> Study:
    """Differences with a mean of 0; an image's own has a variance of 1, its noise in one training of 0.25."""
    folds = folds_of(images)
    if tail == "heavy":
        own = rng.standard_t(3, images) / 3**0.5
    else:  # a long tail: a few images that fine-tuning gets very wrong
        own = (rng.lognormal(0, 1, images) - np.exp(0.5)) / ((np.e - 1) * np.e) ** 0.5
    lucks = luck * rng.normal(size=(seeds, FOLDS))[:, folds]
    return own + lucks + 0.5 * rng.normal(size=(seeds, images)), folds


def network(rng: Rng, margins: np.ndarray, folds: np.ndarray, seeds: int, luck: float = 0.07) -> np.ndarray:
    """Log losses, (S, N), of networks whose expected margins are `margins` (N,), one network per seed and fold.

    The `luck` of one training moves its mean loss, about 0.34, by 0.014 (standard deviation).
    """
    shape = (seeds, int(folds.max()) + 1)
    scale, offset = 1 + luck * rng.normal(size=shape), luck * rng.normal(size=shape)
    drawn = margins * scale[:, folds] + offset[:, folds] + 0.3 * rng.normal(size=(seeds, len(margins)))
    losses: np.ndarray = np.logaddexp(0, -drawn)
    return losses


def margins(rng: Rng, images: int, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """Of the transfer and the fine-tuned model, which is sharper, and by `gain` better, but not for all images."""
    before = 2 + 1.5 * rng.standard_t(5, images)
    return before, 1.4 * before + gain + 0.8 * rng.normal(size=images)


def networks(rng: Rng, images: int, seeds: int, gain: float) -> Study:
    folds, (before, after) = folds_of(images), margins(rng, images, gain)
    return network(rng, after, folds, seeds) - network(rng, before, folds, seeds), folds


@cache
def gain_for(difference: float) -> float:
    """The gain at which fine-tuned networks have a loss that is lower by `difference`, in expectation."""

    def off(gain: float) -> float:
        rng = generator(0, "truth")
        (before, after), folds = margins(rng, 400_000, gain), np.arange(400_000)  # a network for each image
        return float((network(rng, after, folds, 1) - network(rng, before, folds, 1)).mean()) + difference

    return float(brentq(off, -3, 6, xtol=1e-4))


def draw_images(rng: Rng, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Drawn images' features, `shape` + (FEATURES,), and their classes."""
    x = rng.standard_t(5, size=(*shape, FEATURES))
    score = x @ np.linspace(1.2, 0, FEATURES) + 0.6 * x[..., 0] * x[..., 1]
    return x, (rng.random(shape) < 1 / (1 + np.exp(-score))).astype(float)


def classifier(rng: Rng, train: Study, test: Study, width: int, penalty: float) -> np.ndarray:
    """Losses on `test` of logistic regressions on random features, the luck of each: any leading axes, one each."""
    (x, y), (x_test, y_test) = train, test
    hidden = rng.normal(size=(*x.shape[:-2], FEATURES, width)) / FEATURES**0.5

    def seen(images: np.ndarray) -> np.ndarray:
        ones = np.ones((*images.shape[:-1], 1))
        return np.concatenate([images, ones, np.maximum(images @ hidden, 0)], axis=-1)

    inputs = seen(x)
    weights = np.zeros((*x.shape[:-2], inputs.shape[-1], 1))
    turned = np.swapaxes(inputs, -1, -2)
    for _ in range(7):  # Newton's steps
        p = 1 / (1 + np.exp(-np.clip(inputs @ weights, -30, 30)))
        gradient = turned @ (p - y[..., None]) + penalty * weights
        curvature = turned @ (inputs * (p * (1 - p) + 1e-6)) + penalty * np.eye(inputs.shape[-1])
        weights -= np.linalg.solve(curvature, gradient)
    scores = (seen(x_test) @ weights)[..., 0]
    losses: np.ndarray = np.logaddexp(0, np.where(y_test == 1, -scores, scores))
    return losses


NARROW, WIDE = (6, 3.0), (16, 8.0)


def classifiers(rng: Rng, images: int, seeds: int) -> Study:
    """A wide classifier beside a narrow one, both trained on the other folds' images."""
    x, y = draw_images(rng, (images,))
    folds = folds_of(images)
    inside = np.stack([np.flatnonzero(folds == fold) for fold in range(FOLDS)])
    outside = np.stack([np.flatnonzero(folds != fold) for fold in range(FOLDS)])
    train, test = (
        (np.broadcast_to(x[rows], (seeds, *rows.shape, FEATURES)), np.broadcast_to(y[rows], (seeds, *rows.shape)))
        for rows in (outside, inside)
    )
    found = np.empty((seeds, images))
    wide, narrow = (classifier(rng, train, test, *kind) for kind in (WIDE, NARROW))
    found[:, inside] = wide - narrow
    return found, folds


def true_difference(images: int, repeats: int = 1500) -> float:
    """Of `classifiers`, over new training sets, trainings and test images."""
    rng, found = generator(0, "classifiers", images), []
    for _ in range(repeats // 25):
        train, test = draw_images(rng, (25, images - images // FOLDS)), draw_images(rng, (25, 1000))
        found.append(np.mean(classifier(rng, train, test, *WIDE) - classifier(rng, train, test, *NARROW)))
    return float(np.mean(found))


def coverage(studies: int) -> list[Row]:
    """How often the interval holds the true difference, and misses it on either side."""
    rows: list[Row] = []
    gain = gain_for(0)
    scenarios: list[tuple[str, Callable[..., Study], Sequence[int]]] = [
        (f"differences, {tail} tail, luck {name}", partial(differences, tail=tail, luck=luck), COUNTS)
        for tail in ("heavy", "long")
        for name, luck in LUCK.items()
    ]
    scenarios += [("networks", partial(networks, gain=gain), COUNTS), ("classifiers", classifiers, (100, 300))]
    for name, study, counts in scenarios:
        for images in counts:
            truth = true_difference(images) if study is classifiers else 0.0
            few = studies // 3 if study is classifiers else studies
            for seeds in SEEDS:
                rng = generator(1, name, images, seeds)
                found = [mean_difference(*study(rng, images, seeds)) for _ in range(few)]
                below, above = mean([e.high < truth for e in found]), mean([truth < e.low for e in found])
                row: Row = {"scenario": name, "images": images, "seeds": seeds, "studies": few}
                row |= {"coverage": 1 - below - above, "too low": below, "too high": above}
                rows.append(row | {"width": mean([e.high - e.low for e in found])})
    return rows


def split_says(rng: Rng, before: np.ndarray, after: np.ndarray) -> bool:
    """Whether the paired bootstrap on one test set says that fine-tuning was worth it, of losses (N,)."""
    actual = [np.exp(-losses) for losses in (before, after)]
    pair = Pair(np.ones(len(before), int), *(np.stack([1 - p, p], axis=1) for p in actual))
    seed = int(rng.integers(2**31))
    found = bootstrap_intervals(pair, ("log_loss",), ("difference",), threshold=0.5, resamples=RESAMPLES, seed=seed)
    return found["difference"]["log_loss"].high < 0


def power(studies: int) -> list[Row]:
    """How often "worth it" is said, by studies and by a single split, without a difference and with one."""
    rows: list[Row] = []
    for difference in (0.0, 0.03, 0.06):
        gain = gain_for(difference)
        for images in COUNTS:
            rng, tested = generator(2, str(difference), images), round(TEST * images)
            row: Row = {"difference": 0.0 - difference, "images": images}
            one = np.zeros(tested, int)  # one training judges all test images
            said = []
            for _ in range(studies):
                before, after = (network(rng, each, one, 1)[0] for each in margins(rng, tested, gain))
                said.append(split_says(rng, before, after))
            row["one split"] = mean(said)
            for seeds in SEEDS:
                found = [mean_difference(*networks(rng, images, seeds, gain)).high < 0 for _ in range(studies)]
                row[f"study, S = {seeds}"] = mean(found)
            rows.append(row)
    return rows


def looks(studies: int) -> list[Row]:
    """How often at least one of k candidates, none truly better, is said to be worth it on the same test set."""
    rows: list[Row] = []
    gain = gain_for(0)
    for tested in (45, 90):
        rng, said = generator(3, tested), np.zeros((studies, max(LOOKS)), bool)
        for study in range(studies):
            first, sharper = margins(rng, tested, gain)
            one = np.zeros(tested, int)
            before = network(rng, first, one, 1)[0]
            for look in range(max(LOOKS)):  # each is fine-tuned anew: its own luck, the same hard images
                said[study, look] = split_says(rng, before, network(rng, sharper, one, 1)[0])
        row: Row = {"test images": tested, "studies": studies}
        rows.append(row | {f"{k} looks": mean(said[:, :k].any(axis=1)) for k in LOOKS})
    return rows


def ranking(studies: int) -> list[Row]:
    """Whether the truly best of 12 points stays within chance, how many others do, and which the depth rule takes."""
    rows: list[Row] = []
    steps = {"all equal": np.zeros(POINTS), "steps of 0.02": 0.02 * np.arange(POINTS)[::-1]}
    steps["falls, then flat from the 4th"] = np.maximum(0, 3 - np.arange(POINTS)) * 0.05
    for name, truths in steps.items():
        for seeds in SEEDS:
            rng, kept, size, rule, lowest = generator(4, name, seeds), [], [], [], []
            for _ in range(studies):
                folds = folds_of(300)
                hard = rng.lognormal(-2, 1.5, 300)
                luck = 0.03 * rng.normal(size=(POINTS, seeds, FOLDS))[:, :, folds]
                own = 0.15 * rng.standard_t(4, size=(POINTS, 1, 300)) + 0.1 * rng.normal(size=luck.shape)
                losses = hard + truths[:, None, None] + luck + own
                found = within_chance(losses, folds)
                kept.append(found.within[np.flatnonzero(truths == np.min(truths))[0]])
                size.append(found.within.sum())
                rule.append(shallowest_enough(losses, folds))
                lowest.append(found.best)
            row: Row = {"truth": name, "seeds": seeds, "studies": studies, "best kept": mean(kept)}
            row |= {"within": mean(size), "1 SE takes": mean(rule), "at a cost of": mean(truths[rule])}
            rows.append(row | {"lowest is": mean(lowest), "costs": mean(truths[lowest])})
    return rows


def drawn_curves(studies: int) -> list[Row]:
    """Coverage of 80% forecasts where the truth is a power law."""
    rows: list[Row] = []
    for sizes in ((100, 200, 400), (100, 200, 400, 800), (60, 120, 240, 480, 960)):
        for noise in (0.03, 0.1):
            rng, judged = generator(5, len(sizes), str(noise)), nothing_yet(TIMES)
            for _ in range(studies):
                a, c, drop = rng.uniform(0, 0.2), rng.uniform(0.2, 1.2), rng.uniform(0.02, 0.4)
                b = drop / (sizes[0] ** -c - sizes[-1] ** -c)
                level = a + b * np.array(sizes, float) ** -c
                hard = 0.05 * rng.normal(size=FOLDS)  # of each fold's images
                runs = level[:, None] * (1 + noise * rng.normal(size=(len(sizes), FOLDS))) + hard
                curve = fit_learning_curve(np.array(sizes), runs)
                for times, found in judged.items():
                    found.append((a + b * (times * sizes[-1]) ** -c, *curve.forecast(times * sizes[-1])))
            for times, found in judged.items():
                row: Row = {"curve": f"power law, noise {noise:.0%}", "sizes": len(sizes), "forecast": f"{times} x"}
                rows.append(row | summed(found))
    return rows


REAL = {
    "digits": (load_digits, (40, 80, 160, 320), (640, 1280)),
    "breast cancer": (load_breast_cancer, (15, 30, 60, 120), (240, 480)),
    "wine": (load_wine, (15, 30, 60), (120,)),
}
"""Data sets, the sizes that a curve is fitted to, and those that it is to forecast."""


def real_curves(splits: int) -> list[Row]:
    """Coverage of 80% forecasts for logistic regression on real data: the truth is the mean over all splits."""
    rows: list[Row] = []
    for name, (load, sizes, ahead) in REAL.items():
        x, y = load(return_X_y=True)
        rng = generator(6, name)
        truth = {n: mean([learn(x, y, *halves(rng, len(y), n)) for _ in range(splits)]) for n in ahead}
        judged = nothing_yet(ahead)
        for _ in range(splits):
            labelled = rng.permutation(len(y))[: sizes[-1] * FOLDS // (FOLDS - 1)]
            folds, runs = folds_of(len(labelled)), np.empty((len(sizes), FOLDS))
            for fold in range(FOLDS):
                outside = labelled[folds != fold]
                runs[:, fold] = [learn(x, y, outside[:n], labelled[folds == fold]) for n in sizes]
            curve = fit_learning_curve(np.array(sizes), runs)
            for n, found in judged.items():
                found.append((truth[n], *curve.forecast(n)))
        for n, found in judged.items():
            row: Row = {"curve": name, "sizes": len(sizes), "forecast": f"{n / sizes[-1]:.0f} x"}
            rows.append(row | summed(found))
    return rows


def halves(rng: Rng, images: int, train: int) -> tuple[np.ndarray, np.ndarray]:
    order = rng.permutation(images)
    return order[:train], order[train:]


def learn(x: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    """Log loss on the rows `test` of logistic regression that was trained on the rows `train`."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(x[train], y[train])
    probabilities = np.zeros((len(test), y.max() + 1))
    probabilities[:, model.classes_] = model.predict_proba(x[test])
    return float(log_losses(y[test], probabilities).mean())


def nothing_yet(ahead: Sequence[int]) -> dict[int, list[tuple[float, ...]]]:
    return {n: [] for n in ahead}


def summed(judged: Sequence[tuple[float, ...]]) -> Row:
    """Of (truth, median, low, high): coverage, the sides missed, and the size of interval and error."""
    truth, median, low, high = np.array(judged).T
    return {
        "studies": len(truth),
        "coverage": mean((low <= truth) & (truth <= high)),
        "too low": mean(high < truth),
        "too high": mean(truth < low),
        "true loss": mean(truth),
        "width": mean(high - low),
        "error": mean(np.abs(median - truth)),
    }


def parts(studies: int) -> Iterator[tuple[str, str, list[Row]]]:
    """Measure one part after the other: its name in the file, its title and its rows."""
    few = max(1, studies // 4)
    yield "coverage", "95% intervals of a difference: coverage (93% to 97% is the aim)", coverage(studies)
    yield "power", '"Worth it" said, at a true difference in log loss', power(few * 2)
    yield "looks", '"Worth it" said at least once, no candidate being better', looks(few)
    yield "ranking", f"{POINTS} points, 300 images", ranking(few)
    yield "drawn_curves", "80% forecasts of power laws (70% to 90% is the aim)", drawn_curves(few)
    yield "real_curves", "80% forecasts of real learning curves", real_curves(min(SPLITS, studies))


def shown(title: str, rows: Sequence[Row]) -> Table:
    table = Table(*rows[0], title=title, title_justify="left")
    for row in rows:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000, help="of each scenario (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    arguments, console = parser.parse_args(), Console(width=130)
    warnings.simplefilter("ignore", ConvergenceWarning)
    kept = {}
    for name, title, rows in parts(arguments.studies):
        kept[name] = [{k: round(float(v), 5) if isinstance(v, float) else v for k, v in row.items()} for row in rows]
        console.print(shown(title, rows))
    console.print(f"{time.process_time():.0f} s of CPU time")
    if arguments.json:
        write_json(arguments.json, kept)


if __name__ == "__main__":
    main()
