"""Every setting: its type, its unit and meaning, and which values it may have (conf/ holds the values themselves).

And which settings each result depends on: one table, which dvc.yaml's `params` repeat.

The dataclasses are plain ones, which the whole package may know. `config.load` reads from their annotations what is
valid: one of the words of a `Literal`, or what the Rule of an `Annotated` type says.
"""

import difflib
import functools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from frostline.common.fit_names import Fit
from frostline.runtime.errors import FrostlineError


@dataclass(frozen=True)
class Rule:
    """Which values of its type a setting may have."""

    holds: Callable[[Any], bool]
    """Given a value of its type: is it valid?"""
    valid: str
    """The same in words, for error messages."""


def _is_pattern(value: str) -> bool:
    try:
        re.compile(value)
    except re.error:
        return False
    return bool(value)


Count = Annotated[int, Rule(lambda v: v >= 1, "a whole number, 1 or more")]
Seed = Annotated[int, Rule(lambda v: v >= 0, "a whole number, 0 or more")]
Positive = Annotated[float, Rule(lambda v: 0 < v < math.inf, "a number above 0")]
Folds = Annotated[int, Rule(lambda v: v >= 3, "a whole number, 3 or more")]
Share = Annotated[float, Rule(lambda v: 0 < v < 1, "a share between 0 and 1")]
Md5 = Annotated[str, Rule(lambda v: bool(re.fullmatch(r"[0-9a-fA-F]{32}", v)), "32 hexadecimal digits")]
Sha256 = Annotated[str, Rule(lambda v: bool(re.fullmatch(r"[0-9a-fA-F]{64}", v)), "64 hexadecimal digits")]


@dataclass
class Data:
    """Where the labelled images come from. Each source has settings of its own."""

    source: str
    name: Annotated[str, Rule(lambda v: bool(v.strip()), "text")]
    """Of the data set: by it MLflow's experiment, runs and registered model are called."""
    depends_on: str
    """What DVC watches for this source: the user's folder, or the code that makes or fetches the data."""
    code: str
    """What else of our code DVC watches for it; the same again where that is all. DVC takes no list here."""


@dataclass
class SampleData(Data):
    """Animal faces drawn by seeded code."""

    source: Literal["sample"]
    seed: Seed
    """Which drawing: a data set of its own, apart from the run's seed."""
    images: Annotated[int, Rule(lambda v: v >= 20, "a whole number, 20 or more")]
    """Labelled images, half of each class."""
    unlabelled: Annotated[int, Rule(lambda v: v >= 0, "a whole number, 0 or more")]
    """Images without a label, which get predictions only."""


@dataclass
class FilteredData(Data):
    """Google's public subset of Dogs vs. Cats."""

    source: Literal["filtered"]
    url: str
    """Of the archive."""
    size: Count
    """Of the archive, in bytes; a download of another size is refused."""


@dataclass
class KaggleData(Data):
    """The data of a competition on Kaggle, fetched with the user's account."""

    source: Literal["kaggle"]
    competition: str
    """Its name in Kaggle's addresses."""


@dataclass
class FolderData(Data):
    """The user's own images, in one of the layouts that `data.layout` knows."""

    source: Literal["folder"]
    path: str
    """Of the folder, or of a zip file of it, relative to the project's root. It is read, never changed."""


@dataclass
class Weights:
    """Where the backbone's weights come from. Each source has settings of its own."""

    source: str
    depends_on: str
    """What DVC watches for this source: the user's file, or the code that makes or fetches the weights."""


@dataclass
class RandomWeights(Weights):
    """An untrained backbone."""

    source: Literal["random"]
    seed: Seed
    """Which backbone, apart from the run's seed."""


@dataclass
class PublishedWeights:
    """Where weights trained on ImageNet are, and what is known of the file."""

    url: str
    """Of the file."""
    size: Count | None
    """In bytes; null: not checked."""
    md5: Md5 | None
    """As keras.applications publishes it; null: not checked."""
    sha256: Sha256 | None
    """Likewise."""


@dataclass
class ImagenetWeights(Weights):
    """Weights trained on ImageNet: the file that `model.imagenet` names, unless set.

    Of an ensemble, whose members have a file each, all four are null: `model.imagenet` has theirs.
    """

    source: Literal["imagenet"]
    url: str | None
    """Of the file."""
    size: Count | None
    """In bytes; null: not checked."""
    md5: Md5 | None
    """Null: not checked."""
    sha256: Sha256 | None
    """Null: not checked."""


@dataclass
class FileWeights(Weights):
    """A file that the user has."""

    source: Literal["file"]
    path: str
    """Of the file, in the layout that keras.applications' backbone loads, built with include_top=False; of an
    ensemble, of a folder with one such file for each member, called by its name: resnet50.h5; with `model.backbone`
    hub, of the folder of a preset of KerasHub."""


@dataclass
class HubWeights(Weights):
    """Those of a preset of KerasHub, for `model.backbone` hub."""

    source: Literal["hub"]
    preset: str | None
    """The one that `model.preset` names, unless set."""


@dataclass
class Preprocess:
    image_size: int
    """Height and width of the prepared images, in pixels: from the smallest that the backbone takes to 1024."""
    fit: Fit
    """How a picture that is not square becomes one. squash: its width and height are scaled independently; crop: its
    largest centred square is taken; pad: all of it, its shape kept, between white margins. Models carry theirs."""
    train: Share
    """Share of the labelled images that is trained on; the three shares sum to 1."""
    validation: Share
    """Share of the labelled images by which epochs, phases and trials are chosen."""
    test: Share
    """Share of the labelled images that only the evaluation looks at."""
    max_rejected: Annotated[float, Rule(lambda v: 0 <= v <= 1, "a share from 0 to 1")]
    """Share of unreadable images above which the stage fails."""
    seed: Seed
    """Of the splits that are drawn; the run's, unless set. What a sweep chose was chosen on the splits of this one,
    whatever the seed of its trials."""
    splits: Literal["random", "given"]
    """random: drawn from all images, in the shares above. given: those that the data bring, in folders called train,
    val, test1 and the like; a validation or test set that is missing is cut from the training images by its share."""
    group: Annotated[str, Rule(_is_pattern, "a regular expression")] | None
    """What it finds in an image's path (its first group, or all of it) is its group, a patient or a video, which no
    drawn split and no fold parts. null: only copies, and in folds near-duplicates, stay together."""
    top_folders: Literal["auto", "classes", "splits"]
    """What the topmost folders of the data are. auto: splits, if they hold the same subfolders, else classes."""
    name_encoding: Literal["auto", "utf-8", "cp949", "gbk", "cp932", "big5", "cp866", "cp437"]
    """Of names in a zip that does not say it. auto: the first of these that fits all of them."""


@dataclass
class Backbone:
    backbone: str
    """Which network: a name in `models.architectures`; of an ensemble, its members' names with "+" between them."""
    preset: str | None
    """Of KerasHub, where `backbone` is hub: one of its names, or an address (kaggle://…, hf://…); `weights=hub` fetches
    it."""
    cut_layer: str
    """The backbone's layer whose output feeds the head; what lies above it is left out."""
    pooling: Literal["flatten", "average", "token"]
    """Of the cut layer's output, before the head. token: of a transformer's tokens the first, its class token."""
    dense_units: Annotated[int, Rule(lambda v: v >= 0, "a whole number, 0 or more")]
    """Units of the head's hidden layer; 0: there is none."""
    dropout: Annotated[float, Rule(lambda v: 0 <= v < 1, "a share from 0, below 1")]
    """Share of the outputs of the hidden layer, or without one of the features, that are set to 0 while training."""
    image_size: Count
    """That which suits the backbone, in pixels; `preprocess.image_size` is the one used, and this one unless set."""


@dataclass
class Model(Backbone):
    """One network."""

    imagenet: PublishedWeights
    """What `weights=imagenet` takes."""


Auto = Literal["auto"]
AUTO: Auto = "auto"

ClassWeight = Literal["none", "balanced", "balanced_sampling"] | dict[str, Positive]


@dataclass
class Ensemble(Backbone):
    """Several networks, whose pooled features are joined under one head. It is cut there: at `joined`, pooled by
    average. `backbone` follows from `members`."""

    members: list[str]
    """Which networks, two or more. All see the same image; the first one is fine-tuned, unless `finetune.thaw_from`
    names another."""
    imagenet: dict[str, PublishedWeights]
    """What `weights=imagenet` takes for each network that may be a member."""


@dataclass
class Phase:
    epochs: Count
    """Passes over the training images."""
    learning_rate: Positive | Auto
    """Adam's, at the first batch; with warm-up, at the end of that. auto: as a range test at the start of the phase has
    it (`training.rate_test`)."""
    schedule: Literal["constant", "cosine", "warmup_cosine"]
    """Of the learning rate. cosine: it falls to 0 over all epochs, batch by batch; warmup_cosine: it rises from 0 over
    the first tenth of the batches, and falls like that over the others."""
    weight_decay: Annotated[float, Rule(lambda v: 0 <= v < math.inf, "a number, 0 or more")]
    """Share of each kernel that a step takes away, times the learning rate (AdamW); 0: none."""
    label_smoothing: Annotated[float, Rule(lambda v: 0 <= v < 1, "a share from 0, below 1")]
    """Share of each target that goes to all classes alike; 0: none. In `train/…` losses, not in those of validation."""
    mixup: Annotated[float, Rule(lambda v: 0 <= v < math.inf, "a number, 0 or more")]
    """Each training image is mixed with another one at random, in shares from a Beta distribution of which this is both
    parameters (`training.mixup`); 0: none. `train/…` figures are those of the mixtures."""
    patience: Count | None
    """Epochs without a lower validation loss after which the phase ends, with the weights of its best epoch; null: it
    trains all epochs and keeps the last one's weights."""
    batch_size: Count | Auto
    """Images per training step, over all devices. auto: 32, 16 or 8, so that an epoch has ten steps, if it can
    (`training.resolved`)."""
    class_weight: ClassWeight
    """What a training image counts, by its class. balanced: so much that each class counts the same; balanced_sampling:
    each epoch has as many images of each class instead; {cat: 1, dog: 20}: these, and 1 for others. Probabilities stay
    those of classes as frequent as they are (`training.class_weights`). For unequal classes `evaluate.threshold` helps
    first; beside it balanced_sampling gave a little more, weights nothing (docs/recipes.md)."""


@dataclass
class Finetune(Phase):
    learning_rate: Positive
    """As of transfer, but for auto: what is fine-tuned has converged, and a range test says nothing of it."""
    thaw_from: str
    """The frost line: the backbone's lowest layer that learns; a number: so many ends of blocks below the cut layer, or
    at the lowest of them; auto: one. Of an ensemble, in one member, which alone learns: a layer of it, or its name for
    auto in it; auto and numbers: in the first member."""
    batch_norm: Literal["train", "frozen"]
    """Above the frost line. frozen: it keeps its weights and the statistics of pretraining."""


@dataclass
class Submission:
    """What else is done to the probabilities in submission.csv; the report shows what each changes."""

    flip: bool
    """Mean with those of the mirrored image, before they are calibrated; takes twice the time."""
    clip: bool
    """Kept away from 0 and 1 as far as the validation images and half a mistake more advise."""


Cost = Annotated[float, Rule(lambda v: 0 <= v < math.inf, "a number, 0 or more")]
Costs = dict[str, dict[str, Cost]]


@dataclass
class Evaluate:
    threshold: Share | Literal["accuracy", "balanced_accuracy", "f1"] | Costs
    """Calibrated probability above which the second of two classes is predicted; a word: that for which this figure is
    highest (see `threshold_for`; accuracy: 0.5). Of more classes the most probable one is predicted;
    balanced_accuracy: the one most probable beside its share of the training images. {cat: {dog: 5}}: the class with
    the lowest expected cost, of two classes and more, where to take a cat for a dog costs 5, and other mistakes 1."""
    calibrate: Literal["temperature", "none"]
    """What is done to the probabilities wherever the chosen model is used. temperature: calibrated on the validation
    images; none: as the model gives them."""
    bootstrap: Annotated[int, Rule(lambda v: v >= 100, "a whole number, 100 or more")]
    """Resamples behind each 95% interval."""
    calibration_bins: Count
    """Bins of the predicted probability, for the calibration error and the reliability diagram."""
    submission: Submission
    """Of the file for Kaggle."""


BALANCED = "balanced_accuracy"
_NAMED = 12
"""Classes that an error lists at most."""


def check_threshold(threshold: float | str | Costs, classes: Sequence[str]) -> None:
    """Raise FrostlineError where `evaluate.threshold` is not for these `classes`, which only the data know."""
    if threshold == "f1" and len(classes) > 2:
        raise FrostlineError(
            f"evaluate.threshold=f1 is for two classes, and these are {len(classes)}.\n"
            f"Valid for them: {BALANCED}, or 0.5 for the most probable one."
        )
    if not isinstance(threshold, dict):
        return
    check_classes("evaluate.threshold", [*threshold, *(name for row in threshold.values() for name in row)], classes)
    if right := [name for name in classes if threshold.get(name, {}).get(name)]:
        raise FrostlineError(
            f"evaluate.threshold.{right[0]}.{right[0]} is {threshold[right[0]][right[0]]:g}, and to be right costs "
            "nothing.\nValid: 0, or leave it out."
        )
    mistakes = [threshold.get(actual, {}).get(said, 1) for actual in classes for said in classes if said != actual]
    if not any(mistakes):
        raise FrostlineError("evaluate.threshold lets no mistake cost anything.\nGive one a cost above 0.")


def check_classes(key: str, names: Iterable[str], classes: Sequence[str]) -> None:
    """Raise FrostlineError where one of `names`, which the setting `key` has, is none of the `classes`."""
    for name in names:
        if name not in classes:
            near = difflib.get_close_matches(name, classes, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            valid = ", ".join(classes if len(classes) <= _NAMED else [*classes[:_NAMED], "..."])
            raise FrostlineError(f"{key} names {name!r}, which is no class.{hint}\nValid: {valid}.")


@dataclass
class Tracking:
    """Where MLflow keeps its runs."""

    uri: str
    """Of the store; the environment variable MLFLOW_TRACKING_URI, where set, wins over it."""
    experiment: str
    """What the names of MLflow's experiments begin with; each data set has one: "frostline-" and its name."""
    log_models: bool
    """Whether the models themselves are stored with their runs."""


Precision = Literal["auto", "float32", "bfloat16"]


@dataclass
class Config:
    name: str
    """Of the run, in MLflow and the report: the data set's and the recipe's, unless set."""
    seed: Seed
    """From which every source of randomness derives a seed of its own; data and weights have theirs."""
    fold: Annotated[int, Rule(lambda v: v >= 0, "a whole number, 0 or more, below folds")] | None
    """Which of `folds` parts of the labelled images is the test set, the next one being the validation set; null: the
    prepared splits."""
    folds: Folds
    """How many parts that are; an image's part depends on its content alone."""
    folds_of: Literal["all", "train_and_validation"]
    """Which labelled images these parts hold. train_and_validation: the prepared test set is left out, so that it can
    judge what the folds have chosen."""
    train_share: Annotated[float, Rule(lambda v: 0 < v <= 1, "a share above 0, up to 1")]
    """Of the training images of each class that is trained on."""
    augment: Literal["none", "flip", "full"]
    """Of training images. flip: mirrored ones too, with cached features; full: mirror, crop and colour, uncached."""
    precision: Precision
    """Of what is computed while training. auto: bfloat16 where the hardware has it, else float32."""
    deterministic: bool
    """Only kernels that give the same bits each time; free on a CPU, may cost speed on a GPU."""
    distribution: Literal["none", "mirrored", "multi_worker"]
    """Of training. mirrored: on all GPUs of this machine; multi_worker: on several machines."""
    feeding: Literal["auto", "batches", "device"]
    """How training features reach the device. batches: read from the disk one by one; device: all of them stay in its
    memory, and an epoch is one call; auto: device on a GPU. Figures may differ by rounding."""
    workers: Literal["local", "ray"]
    """Of decoding and features, to the same bytes. ray: a Ray cluster."""
    checkpoint_every: Annotated[float, Rule(lambda v: 0 <= v < math.inf, "a number of seconds, 0 or more")]
    """Seconds of training that a kill may cost: a phase writes a checkpoint after the first epoch that ends so long
    after the last one. Results do not depend on it."""
    feature_cache_gib: Annotated[float, Rule(lambda v: 0 <= v < math.inf, "a number of GiB, 0 or more")]
    """Least recently used features beyond this are deleted after each phase."""
    data: SampleData | FilteredData | KaggleData | FolderData
    weights: RandomWeights | ImagenetWeights | FileWeights | HubWeights
    preprocess: Preprocess
    model: Model | Ensemble
    transfer: Phase
    finetune: Finetune
    evaluate: Evaluate
    tracking: Tracking


_LEARNING = (
    "seed",
    "fold",
    "folds",
    "folds_of",
    "train_share",
    "augment",
    "precision",
    "deterministic",
    "distribution",
    "feeding",
)

DEPENDS_ON = {
    "fetch-data": ("data",),
    "fetch-weights": ("weights", "model.backbone", "model.imagenet", "preprocess.image_size"),
    "preprocess": ("preprocess",),
    "transfer": (
        "model.backbone",
        "model.cut_layer",
        "model.pooling",
        "model.dense_units",
        "model.dropout",
        "transfer",
        "preprocess.image_size",
        *_LEARNING,
    ),
    "finetune": ("model.cut_layer", "finetune", *_LEARNING),
    "evaluate": (  # all that the report shows
        "name",
        *_LEARNING,
        "data",
        "weights",
        "preprocess",
        "model",
        "transfer",
        "finetune",
        "evaluate",
    ),
}
"""By stage, the settings that what it makes depends on beside its inputs; a section stands for all its settings."""


def settings_of(config: Config, stage: str) -> dict[str, Any]:
    """What `config` has for those settings that the result of `stage` depends on, by dotted key; sections as dicts."""
    content: Any = asdict(config)
    return {
        key: functools.reduce(lambda section, name: section[name], key.split("."), content) for key in DEPENDS_ON[stage]
    }
