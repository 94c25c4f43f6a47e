"""What `mlflow.pyfunc.load_model` and `mlflow models serve` load (MLflow calls `_load_pyfunc`)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from frostline.common.data_urls import from_text
from frostline.common.fit_names import Fit
from frostline.data.images import decode_image
from frostline.serving.classifier import load_classifier


class InvalidInputError(MlflowException):  # type: ignore[misc]  # MLflow has no types here
    """MLflow's server answers it with status 400."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, error_code=INVALID_PARAMETER_VALUE)
        self._reason = reason

    def serialize_as_json(self) -> str:
        """The answer's body: only the reason, before which MLflow would repeat all that was sent."""
        return json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": self._reason})


class ServedModel:
    """Images → a table of `class`, its `probability`, and the `probabilities` of all classes by name."""

    def __init__(self, path: Path) -> None:
        self._classifier = load_classifier(path)

    def predict(self, images: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Classify images; MLflow's signature of a model.

        Args:
            images: (N,) str or bytes, each an image file as base64, as a data: URL or as it is; or RGB pixels,
                (N, size, size, 3), whole numbers from 0 to 255.
            params: what MLflow passes; there are none.

        Raises:
            InvalidInputError: it is neither, or a file cannot be decoded.
        """
        answers = self._classifier.predict(as_pixels(images, self._classifier.size, self._classifier.fit))
        return pd.DataFrame(answers, columns=["class", "probability", "probabilities"])


def as_pixels(images: Any, size: int, fit: Fit) -> np.ndarray:
    """Return `images` (see ServedModel.predict) as (N, size, size, 3) uint8; files fill the square by `fit`.

    Raises InvalidInputError.
    """
    if isinstance(images, bytes) or (
        isinstance(images, list | tuple) and any(isinstance(one, bytes) for one in images)
    ):
        images = np.array(images, object)  # else NumPy would make strings of a fixed length
    items = np.atleast_1d(np.asarray(images))
    if items.dtype.kind == "S":
        raise InvalidInputError(
            "an array of the type bytes has lost the zeros that files end in: give np.array(images, object)"
        )
    if isinstance(items.flat[0] if items.size else None, str | bytes):
        return np.stack([_decode(item, number, size, fit) for number, item in enumerate(items.ravel())])
    expected = f"images as base64 strings, or whole numbers from 0 to 255 of shape (N, {size}, {size}, 3)"
    if items.shape[1:] != (size, size, 3):
        raise InvalidInputError(f"shape {items.shape} is not what is expected: {expected}")
    try:
        values = np.array(items.tolist()) if items.dtype == object else items
    except ValueError:  # lists of unequal lengths
        values = items
    if values.dtype.kind not in "iu" or (values.size and not 0 <= values.min() <= values.max() <= 255):
        raise InvalidInputError(f"values are not what is expected: {expected}")
    return values.astype(np.uint8)


def _decode(item: Any, number: int, size: int, fit: Fit) -> np.ndarray:
    try:
        if not isinstance(item, str | bytes):
            raise ValueError("neither str nor bytes")
        return decode_image(from_text(item) if isinstance(item, str) else bytes(item), size, fit)
    except ValueError as error:
        raise InvalidInputError(f"image {number}: {error}") from error


def _load_pyfunc(path: str) -> ServedModel:
    return ServedModel(Path(path))
