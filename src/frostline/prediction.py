"""Predict the class of picture files with a trained model, decoded as in training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from frostline.errors import FrostlineError
from frostline.pictures import UnreadablePictureError, decode_picture
from frostline.saving import load_classes, load_model
from frostline.training import predictor

_SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff"}
_BATCH = 64


@dataclass(frozen=True)
class Prediction:
    """The class that the model decides for with its probability, or the reason why there is none."""

    path: str
    label: str | None
    probability: float | None
    error: str | None = None


def find_pictures(places: Sequence[Path]) -> list[Path]:
    """Return the files among `places` and, sorted, the picture files below the folders among them.

    Raises FrostlineError for a place that does not exist and for a folder without pictures.
    """
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            inside = sorted(path for path in place.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
            if not inside:
                raise FrostlineError(f"{place} holds no picture files ({', '.join(sorted(_SUFFIXES))}).")
            found += inside
        elif place.is_file():
            found.append(place)
        else:
            raise FrostlineError(f"{place} does not exist.\nGive picture files or folders of pictures.")
    return found


def predict_files(model_path: Path, files: Sequence[Path]) -> Iterator[Prediction]:
    """Yield one Prediction per file, in order; a file that cannot be read gives its reason, not an exception."""
    model = load_model(model_path)
    classes = load_classes(model_path)
    predict, size = predictor(model), model.input_shape[1]
    for start in range(0, len(files), _BATCH):
        batch = files[start : start + _BATCH]
        decoded = [_decode(path, size) for path in batch]
        readable = [item for item in decoded if isinstance(item, np.ndarray)]
        probabilities = iter(predict([np.stack(readable)]) if readable else [])
        for path, item in zip(batch, decoded, strict=True):
            if isinstance(item, str):
                yield Prediction(str(path), None, None, item)
            else:
                second = float(next(probabilities))
                decided = int(second > 0.5)
                yield Prediction(str(path), classes[decided], second if decided else 1 - second)


def _decode(path: Path, size: int) -> np.ndarray | str:
    try:
        return decode_picture(path.read_bytes(), size)
    except UnreadablePictureError as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
