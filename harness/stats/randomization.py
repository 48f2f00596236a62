"""A statistic among the same statistic of alternatives that are as good under the null."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.stats.arrays import FloatArray


class RankTest(NamedTuple):
    """Per member of the family, `(family,)`: p by itself, and over the whole family."""

    p_value: FloatArray
    p_adjusted: FloatArray


def rank_test(statistics: NDArray[np.floating], *, tolerance: float = 0.0) -> RankTest:
    """How far up the first column stands among all, one-sided, with maxT over the rows.

    Valid where under the null the columns are exchangeable: any of them could as well have been the
    first. Rows are made comparable by the mean and standard deviation of all their columns, the
    first among them, so that they stay exchangeable. (Ranks in their place would cost all power:
    each row has a column of highest rank, so that no p over f rows could be below f over the
    number of columns.)

    Args:
        statistics: `(family, 1 + alternatives)`; large values speak against the null.
        tolerance: what counts as a tie, in the statistics' units; a row that varies no more says
            nothing, and has p = 1.

    References:
        Phipson and Smyth 2010 (p-values of random draws); Westfall and Young 1993 (maxT).
    """
    spread = statistics.std(axis=1, keepdims=True)
    varies = spread > tolerance
    unit = np.where(varies, spread, 1.0)
    standard = np.where(varies, (statistics - statistics.mean(axis=1, keepdims=True)) / unit, 0.0)
    reached = standard[:, :1] - np.where(varies, tolerance / unit, 0.0)
    alone = (standard >= reached).mean(axis=1)
    family = (standard.max(axis=0) >= reached).mean(axis=1)
    return RankTest(alone, np.where(varies[:, 0], family, 1.0))
