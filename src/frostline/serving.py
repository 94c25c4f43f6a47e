"""What `mlflow.pyfunc.load_model` and `mlflow models serve` load (MLflow calls `_load_pyfunc`)."""

from pathlib import Path
from typing import Any

import numpy as np

from frostline.saving import load_model
from frostline.training import predictor


class Classifier:
    """Pictures (N, size, size, 3) uint8 RGB → probability of the second class (N, 1) float32."""

    def __init__(self, path: Path) -> None:
        self._predict = predictor(load_model(path))

    def predict(self, pictures: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        return self._predict([np.asarray(pictures)])[:, None].astype(np.float32)


def _load_pyfunc(path: str) -> Classifier:
    return Classifier(Path(path))
