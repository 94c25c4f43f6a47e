"""What a program of one's own calls: `frostline.load`, `frostline.train` and `frostline.evaluate` (docs/api.md).

`import frostline` imports none of it: this module costs NumPy at its first use, and TensorFlow where a model is loaded.
"""

import io
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from frostline.common.files import read_json
from frostline.common.fit_names import Fit
from frostline.common.layout import images_below, is_clutter
from frostline.common.thresholds import Threshold
from frostline.config.paths import CLASSIFIER, DATA_SUMMARY, FIGURES, REPORT
from frostline.data.folder_names import marks_among
from frostline.runtime.errors import FrostlineError
from frostline.serving.given import Given, decoded, given_in, named
from frostline.serving.model_card import key_figures
from frostline.serving.predict import BATCH, shown

if TYPE_CHECKING:
    from frostline.metrics.bootstrap import Interval
    from frostline.serving.classifier import Classifier as Loaded

_RESAMPLES, _BINS, _SEED = 2000, 15, 42  # as in conf/


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image."""

    label: str
    """The predicted class; of two, the second where its probability is above the model's threshold."""
    probability: float
    """Of that class, calibrated."""
    probabilities: dict[str, float]
    """Of all classes, by name."""
    path: str | None
    """Of the file; None for what was given as bytes or pixels."""


@dataclass(frozen=True)
class Explanation:
    """Which places of an image speak for a class (Grad-CAM: a hint, no proof)."""

    label: str
    """The class that is explained."""
    heat: np.ndarray
    """(h, w) float32 from 0 to 1, at the places of the layer where the backbone is cut; all 0: nowhere, or
    the map did not hold (see `checked_grad_cam`)."""
    where: str
    """Where most of it lies, in words: "mostly at the top left"."""
    picture: Image.Image
    """The image as the model sees it, with the heat laid over it."""


class Classifier:
    """A model that is loaded; see `load`."""

    def __init__(self, loaded: "Loaded") -> None:
        self._loaded = loaded

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of their folders' names."""
        return tuple(self._loaded.classes)

    @property
    def threshold(self) -> Threshold:
        """Of two classes, the second is predicted where its probability is above this. Of more, None, or by class what
        its probability is divided by before the highest is predicted. Of both, what mistakes cost, a row for each
        actual class: the class is predicted whose expected cost is the lowest."""
        return self._loaded.threshold

    @property
    def image_size(self) -> int:
        """Side of the square that images are scaled to, in pixels."""
        return self._loaded.size

    @property
    def fit(self) -> Fit:
        """How an image that is not square becomes one: "squash", "crop" or "pad", as those that it was trained on."""
        return self._loaded.fit

    def __repr__(self) -> str:
        return f"<frostline.Classifier of {', '.join(self.classes)}>"

    def predict(self, images: Any) -> list[Prediction]:
        """Say of each image what it is, in order; what `frostline predict` says, to the last digit.

        Args:
            images: one of these, or an iterable of them, which may be empty:
                a path (str or Path) of an image file, or of a folder, which stands for the images below it, sorted;
                bytes, the content of an image file;
                a PIL image, of which the EXIF that it was opened with (``info["exif"]``) says which side is up;
                a NumPy array of uint8, 0 to 255: (H, W) or (H, W, 1) grey, (H, W, 3) RGB, (H, W, 4) RGBA, or a batch
                (N, H, W, 1), (N, H, W, 3), (N, H, W, 4).

        Raises:
            frostline.Error: an image cannot be read, does not exist, or is given in another form. It says which, and
                nothing is returned.
        """
        given, found = given_in(images), []
        for batch in _batches(given):
            pixels = map(_readable, batch, decoded(batch, self.image_size, self.fit))
            answers = self._loaded.predict(np.stack(list(pixels)))
            for one, answer in zip(batch, answers, strict=True):
                found.append(Prediction(answer["class"], answer["probability"], answer["probabilities"], one.path))
        return found

    def explain(self, image: Any, label: str | None = None) -> Explanation:
        """Show which places of `image`, one of what `predict` takes, speak for the class `label`.

        Args:
            image: one image.
            label: None for the predicted class.

        Raises:
            frostline.Error: as `predict`; there is not one image, or no such class.
        """
        from frostline.explain.grad_cam import checked_grad_cam
        from frostline.explain.heat_map import heat_png, where

        given = given_in(image)
        if len(given) != 1:
            raise FrostlineError(f"{len(given)} images to explain.\nGive one at a time.")
        pixels = _readable(given[0], decoded(given, self.image_size, self.fit)[0])
        if label is None:
            label = self._loaded.predict(pixels[None])[0]["class"]
        elif label not in self.classes:
            raise FrostlineError(f"{label!r} is no class of this model; valid: {', '.join(self.classes)}.")
        (heat,) = checked_grad_cam(self._loaded.model, pixels[None], np.array([self.classes.index(label)]))
        return Explanation(label, heat, where(heat), _overlaid(pixels, heat_png(heat, pixels.shape[:2])))


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on images whose classes are known."""

    images: int
    counts: dict[str, int]
    """Of these images, by class."""
    figures: dict[str, float]
    """log_loss, accuracy, balanced_accuracy, lowest_recall, roc_auc, average_precision, f1, brier and ece, as the
    report has them for what is in use; cost, where costs decide. What these images cannot tell is left out."""
    intervals: "dict[str, Interval]"
    """95% intervals (low, high) of log_loss, accuracy, roc_auc, brier and cost, over which images there happen to
    be."""
    confusion: np.ndarray
    """(classes, classes) int: images of each class, by the predicted one."""
    unreadable: dict[str, str]
    """Files that could not be read and count nowhere, by path, with the reason."""


@dataclass(frozen=True)
class Training:
    """What `train` leaves."""

    model: Path
    """For `load`; the next training replaces it."""
    report: Path
    """One HTML file."""
    verdict: str
    """Was fine-tuning worth it, and which model was taken? In sentences, with what to keep in mind of the data."""
    outcome: str
    """Of fine-tuning: "better", "worse", "indistinguishable" or "nothing_learned"."""
    chosen: str
    """The phase whose model it is, chosen on the validation images: "transfer" or "finetune"."""
    classes: tuple[str, ...]
    figures: dict[str, float]
    """Of this model on the test images, by reports/figures.json: log_loss, accuracy and roc_auc, and cost
    where costs decide. The ends of their 95% intervals are "accuracy_low" and "accuracy_high", where these are known of
    calibrated probabilities."""


def load(path: str | Path = CLASSIFIER, threshold: float | None = None) -> Classifier:
    """Load a model that Frostline has trained.

    Args:
        path: a `.keras` file.
        threshold: for two classes, above 0 and below 1, in place of the model's.

    Raises:
        frostline.Error: there is no such file, it is no such model, or the threshold is none.
    """
    from frostline.serving.classifier import load_classifier

    if threshold is not None and not (isinstance(threshold, int | float | np.floating) and 0 < threshold < 1):
        raise FrostlineError(f"threshold={threshold!r} is not a number between 0 and 1.")
    threshold = None if threshold is None else float(threshold)
    file = named(path, "the model")
    if file.is_dir():
        raise FrostlineError(f"{path} is a folder.\nGive the .keras file in it.")
    return Classifier(load_classifier(file, threshold))


def train(
    folder: str | Path | None = None,
    *,
    weights: str | Path | None = None,
    recipe: str | None = None,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Training:
    """Train a classifier of the images in `folder`; the same as `frostline train FOLDER`, in the current folder.

    That is a clone of Frostline. What is chosen stays for the next time, there as here; stages that nothing has changed
    for are not run again. What DVC and the stages say goes to stdout and stderr.

    Args:
        folder: one folder per class in it; None for the one of last time.
        weights: of the backbone: "imagenet", "random", "hub", a file, or of an ensemble or a preset a folder; None: as
            before, at first "imagenet", with model=hub "hub".
        recipe: an option of conf/experiment, or "auto", which searches for the best settings for ten minutes; None: as
            before, at first "best".
        name: of the data set in MLflow; None for the folder's.
        settings: any of params.yaml, by dotted key: ``{"transfer.epochs": 8}``.

    Raises:
        frostline.Error: the current folder is no clone, the images cannot be trained on, a choice is not valid, or a
            stage has failed (its own message is on stderr).
    """
    from frostline.project import train as project

    texts = {key: _as_text(value) for key, value in (settings or {}).items()} | ({"data.name": name} if name else {})
    given = None if weights is None else str(weights)
    if project.train(None if folder is None else named(folder, "the folder"), given, recipe, texts):
        raise FrostlineError("Training has failed; what went wrong is said above.\nThe same call goes on from there.")
    metrics = read_json(FIGURES)
    return Training(
        model=CLASSIFIER.absolute(),
        report=REPORT.absolute(),
        verdict=project.verdict(),
        outcome=metrics["verdict"]["outcome"],
        chosen=metrics["verdict"]["chosen"],
        classes=tuple(read_json(DATA_SUMMARY)["classes"]),
        figures=key_figures(metrics),
    )


def evaluate(model: Classifier | str | Path, folder: str | Path) -> Evaluation:
    """Judge a model on images that it was not trained on.

    Args:
        model: what `load` returns, or the path of a model.
        folder: one folder in it per class, called as the model calls it. Classes may be missing.

    Raises:
        frostline.Error: a folder is no class, images lie beside the folders, or none can be read.
    """
    from frostline.metrics.bootstrap import INTERVAL_FIGURES, Pair, bootstrap_intervals
    from frostline.metrics.classification import confusion_matrix, figures
    from frostline.metrics.predicted import costs_in

    classifier = model if isinstance(model, Classifier) else load(model)
    loaded = classifier._loaded
    given, all_labels = _labelled(named(folder, "the folder"), classifier.classes)
    labels, parts, unreadable = [], [], {}
    for start, batch in zip(range(0, len(given), BATCH), _batches(given), strict=True):
        pixels = []
        for number, (one, image) in enumerate(zip(batch, decoded(batch, loaded.size, loaded.fit), strict=True), start):
            if isinstance(image, np.ndarray):
                pixels.append(image)
                labels.append(all_labels[number])
            else:
                unreadable[one.name] = str(image)
        if pixels:
            parts.append(loaded.probabilities(np.stack(pixels)))
    if not parts:
        raise FrostlineError(f"None of the {len(given)} images in {folder} can be read.")
    known, probabilities = np.array(labels), np.concatenate(parts)
    threshold = 0.5 if loaded.threshold is None else loaded.threshold
    pair = Pair(known, probabilities, probabilities)
    wanted = [*INTERVAL_FIGURES, *["cost"] * (costs_in(threshold) is not None)]
    intervals = bootstrap_intervals(pair, wanted, ["baseline"], threshold=threshold, resamples=_RESAMPLES, seed=_SEED)
    counts = np.bincount(known, minlength=len(classifier.classes)).tolist()
    return Evaluation(
        images=len(known),
        counts=dict(zip(classifier.classes, counts, strict=True)),
        figures=figures(known, probabilities, threshold, _BINS),
        intervals=intervals["baseline"],
        confusion=confusion_matrix(known, probabilities, threshold),
        unreadable=unreadable,
    )


def _labelled(folder: Path, classes: Sequence[str]) -> tuple[list[Given], list[int]]:
    """The images in the class folders of `folder`, and of each the number of its class."""
    if not folder.is_dir():
        raise FrostlineError(f"{folder}: no such folder.\nGive a folder with one folder per class in it.")
    given: list[Given] = []
    labels: list[int] = []
    for place in sorted(place for place in folder.iterdir() if place.is_dir() and not is_clutter(place.name)):
        name = unicodedata.normalize("NFC", place.name)  # as training reads names
        if name not in classes:
            raise FrostlineError(f"{place} is no class of this model; valid: {', '.join(classes)}.")
        files = images_below(place)
        marks = marks_among([file.relative_to(place).parts for file in files])  # training leaves them out, too
        found = [Given(shown(file), file) for number, file in enumerate(files) if number not in marks]
        given += found
        labels += [classes.index(name)] * len(found)
    if beside := [path for path in images_below(folder) if path.parent == folder]:
        raise FrostlineError(f"{beside[0]} lies in no class folder.\nMove it into one of: {', '.join(classes)}.")
    if not given:
        raise FrostlineError(f"{folder} holds no images in folders of its classes.\nValid: {', '.join(classes)}.")
    return given, labels


def _batches(given: Sequence[Given]) -> Iterator[Sequence[Given]]:
    for start in range(0, len(given), BATCH):
        yield given[start : start + BATCH]


def _readable(one: Given, image: np.ndarray | Exception) -> np.ndarray:
    if isinstance(image, Exception):
        raise FrostlineError(f"{one.name} cannot be read: {image}.") from image
    return image


def _overlaid(pixels: np.ndarray, heat: bytes) -> Image.Image:
    over = Image.open(io.BytesIO(heat)).convert("RGBA")
    return Image.alpha_composite(Image.fromarray(pixels).convert("RGBA"), over).convert("RGB")


def _as_text(value: Any) -> str:
    """As `--set` takes it."""
    if isinstance(value, str | Path):
        return str(value)
    return json.dumps(value, default=lambda number: number.item())  # NumPy's
