"""Made-up results of both phases for tests: probabilities, epochs, predictions.csv and whole reports."""

import dataclasses

import numpy as np
from scipy.special import softmax

from frostline.common.files import write_csv
from frostline.config.load import compose_conf
from frostline.evaluation.predictions import IN_USE, prediction_column
from frostline.metrics.bootstrap import Pair, by_phase
from frostline.metrics.calibration import Views, calibration_effects
from frostline.metrics.choice import Choice
from frostline.metrics.classification import smallest_margins, top_losses
from frostline.metrics.comparison import changed_predictions, evaluate
from frostline.report import charts
from frostline.report.page import Gallery, Heat, Report, ShownImage, write_report
from tracked import tracked_conf

CONF = tracked_conf()


def of(second):
    """Both classes' probabilities, (N, 2), by the second one's."""
    second = np.asarray(second, np.float64)
    return np.stack([1 - second, second], axis=1)


def predictions(count, seed=0):
    """Both phases on images of two classes; fine-tuning knows more."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count).astype(np.uint8)
    score = 4.0 * labels - 2
    transfer, finetune = (of(1 / (1 + np.exp(-(score + rng.normal(0, noise, count))))) for noise in (3, 2))
    return Pair(labels, transfer, finetune)


def predictions_of_many(count, classes, seed=0):
    """As `predictions`, of so many classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count).astype(np.uint8)
    scores = 3 * np.eye(classes)[labels]
    transfer, finetune = (softmax(scores + rng.normal(0, noise, scores.shape), axis=1) for noise in (2, 1.3))
    return Pair(labels, transfer, finetune)


def chosen(phase="finetune", temperature=1.0, threshold=0.5):
    """`phase`, chosen on validation images; both phases have the same temperature."""
    losses = {"transfer": 0.2, "finetune": 0.1 if phase == "finetune" else 0.3}
    return Choice(losses, dict.fromkeys(losses, temperature), threshold)


def judged(pair, choice=None, shares=None, seed=42, **how):
    """The evaluation of `pair`; fine-tuning was chosen, and training images were of all classes alike, if not said."""
    classes = pair.baseline.shape[1]
    shares = np.full(classes, 1 / classes) if shares is None else np.asarray(shares)
    return evaluate(pair, choice or chosen(), shares, **{"bins": 15, "resamples": 200, "seed": seed, **how})


def epochs(count):
    """As csv.DictReader reads reports/curves/*.csv: text."""
    keys = ("train/loss", "train/accuracy", "validation/loss", "validation/accuracy")
    return [{"epoch": str(n), **dict.fromkeys(keys, str(0.5 / n))} for n in range(1, count + 1)]


def noisy(count, noise, seed=0):
    """Labels of two classes, and probabilities that know them up to `noise`."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    return labels, of(1 / (1 + np.exp(-(4 * labels - 2 + rng.normal(0, noise, count)))))


def noisy_of_many(count, classes, noise, seed=0):
    """As `noisy`, of so many classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    return labels, softmax(3 * np.eye(classes)[labels] + rng.normal(0, noise, (count, classes)), axis=1)


def write_answers(path, labels, probabilities, names=None):
    """predictions.csv of the model in use."""
    classes = [f"c{number}" for number in range(probabilities.shape[1])]
    scored = [1] if len(classes) == 2 else range(len(classes))
    columns = {prediction_column(IN_USE, classes[n], len(classes)): probabilities[:, n] for n in scored}
    rows = [
        {"path": names[row] if names else f"{row}.jpg", "class": classes[label]}
        | {name: f"{values[row]:.6f}" for name, values in columns.items()}
        for row, label in enumerate(labels)
    ]
    write_csv(path, tuple(rows[0]), rows)
    return path


def report_settings(weights, patience="null", smoothing="0", mixup="0", more=()):
    given = [*more, "data=folder", *(f"data.{key}=/home/someone/images" for key in ("path", "depends_on"))]
    given += [f"weights={weights}", f"finetune.patience={patience}", f"finetune.label_smoothing={smoothing}"]
    given += [f"finetune.mixup={mixup}"]
    composed = compose_conf(given, CONF)
    tracking = dataclasses.replace(composed.tracking, uri="postgresql://user:secret@host/db")
    return dataclasses.replace(composed, name="run <1>", tracking=tracking)


def write_example_report(
    folder,
    classes=("cat", "dog"),
    weights="random",
    pair=None,
    patience="null",
    smoothing="0",
    mixup="0",
    across=0,
    choice=None,
    shares=None,
    unlabelled=7,
    found=None,
    given=(),
):
    pair, choice = pair or predictions(86), choice or chosen()
    evaluation, labels = judged(pair, choice, shares), pair.labels
    curves = {"transfer": epochs(2), "finetune": epochs(2)}
    drawn = charts.write_figures(folder, pair, curves=curves, choice=choice, bins=15, classes=classes)
    in_use = choice.in_use(pair)

    def gallery(rows):
        pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        heat = {phase: Heat(np.eye(4)[::-1], classes[1]) for phase in curves}
        shown = [
            ShownImage(f"{classes[labels[r]]}.{r}.jpg", [f"is {classes[labels[r]]}"], pixels, heat) for r in rows[:3]
        ]
        return Gallery(len(rows), shown)

    better, worse = changed_predictions(choice.calibrated(pair), choice.threshold)
    views = Views(labels, by_phase(pair)[choice.phase])
    submission = {"flip": False, "temperature": True, "clip": True}
    counts = dict(zip(classes, np.bincount(labels, minlength=len(classes)).tolist(), strict=True))
    train = dict.fromkeys(classes, 1234)
    if shares is not None:
        train = {name: round(1234 * share) for name, share in zip(classes, shares, strict=True)}
    write_report(
        folder / "report.html",
        Report(
            settings=report_settings(weights, patience, smoothing, mixup, given),
            data={
                "classes": list(classes),
                "counts": {"test": counts, "train": train, "validation": dict.fromkeys(classes, 1234)},
                "unlabelled": unlabelled,
                "rejected": {"empty file": 1, "not a <image>": 3},
                "duplicates": {"groups": 1, "images": 2} | ({"groups_across_splits": across} if across else {}),
                "ignored": 0,
                "digest": "d" * 64,
            },
            curves=curves,
            pairs={"validation": pair, "test": pair},
            evaluation=evaluation,
            effects=calibration_effects(
                views, views, submission=submission, threshold=0.5, bins=15, resamples=200, seed=42
            ),
            figures={name: path.with_suffix(".svg") for name, path in drawn.items()},
            galleries={
                "top_losses": gallery(top_losses(labels, in_use, 0.5)),
                "smallest_margins": gallery(smallest_margins(labels, in_use, 0.5)),
                "set_right": gallery(better),
                "got_wrong": gallery(worse),
                "label_issues": gallery(worse[:1]),
            },
            digests={"Backbone's weights": "e" * 64, "Transfer model": "a" * 64, "Fine-tuned model": "b" * 64},
            found=found or {},
        ),
    )
    return (folder / "report.html").read_text(encoding="utf-8")
