"""The images that the report shows: top losses, smallest margins, changed predictions, label issues; with Grad-CAM."""

from collections.abc import Mapping, Sequence

import numpy as np

from frostline.data.dataset import Dataset
from frostline.explain.grad_cam import grad_cam
from frostline.metrics.bootstrap import Pair, by_phase
from frostline.metrics.classification import smallest_margins, top_losses
from frostline.metrics.comparison import Phase, changed_predictions
from frostline.metrics.label_issues import find_label_issues
from frostline.metrics.predicted import predicted_classes
from frostline.report.page import Gallery, Heat, ShownImage
from frostline.runtime.quiet_tensorflow import keras

_ARROW = "\u00a0→\u00a0"  # no line break beside it


def prediction_galleries(
    data: Dataset, models: Mapping[str, keras.Model], pair: Pair, winner: Phase, threshold: float, most: int
) -> dict[str, Gallery]:
    """Test images, at most `most` of each kind, by what both phases say of them.

    "top_losses" (predicted wrong) and "smallest_margins" (predicted right) of the `winner`; "set_right" and
    "got_wrong" by fine-tuning (the largest change first). The heat explains the class that each phase predicts.
    """
    labels, names, classes, both = pair.labels, data.names("test"), data.classes, by_phase(pair)
    set_right, got_wrong = changed_predictions(pair, threshold)
    rows = {
        "top_losses": top_losses(labels, both[winner], threshold),
        "smallest_margins": smallest_margins(labels, both[winner], threshold),
        "set_right": set_right,
        "got_wrong": got_wrong,
    }
    shown = np.unique(np.concatenate([found[:most] for found in rows.values()]))  # an image may be of several kinds
    predicted = {phase: predicted_classes(probabilities[shown], threshold) for phase, probabilities in both.items()}
    told = (
        dict.fromkeys(predicted, np.ones_like(shown)) if len(classes) == 2 else predicted
    )  # whose probability is told
    facts = []
    for place, row in enumerate(shown):
        first, second = (numbers[place] for numbers in told.values())
        before, after = f"{pair.baseline[row, first]:.3f}", f"{pair.candidate[row, second]:.3f}"
        changed = f"P({classes[second]}) " if second != first else ""
        facts.append([f"is {classes[labels[row]]}", f"P({classes[first]}) {before}{_ARROW}{changed}{after}"])
    images = _images([names[row] for row in shown], facts, data.images("test")[shown], models, predicted, classes)
    by_row = dict(zip(shown, images, strict=True))
    return {name: Gallery(len(found), [by_row[row] for row in found[:most]]) for name, found in rows.items()}


def label_issues_gallery(
    data: Dataset, models: Mapping[str, keras.Model], probabilities: Mapping[str, np.ndarray], most: int
) -> Gallery:
    """Images whose label `probabilities` (by split, (N, classes)) contradict, the worst first, at most `most`.

    The heat explains the class that each probably is.
    """
    splits = list(probabilities)
    labels = np.concatenate([data.labels(split) for split in splits])
    found, probable = find_label_issues(labels, np.concatenate([probabilities[split] for split in splits]))
    origin = [(split, row) for split in splits for row in range(len(data.names(split)))]
    chosen, probable = [origin[row] for row in found[:most]], probable[:most]
    facts = [
        [
            f"labelled {data.classes[label]} ({split})",
            f"P({data.classes[other]}) {probabilities[split][row, other]:.3f}",
        ]
        for label, other, (split, row) in zip(labels[found[:most]], probable, chosen, strict=True)
    ]
    shape = (-1, *data.images(splits[0]).shape[1:])
    pixels = np.array([data.images(split)[row] for split, row in chosen], np.uint8).reshape(shape)
    names = [data.names(split)[row] for split, row in chosen]
    explained = dict.fromkeys(models, probable)
    return Gallery(len(found), _images(names, facts, pixels, models, explained, data.classes))


def _images(
    names: Sequence[str],
    facts: Sequence[Sequence[str]],
    pixels: np.ndarray,
    models: Mapping[str, keras.Model],
    explained: Mapping[str, np.ndarray],
    classes: Sequence[str],
) -> list[ShownImage]:
    heats = {phase: grad_cam(model, pixels, explained[phase]) for phase, model in models.items()}
    return [
        ShownImage(
            name.rsplit("/", 1)[-1],
            facts[row],
            pixels[row],
            {phase: Heat(maps[row], classes[explained[phase][row]]) for phase, maps in heats.items()},
        )
        for row, name in enumerate(names)
    ]
