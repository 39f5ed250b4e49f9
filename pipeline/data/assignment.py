"""The one-to-one assignment of least cost."""

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.intp]


def assign(cost: npt.NDArray[np.floating]) -> tuple[Indices, Indices]:
    """Rows and columns [min(n, m)] of the pairs of least total cost, by ascending row; `cost` is (n, m)."""
    # Imported late: it takes longer than all else that `check` and `status` import together.
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(cost)
    return rows, columns
