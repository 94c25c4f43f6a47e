"""Names of the ways in which a picture that is not square becomes a square image."""

from typing import Literal, get_args

Fit = Literal["squash", "crop", "pad"]
"""squash: width and height are scaled independently; crop: the largest centred square of it; pad: the whole picture,
its shape kept, between margins. See `data.fitting`."""
FITS: tuple[Fit, ...] = get_args(Fit)
SQUASH: Fit = "squash"
"""That of data sets and model files that name none: before there was a choice, all were made so."""
