"""Predict the class of image files with a trained model, decoded as in training."""

import functools
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frostline.common.files import replacing, write_csv
from frostline.common.fit_names import Fit
from frostline.common.layout import images_below
from frostline.data.images import UnreadableImageError, read_image
from frostline.runtime.errors import FrostlineError
from frostline.runtime.process_pool import cores, mapped

# The processes that decode import this module: TensorFlow is not for them.

BATCH = 32
"""Images that the model sees at once: the last digit of a probability may depend on it."""
_ROW_GROUP = 10_000  # rows that a Parquet file holds together, and that are in memory until they are written

COLUMNS = ("path", "class", "probability", "error")


@dataclass(frozen=True)
class Prediction:
    """The predicted class with its probability, or the reason why there is none."""

    path: str
    label: str | None
    probability: float | None
    probabilities: dict[str, float] | None
    """Of all classes, by name."""
    error: str | None = None

    def as_row(self) -> dict[str, Any]:
        return dict(zip(COLUMNS, (self.path, self.label, self.probability, self.error), strict=True))


def find_images(places: Sequence[Path]) -> list[Path]:
    """Return the files among `places` and, sorted, the images below the folders among them, as training finds them.

    Raises:
        FrostlineError: a place does not exist, or a folder holds no images.
        OSError: a folder cannot be read.
    """
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            inside = images_below(place)
            if not inside:
                raise FrostlineError(f"{place} holds no image files.\nGive image files or folders of images.")
            found += inside
        elif place.exists():
            found.append(place)
        else:
            raise FrostlineError(f"{place} does not exist.\nGive image files or folders of images.")
    return found


def shown(path: Path) -> str:
    """What `path` is called; a name need not be UTF-8."""
    return str(path).encode(errors="backslashreplace").decode()


def predict_files(model_path: Path, files: Sequence[Path], threshold: float | None = None) -> Iterator[Prediction]:
    """Yield one Prediction per file, in order; a file that cannot be read gives its reason, not an exception.

    All cores decode the next images while the model runs; memory does not grow with their number.

    Args:
        model_path: a `.keras` file.
        files: image files, any number.
        threshold: for two classes, from 0 to 1, in place of the model's.

    Raises:
        FrostlineError: something is wrong with the model's file, or more than two classes get a threshold.
    """
    from frostline.serving.classifier import load_classifier

    classifier = load_classifier(model_path, threshold)
    batches = [files[start : start + BATCH] for start in range(0, len(files), BATCH)]
    with closing(_decoded(batches, classifier.size, classifier.fit)) as results:
        for batch, decoded in zip(batches, results, strict=True):
            readable = [item for item in decoded if isinstance(item, np.ndarray)]
            answers = iter(classifier.predict(np.stack(readable)) if readable else [])
            for path, item in zip(batch, decoded, strict=True):
                name = shown(path)
                if isinstance(item, str):
                    yield Prediction(name, None, None, None, item)
                else:
                    answer = next(answers)
                    yield Prediction(name, answer["class"], answer["probability"], answer["probabilities"])


def _decoded(batches: Sequence[Sequence[Path]], size: int, fit: Fit) -> Generator[list[np.ndarray | str]]:
    decode = functools.partial(_decode_all, size=size, fit=fit)
    if len(batches) > 1:
        yield from mapped(decode, batches, min(cores(), len(batches)))
    else:  # sooner done than a process is started
        yield from map(decode, batches)


def _decode_all(files: Sequence[Path], size: int, fit: Fit) -> list[np.ndarray | str]:
    return [_decode(path, size, fit) for path in files]


def _decode(path: Path, size: int, fit: Fit) -> np.ndarray | str:
    try:
        return read_image(path, size, fit)
    except UnreadableImageError as error:
        return str(error)


def write_table(path: Path, predictions: Iterable[Prediction], on_row: Callable[[int], None]) -> int:
    """Write `predictions` as they come, with the columns COLUMNS, and return how many have an error.

    Args:
        path: a .csv or .parquet file, written whole or not at all.
        predictions: read once; they are not kept in memory.
        on_row: called with 1 after each, to show progress.

    Raises:
        FrostlineError: `path` has another ending.
    """
    failed = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal failed
        for prediction in predictions:
            failed += prediction.error is not None
            on_row(1)
            yield prediction.as_row()

    if path.suffix == ".csv":
        write_csv(path, COLUMNS, rows())
    elif path.suffix == ".parquet":
        _write_parquet(path, rows())
    else:
        raise FrostlineError(
            f"{path} ends neither in .csv nor in .parquet.\nThe ending of --output says what to write."
        )
    return failed


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    schema = pa.schema([(name, pa.float64() if name == "probability" else pa.string()) for name in COLUMNS])
    with replacing(path) as temporary, ParquetWriter(temporary, schema) as writer:
        while group := list(itertools.islice(rows, _ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema))
