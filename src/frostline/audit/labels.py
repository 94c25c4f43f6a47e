"""Labels that are probably wrong, by the probabilities of models that had not seen the image: out of fold."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from frostline.audit.findings import WRONG_LABEL, Finding, Labelled
from frostline.common.files import read_csv
from frostline.config.paths import STUDIES
from frostline.data.dataset import MANIFEST_FILE
from frostline.metrics.log_loss import score
from frostline.runtime.errors import FrostlineError, brief
from frostline.studies.tables import OUT_OF_FOLD, probability_column

_log = logging.getLogger(__name__)

_TRAINING = ["image", "seed", "phase"]
"""The columns by which an image of one recipe stands once."""
STUDY = "python -m frostline.sweep -m study=worth_it"


def newest_file(folder: Path = STUDIES) -> Path | None:
    """The out-of-fold probabilities that were written last, of any study of one recipe.

    Studies of several, `depth` say, judge each image by good ones and bad ones.
    """
    newest_first = sorted(folder.glob(f"*/{OUT_OF_FOLD}"), key=lambda path: path.stat().st_mtime, reverse=True)
    return next(filter(_is_of_one_recipe, newest_first), None)


def _is_of_one_recipe(path: Path) -> bool:
    try:
        return not pd.read_parquet(path, columns=_TRAINING).duplicated().any()
    except (OSError, ValueError):
        return True  # what is wrong with it is said when it is read


def read_probabilities(path: Path, images: Labelled) -> NDArray[np.float64]:
    """Return the probabilities (N, classes) of `images` in `path`: Parquet, columns image, seed, phase and P(<class>).

    They are means over seeds, of the phase whose log loss is lower; NaN where the file lacks the image.

    Raises FrostlineError where the file is no such table, or of other data.
    """
    columns = [probability_column(name) for name in images.data.classes]
    table = _read(path, columns)
    _check_images(path, table, images)
    best, lowest = np.full((len(images.names), len(columns)), np.nan), np.inf
    for phase, rows in table.groupby("phase"):
        means = rows.groupby("image")[columns].mean().reindex(images.names).to_numpy(np.float64)
        known = ~np.isnan(means).any(axis=1)
        loss, accuracy = score(images.labels[known], means[known]) if known.any() else (np.inf, 0.0)
        _log.debug("%s, %s: log loss %.4f, accuracy %.4f", path, phase, loss, accuracy)
        if loss < lowest:
            best, lowest = means, loss
    return best


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
    except FileNotFoundError:
        raise FrostlineError(f"{path} not found.\n`{STUDY}` makes one.") from None
    except (OSError, ValueError) as error:
        raise FrostlineError(f"{path} is no Parquet file: {brief(error)}") from error
    missing = [name for name in (*_TRAINING, *columns) if name not in table.columns]
    if missing:
        raise FrostlineError(
            f"{path} lacks the column {missing[0]!r}; it is of other data, or no out-of-fold table.\n"
            f"Make one of the present data: {STUDY}"
        )
    values = table[columns].to_numpy(np.float64, na_value=np.nan)
    if not (np.isfinite(values).all() and (values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=1e-3)):
        raise FrostlineError(f"{path} holds rows whose P(…) are no probabilities that sum to 1.\nMake it anew: {STUDY}")
    twice = table.duplicated(_TRAINING)
    if twice.any():
        row = table[twice].iloc[0]
        raise FrostlineError(
            f"{path} holds {row['image']} twice for seed {row['seed']}, {row['phase']}: it is of several recipes.\n"
            f"Take one of a single recipe: {STUDY}"
        )
    return table


def _check_images(path: Path, table: pd.DataFrame, images: Labelled) -> None:
    """Images that the manifest has but rejects (by corrections.csv, say) are passed over."""
    named = set(table["image"])
    listed = {row["path"] for row in read_csv(images.data.folder / MANIFEST_FILE)}
    foreign = sorted(named - listed)
    if foreign:
        raise FrostlineError(
            f"{path} is of other data: {len(foreign):,} of its {len(named):,} images are not in {images.data.folder}, "
            f"the first: {foreign[0]}.\nMake one of the present data: {STUDY}"
        )
    absent = len(set(images.names) - named)
    if absent:
        _log.info("%s lacks %s of %s labelled images: their labels are not judged", path, absent, len(images.names))


def wrong_labels(images: Labelled, probabilities: np.ndarray) -> Iterator[Finding]:
    """Labels that confident learning finds (Northcutt, Jiang & Chuang 2021), by the library cleanlab.

    Args:
        images: whose labels are judged.
        probabilities: (N, classes), of models that were not trained on the row; NaN where there are none.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_normalized_margin_for_each_label

    rows = np.flatnonzero(~np.isnan(probabilities).any(axis=1))
    labels, judged = images.labels[rows], probabilities[rows]
    if not len(rows):
        return
    issues = find_label_issues(labels, judged, n_jobs=1)
    quality = get_normalized_margin_for_each_label(labels, judged)
    for at in np.flatnonzero(issues):
        others = judged[at].copy()
        others[labels[at]] = -1
        probable = int(others.argmax())
        name = images.data.classes[probable]
        fact = f"P({name}) {judged[at, probable]:.3f}"
        yield Finding(WRONG_LABEL, int(rows[at]), 1 - float(quality[at]), name, fact)
