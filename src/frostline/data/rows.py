"""Some rows of several arrays, as if they stood in one."""

from collections.abc import Sequence

import numpy as np

from frostline.common.files import release


class Rows:
    """Rows of memory-mapped `arrays`, (N, …) each and of one type, which are read when they are asked for.

    Args:
        arrays: at least one.
        rows: (M,) int, which rows of all arrays one after another.
    """

    def __init__(self, arrays: Sequence[np.ndarray], rows: np.ndarray) -> None:
        self._arrays, self._rows = arrays, rows
        self._starts = np.cumsum([0, *map(len, arrays)])
        self.shape, self.dtype = (len(rows), *arrays[0].shape[1:]), arrays[0].dtype

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: int | slice | np.ndarray) -> np.ndarray:
        wanted = np.atleast_1d(self._rows[key])
        found = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        places = np.searchsorted(self._starts, wanted, side="right") - 1
        for number, array in enumerate(self._arrays):
            here = np.flatnonzero(places == number)
            here = here[np.argsort(wanted[here], kind="stable")]  # the memory map is read forwards
            found[here] = array[wanted[here] - self._starts[number]]
            release(array)
        return found[0] if np.ndim(self._rows[key]) == 0 else found

    def __array__(self, dtype: np.typing.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)
