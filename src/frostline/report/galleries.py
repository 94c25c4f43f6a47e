"""The images that the report shows: top losses, smallest margins, changed predictions, label issues; with Grad-CAM."""

from collections.abc import Mapping, Sequence

import numpy as np

from frostline.data.dataset import Dataset
from frostline.explain.grad_cam import checked_grad_cam
from frostline.fonts.lettering import isolated
from frostline.metrics.bootstrap import Pair, by_phase
from frostline.metrics.choice import Choice
from frostline.metrics.classification import smallest_margins, top_losses
from frostline.metrics.comparison import changed_predictions
from frostline.metrics.label_issues import find_label_issues
from frostline.metrics.predicted import predicted_classes
from frostline.report.page import Gallery, Heat, ShownImage
from frostline.runtime.quiet_tensorflow import keras

_ARROW = "\u00a0→\u00a0"  # no line break beside it


def prediction_galleries(
    data: Dataset, models: Mapping[str, keras.Model], pair: Pair, choice: Choice, most: int
) -> dict[str, Gallery]:
    """Test images to look at, of four kinds, each with the Grad-CAM map of the class that each phase predicts.

    They are "top_losses" (predicted wrong) and "smallest_margins" (predicted right) of the chosen model in use, and
    "set_right" and "got_wrong", the predictions that fine-tuning changes, the largest change first. What the model in
    use says stands below what the phases say, where that is something else.

    Args:
        data: the prepared images.
        models: by phase.
        pair: both phases' probabilities for the test images.
        choice: which phase is in use, and how.
        most: images shown of each kind, at most.
    """
    labels, names, threshold = pair.labels, data.names("test"), choice.threshold
    calibrated, in_use = choice.calibrated(pair), choice.in_use(pair)
    classes = [isolated(name) for name in data.classes]
    set_right, got_wrong = changed_predictions(calibrated, threshold)
    rows = {
        "top_losses": top_losses(labels, in_use, threshold),
        "smallest_margins": smallest_margins(labels, in_use, threshold),
        "set_right": set_right,
        "got_wrong": got_wrong,
    }
    shown = np.unique(np.concatenate([found[:most] for found in rows.values()]))  # an image may be of several kinds
    predicted = {
        phase: predicted_classes(probabilities[shown], threshold)
        for phase, probabilities in by_phase(calibrated).items()
    }
    told = (
        dict.fromkeys(predicted, np.ones_like(shown)) if len(classes) == 2 else predicted
    )  # whose probability is told
    facts = []
    for place, row in enumerate(shown):
        first, second = (numbers[place] for numbers in told.values())
        before, after = f"{pair.baseline[row, first]:.3f}", f"{pair.candidate[row, second]:.3f}"
        changed = f"P({classes[second]}) " if second != first else ""
        facts.append([f"is {classes[labels[row]]}", f"P({classes[first]}) {before}{_ARROW}{changed}{after}"])
        if choice.temperature != 1:
            used = told[choice.phase][place]
            facts[-1].append(f"in use: P({classes[used]}) {in_use[row, used]:.3f}")
    images = _images([names[row] for row in shown], facts, data.images("test")[shown], models, predicted, classes)
    by_row = dict(zip(shown, images, strict=True))
    return {name: Gallery(len(found), [by_row[row] for row in found[:most]]) for name, found in rows.items()}


def label_issues_gallery(
    data: Dataset, models: Mapping[str, keras.Model], probabilities: Mapping[str, np.ndarray], most: int
) -> Gallery:
    """Images whose label is probably wrong (`find_label_issues`), the worst first.

    Grad-CAM's maps are of the class that each image probably is.

    Args:
        data: the prepared images.
        models: by phase.
        probabilities: by split, (N, classes), of a model that was not trained on it.
        most: images shown, at most.
    """
    splits = list(probabilities)
    labels = np.concatenate([data.labels(split) for split in splits])
    classes = [isolated(name) for name in data.classes]
    found, probable = find_label_issues(labels, np.concatenate([probabilities[split] for split in splits]))
    origin = [(split, row) for split in splits for row in range(len(data.names(split)))]
    chosen, probable = [origin[row] for row in found[:most]], probable[:most]
    facts = [
        [
            f"labelled {classes[label]} ({split})",
            f"P({classes[other]}) {probabilities[split][row, other]:.3f}",
        ]
        for label, other, (split, row) in zip(labels[found[:most]], probable, chosen, strict=True)
    ]
    shape = (-1, *data.images(splits[0]).shape[1:])
    pixels = np.array([data.images(split)[row] for split, row in chosen], np.uint8).reshape(shape)
    names = [data.names(split)[row] for split, row in chosen]
    explained = dict.fromkeys(models, probable)
    return Gallery(len(found), _images(names, facts, pixels, models, explained, classes))


def _images(
    names: Sequence[str],
    facts: Sequence[Sequence[str]],
    pixels: np.ndarray,
    models: Mapping[str, keras.Model],
    explained: Mapping[str, np.ndarray],
    classes: Sequence[str],
) -> list[ShownImage]:
    heats = {phase: checked_grad_cam(model, pixels, explained[phase]) for phase, model in models.items()}
    return [
        ShownImage(
            name,
            facts[row],
            pixels[row],
            {phase: Heat(maps[row], classes[explained[phase][row]]) for phase, maps in heats.items()},
        )
        for row, name in enumerate(names)
    ]
