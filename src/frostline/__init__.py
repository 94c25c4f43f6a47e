"""Frostline: two-phase fine-tuning of a pretrained image classifier as a reproducible, tracked pipeline."""

from typing import TYPE_CHECKING, Any

from frostline.runtime.errors import FrostlineError as Error

if TYPE_CHECKING:
    from frostline.api import Classifier, Evaluation, Explanation, Prediction, Training, evaluate, load, train

__version__ = "0.1.0"
__all__ = [
    "Classifier",
    "Error",
    "Evaluation",
    "Explanation",
    "Prediction",
    "Training",
    "evaluate",
    "load",
    "train",
]


def __getattr__(name: str) -> Any:
    """The names above are imported when they are first asked for: `import frostline` is quick."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from frostline import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
