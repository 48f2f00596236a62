"""A statistic among the same statistic of alternatives that are as good under the null."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr

from harness.stats.arrays import FloatArray


class RankTest(NamedTuple):
    """Per member of the family, `(kinds, members)`: p by itself, and over the whole family."""

    p_value: FloatArray
    p_adjusted: FloatArray


def rank_test(
    statistics: NDArray[np.floating], *, degrees: float = math.inf, tolerance: float = 0.0
) -> RankTest:
    """How far up the first column stands among all, one-sided, and over a family of such rows.

    Valid where under the null the columns are exchangeable: any of them could as well have been the
    first. Whatever treats all columns alike leaves them so:

    - The rows of a kind are made comparable by the mean and standard deviation of all their
      columns, the first among them, and the largest counts (maxT). Ranks in their place would cost
      all power: every row has a column of highest rank, so that no p over f rows could be below f
      over the number of columns.
    - Kinds are made comparable by the ranks of these maxima, for their tails may differ as those of
      a normal and a χ² law do; the smaller rank counts (minP).

    Args:
        statistics: `(kinds, members, 1 + alternatives)`; large values speak against the null.
        degrees: of freedom, where the alternatives were not drawn from the law of the first, but
            from one estimated from so many units and one: a standardised first value is then t,
            and is brought to the same quantile of a normal law.
        tolerance: what counts as a tie, in the statistics' units; a row that varies no more says
            nothing, and has p = 1.

    References:
        Phipson and Smyth 2010 (p-values of random draws); Westfall and Young 1993 (maxT, minP).
    """
    spread = statistics.std(axis=2, keepdims=True)
    varies = spread > tolerance
    unit = np.where(varies, spread, 1.0)
    standard = np.where(varies, (statistics - statistics.mean(axis=2, keepdims=True)) / unit, 0.0)
    if math.isfinite(degrees):
        standard[..., 0] = -ndtri(stdtr(degrees, -standard[..., 0]))
    reached = standard[..., :1] - np.where(varies, tolerance / unit, 0.0)
    alone = (standard >= reached).mean(axis=2)
    largest = standard.max(axis=1)
    in_kind = (largest[:, None] >= reached).mean(axis=2)
    smallest = (largest[:, None] >= largest[:, :, None]).mean(axis=2).min(axis=0)
    return RankTest(alone, (smallest <= in_kind[..., None]).mean(axis=2))
