"""By what a class is predicted, as all have it that store, use or describe a model."""

from collections.abc import Sequence

CostMatrix = Sequence[Sequence[float]]
"""(classes, classes): what an image of the row's class costs that is predicted to be of the column's; 0 where it is."""

Threshold = float | Sequence[float] | CostMatrix | None
"""Of two classes, the P(second) from 0 to 1 above which the second is predicted. Of more, None; or one number for each,
by which its P is divided before the highest is predicted. Of both, the costs of mistakes."""
