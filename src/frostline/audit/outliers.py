"""Images unlike all others, by the features of the backbone."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from frostline.audit.findings import LOOK, OUTLIER, Finding
from frostline.audit.robust import FAR, modified_z
from frostline.common.files import release
from frostline.config.paths import BACKBONE_WEIGHTS
from frostline.config.settings import Config
from frostline.data.dataset import SPLITS, Dataset

_NEIGHBOURS = 10
_BLOCK = 256  # images


def pooled_features(data: Dataset, settings: Config) -> NDArray[np.float32]:
    """The mean over all places of what the backbone's cut layer gives for the labelled images, (N, channels).

    Through the feature cache: after a training it is there.
    """
    from frostline.models.backbone import build_backbone
    from frostline.models.graph import find_layer
    from frostline.training import phases, precision

    phases.choose_determinism(settings)
    base = build_backbone(settings.preprocess.image_size, BACKBONE_WEIGHTS, settings.model.backbone)
    cut = find_layer(base, settings.model.cut_layer, "model.cut_layer").name
    extractor = phases.extractor_of(base, [cut], settings, precision.resolve(settings.precision))
    pooled = []
    for split in SPLITS:
        (features,) = phases.split_features(extractor, data, split)
        places = tuple(range(1, features.ndim - 1))  # none in an ensemble, whose features are pooled
        for start in range(0, len(features), _BLOCK):
            pooled.append(features[start : start + _BLOCK].mean(axis=places, dtype=np.float32))
            release(features)
    return np.concatenate(pooled)


def outliers(features: np.ndarray) -> Iterator[Finding]:
    """Those whose mean cosine distance to their 10 nearest neighbours is far above the others' (Kuan & Mueller 2022,
    "Back to the basics: revisiting out-of-distribution detection baselines").

    Args:
        features: (N, n) float, of each image.
    """
    if len(features) <= 2 * _NEIGHBOURS:  # too few to say what is usual
        return
    nearest = NearestNeighbors(n_neighbors=_NEIGHBOURS, metric="cosine").fit(features)
    distances, _ = nearest.kneighbors()
    score = modified_z(np.log(distances.mean(axis=1) + 1e-6))
    for row in np.flatnonzero(score > FAR):
        yield Finding(OUTLIER, int(row), score[row], LOOK, f"{score[row]:.1f} deviations farther than the median")
