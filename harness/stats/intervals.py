"""Intervals whose coverage holds: a second-order expansion of d.

Held-out differences D_i and D_j share the term δ_i·δ_j, so near the null the variance of their
mean is about twice what a resampling of scores believes. To the linear (jackknife) part the
expansion adds the quadratic form of a degenerate U-statistic; multiplied by Gaussian weights it
gives the bootstrap (Arcones & Giné 1992; Dehling & Mikosch 1994), and in closed form the
analytic twin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

from harness.stats.arrays import FloatArray
from harness.stats.estimates import standardized_difference
from harness.stats.linalg import product
from harness.stats.resample import CHUNK, SMALL_NORM, HeldOut

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Expansion:
    """d_s* − d_s = ε·linear + εᵀ quadratic ε for standard normal ε.

    Attributes:
        linear: `(n,)` jackknife influence of each pair with the scores held fixed.
        quadratic: `(n, n)` symmetric, zero diagonal: the directions' own dependence on the pairs.
    """

    linear: FloatArray
    quadratic: FloatArray

    @property
    def first_order(self) -> float:
        return float((self.linear**2).sum())

    @property
    def variance(self) -> float:
        return self.first_order + 2 * float((self.quadratic**2).sum())

    @property
    def inflation(self) -> float:
        """How much larger the variance is than the linear part alone (∞ if that is zero)."""
        return self.variance / self.first_order if self.first_order > 0 else np.inf

    def __sub__(self, other: Expansion) -> Expansion:
        return Expansion(self.linear - other.linear, self.quadratic - other.quadratic)

    def bootstrap(self, multipliers: FloatArray) -> FloatArray:
        """Replicates of d_s* − d_s, one for each row of `multipliers` `(replicates, n)`."""
        # A d that isn't defined, or infinite, has replicates that aren't defined.
        with np.errstate(invalid="ignore"):
            sums = product(multipliers, np.column_stack([self.quadratic, self.linear]))
            sums[:, :-1] *= multipliers
        return sums[:, :-1].sum(axis=1) + sums[:, -1]


def expand(held: HeldOut, gram: FloatArray) -> Expansion:
    """Expansion of d_s around the data's own scores (one replicate: `(n,)` arrays)."""
    n = len(held.difference)
    without = np.empty(n)
    for start in range(0, n, CHUNK):
        left_out = np.arange(start, min(start + CHUNK, n))[:, None]
        others = np.arange(n - 1)
        others = others + (others >= left_out)
        without[left_out[:, 0]] = standardized_difference(
            held.difference[others], held.midpoint[others]
        )
    spread = held.midpoint.var(ddof=1) + held.difference.var(ddof=1) / 4
    usable = held.norm > SMALL_NORM * np.trace(gram)
    inverse_norm = np.divide(1.0, held.norm, out=np.zeros(n), where=usable).mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        linear = np.sqrt((n - 1) / n) * (without.mean() - without)
        size = np.sqrt((n - 1) / (2 * n * n * (n - 3)) * inverse_norm / spread)
        return Expansion(linear, u_centred(gram) * size)


def u_centred(gram: FloatArray) -> FloatArray:
    """Off-diagonal entries centred so that every row sums to zero (Székely & Rizzo 2014)."""
    n = len(gram)
    off = gram - np.diag(np.diagonal(gram))
    rows = off.sum(axis=1) / (n - 2)
    off += rows.sum() / (n - 1) - rows[:, None] - rows[None, :]
    np.fill_diagonal(off, 0.0)
    return off


def check_level(level: float) -> None:
    """Raise `ValueError` unless `level` is a coverage strictly between 0 and 1."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, for example 0.95, not {level}")


def t_quantile(level: float, n_pairs: int) -> float:
    """Two-sided quantile of Student's t with n − 1 degrees of freedom."""
    return float(stdtrit(n_pairs - 1, (1 + level) / 2))


def analytic_interval(estimate: float, se: float, n_pairs: int, level: float) -> Interval:
    """estimate ± t_{n−1} · se."""
    reach = t_quantile(level, n_pairs) * se
    return estimate - reach, estimate + reach


def bootstrap_interval(
    estimate: float, deviations: FloatArray, n_pairs: int, level: float
) -> Interval:
    """estimate ± the quantile of |deviations|, widened from the normal to Student's t."""
    reach = float(_widening(n_pairs, level) * np.quantile(np.abs(deviations), level))
    return estimate - reach, estimate + reach


def bootstrap_interval_se(deviations: FloatArray, n_pairs: int, level: float) -> float:
    """Monte Carlo standard error of either end of `bootstrap_interval`.

    Of B deviations the quantile has standard error √(level(1 − level)/B)/f, f being the density of
    |deviations| there (Serfling 1980, 2.3.3). 1/f is read off the sample: how much the quantile
    changes per step of probability, from two errors below to two above (Woodruff 1952).
    """
    step = np.sqrt(level * (1 - level) / len(deviations))
    below, above = max(level - 2 * step, 0.0), min(level + 2 * step, 1.0)
    low, high = np.quantile(np.abs(deviations), (below, above))
    return float(_widening(n_pairs, level) * (high - low) / (above - below) * step)


def _widening(n_pairs: int, level: float) -> float:
    """From the normal distribution's quantile to that of Student's t."""
    return float(t_quantile(level, n_pairs) / ndtri((1 + level) / 2))


def accuracy_interval(accuracies: FloatArray, inflation: float, level: float) -> Interval:
    """Wilson's interval at the sample size that the estimated variance amounts to.

    Stays within [0, 1] and keeps a width at accuracy 1. The multiplier bootstrap of a mean is
    Gaussian with a variance known in closed form, so nothing is simulated here.

    Args:
        accuracies: `(n,)`, each pair's share of prompts on their own side.
        inflation: `Expansion.inflation` of the same scores.
        level: nominal coverage.
    """
    n = len(accuracies)
    if not np.isfinite(inflation):
        return 0.0, 1.0
    mean, variance = accuracies.mean(), accuracies.var(ddof=1) / n * inflation
    size = 2 * n / inflation
    if variance > 0:
        size = min(size, mean * (1 - mean) / variance)
    t = t_quantile(level, n)
    centre = (mean + t**2 / (2 * size)) / (1 + t**2 / size)
    reach = t / (1 + t**2 / size) * np.sqrt(mean * (1 - mean) / size + t**2 / (4 * size**2))
    # Rounding must put neither end beyond 0, 1 or the estimate itself.
    low, high = min(centre - reach, mean), max(centre + reach, mean)
    return max(0.0, float(low)), min(1.0, float(high))
