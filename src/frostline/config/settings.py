"""Every setting with its type: plain dataclasses that the whole package may know (see conf/ for values and meaning).

And which settings each result depends on: one table, which dvc.yaml's `params` repeat.
"""

import functools
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Data:
    source: str
    depends_on: str
    """What DVC watches for this source: the user's folder, or the code that makes or fetches the data."""
    code: str
    """What else of our code DVC watches for it; the same again where that is all. DVC takes no list here."""


@dataclass
class SampleData(Data):
    seed: int
    images: int
    unlabelled: int


@dataclass
class FilteredData(Data):
    url: str
    size: int


@dataclass
class KaggleData(Data):
    competition: str


@dataclass
class FolderData(Data):
    path: str


@dataclass
class Weights:
    source: str
    depends_on: str


@dataclass
class RandomWeights(Weights):
    seed: int


@dataclass
class ImagenetWeights(Weights):
    url: str
    size: int | None
    md5: str | None
    sha256: str | None


@dataclass
class FileWeights(Weights):
    path: str


@dataclass
class Preprocess:
    image_size: int
    train: float
    validation: float
    test: float
    max_rejected: float


@dataclass
class PublishedWeights:
    """Where weights trained on ImageNet are, and what is known of the file."""

    url: str
    size: int | None
    md5: str | None
    sha256: str | None


@dataclass
class Model:
    backbone: str
    cut_layer: str
    pooling: str
    dense_units: int
    dropout: float
    image_size: int
    """That which suits the backbone; `preprocess.image_size` is the one used, and this one unless set."""
    imagenet: PublishedWeights
    """What `weights=imagenet` takes."""


@dataclass
class Phase:
    epochs: int
    learning_rate: float
    schedule: str
    patience: int | None
    batch_size: int


@dataclass
class Finetune(Phase):
    thaw_from: str
    batch_norm: str


@dataclass
class Submission:
    """What is done to the winner's probabilities in submission.csv (see `metrics.calibration`)."""

    flip: bool
    temperature: bool
    clip: bool


@dataclass
class Evaluate:
    threshold: float
    bootstrap: int
    calibration_bins: int
    submission: Submission


@dataclass
class Tracking:
    uri: str
    experiment: str
    log_models: bool


@dataclass
class Config:
    name: str
    seed: int
    augment: str
    precision: str
    deterministic: bool
    distribution: str
    workers: str
    feature_cache_gib: float
    data: Data
    weights: Weights
    preprocess: Preprocess
    model: Model
    transfer: Phase
    finetune: Finetune
    evaluate: Evaluate
    tracking: Tracking


_LEARNING = ("seed", "augment", "precision", "deterministic", "distribution")

DEPENDS_ON = {
    "fetch-data": ("data",),
    "fetch-weights": ("weights", "model.backbone", "preprocess.image_size"),
    "preprocess": ("preprocess", "seed"),
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
