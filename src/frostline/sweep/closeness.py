"""Which settings of a sweep are within chance of the best: by the images that ranked them."""

from collections.abc import Sequence

import numpy as np

from frostline.common.phase_names import PhaseName
from frostline.sweep.results import Record, Setting, swept_values


def close_to_best(settings: Sequence[Setting]) -> str:
    """Say in a sentence which of the ranked `settings` are within chance of the first.

    By the validation loss of each one's better phase, image by image, at a level that is corrected for their number;
    the luck of training is in it only as far as seeds were swept. Empty where there is nothing to compare, or where the
    settings were not trained with the same seeds.
    """
    from frostline.studies.cross_validation import within_chance

    seeds = [sorted(swept_values(trial).get("seed", "") for trial in setting.trials) for setting in settings]
    if len(settings) < 2 or any(each != seeds[0] for each in seeds):
        return ""
    losses = np.stack(
        [np.stack([held_out_losses(trial, setting.phase) for trial in _by_seed(setting)]) for setting in settings]
    )
    images = losses.shape[2]
    # One training judges all images: by several seeds its luck shows in how they differ, by one it does not.
    folds = np.zeros(images, int) if losses.shape[1] > 1 else np.arange(images)
    within = within_chance(losses, folds).within
    close = [setting.label for setting, near in zip(settings[1:], within[1:], strict=True) if near]
    basis = f"by {images:,} validation images"
    if not close:
        return f"No other one is within chance of it, {basis}."
    return f"{len(close) + 1} of {len(settings)} are within chance of the best, {basis}: also {', '.join(close)}."


def _by_seed(setting: Setting) -> list[Record]:
    return sorted(setting.trials, key=lambda trial: swept_values(trial).get("seed", ""))


def held_out_losses(trial: Record, phase: PhaseName) -> np.ndarray:
    """The log loss after `phase` of each image held out, (N,) float64 (see `trials.held_out`)."""
    from frostline.metrics.log_loss import log_losses
    from frostline.studies.tables import labels_of, probabilities_of
    from frostline.sweep.trials import held_out

    table = held_out(trial["key"])
    table = table[table["phase"] == phase]
    return log_losses(labels_of(table), probabilities_of(table))
