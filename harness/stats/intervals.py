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
from harness.stats.clusters import Clusters
from harness.stats.estimates import standardized_difference
from harness.stats.kernels import Gram, Kernels
from harness.stats.linalg import product
from harness.stats.resample import SMALL_NORM, HeldOut, Multipliers

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Expansion:
    """d_s* − d_s = ε·linear + εᵀ quadratic ε for standard normal ε.

    Attributes:
        linear: `(units,)` jackknife influence of each unit with the scores held fixed.
        quadratic: `(units, units)` symmetric, zero diagonal: the directions' own dependence on the
            units.
    """

    linear: FloatArray
    quadratic: FloatArray

    @property
    def first_order(self) -> float:
        return float((self.linear**2).sum())

    @property
    def variance(self) -> float:
        return self.first_order + 2 * float(np.vdot(self.quadratic, self.quadratic))

    @property
    def inflation(self) -> float:
        """How much larger the variance is than the linear part alone (∞ if that is zero)."""
        return self.variance / self.first_order if self.first_order > 0 else np.inf

    def __sub__(self, other: Expansion) -> Expansion:
        return Expansion(self.linear - other.linear, self.quadratic - other.quadratic)

    def bootstrap(self, multipliers: Multipliers) -> FloatArray:
        """Replicates of d_s* − d_s, `(replicates,)`."""
        deviations = np.empty(multipliers.replicates)
        # A d that isn't defined, or infinite, has replicates that aren't defined.
        with np.errstate(invalid="ignore"):
            for rows, block in multipliers:
                sums = product(block, self.quadratic)
                sums *= block
                deviations[rows] = sums.sum(axis=1) + block @ self.linear
        return deviations


def expand(held: HeldOut, gram: Gram, units: Clusters) -> Expansion:
    """Expansion of d_s around the data's own scores (one replicate: `(n,)` arrays).

    Args:
        units: clusters of pairs that vary together; each lies within a fold of the kernels.
    """
    n, n_units = len(held.difference), len(units)
    without = np.empty(n_units)
    for unit in range(n_units):
        others = units.of != unit
        without[unit] = standardized_difference(held.difference[others], held.midpoint[others])
    spread = held.midpoint.var(ddof=1) + held.difference.var(ddof=1) / 4
    usable = held.norm > SMALL_NORM * gram.own.sum()
    inverse_norm = np.divide(1.0, held.norm, out=np.zeros(n), where=usable).mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        linear = np.sqrt((n_units - 1) / n_units) * (without.mean() - without)
        size = np.sqrt((n_units - 1) / (2 * n * n * (n_units - 3)) * inverse_norm / spread)
        quadratic = _between_units(gram, units)
        quadratic *= size
        return Expansion(linear, quadratic)


def refitted_influence(layer: Kernels, units: Clusters) -> FloatArray:
    """`(units,)` jackknife influence of each unit on d_s where the directions, too, are learnt
    without it; each dimension's scale stays as it is.

    `Expansion.linear` holds the scores fixed, since the interval is for d along these directions.
    What another sample would change in the directions themselves belongs to a change between
    versions, and is in here.
    """
    gram, of = layer.gram, units.of
    between, own = gram.products, gram.own
    part_difference, part_midpoint = layer.difference, layer.midpoint
    if not units.single:
        between = units.totals(units.totals(between).T)
        own = units.totals(own) + np.diagonal(between)
        np.fill_diagonal(between, 0.0)
        part_difference, part_midpoint = map(units.totals, (part_difference, part_midpoint))
    rows = between.sum(axis=1) + own
    total = rows.sum()
    difference, midpoint = layer.difference.sum(axis=1), layer.midpoint.sum(axis=1)
    without = np.empty(len(units))
    for unit in range(len(units)):
        left = of != unit
        fold = of[left]
        # ‖Σ_j δ_j‖² without the pair's own unit and without this one
        norm = total + own[fold] + own[unit] - 2 * (rows[fold] + rows[unit] - between[fold, unit])
        usable = norm > SMALL_NORM * gram.own.sum()
        length = np.sqrt(np.where(usable, norm, np.inf))
        without[unit] = standardized_difference(
            (difference - part_difference[:, unit])[left] / length,
            (midpoint - part_midpoint[:, unit])[left] / length,
        )
    # A d that isn't defined, or infinite, has no influence that is.
    with np.errstate(invalid="ignore"):
        return np.sqrt((len(units) - 1) / len(units)) * (without.mean() - without)


def _between_units(gram: Gram, units: Clusters) -> FloatArray:
    """Inner products between units, `(units, units)`, centred and zero within a fold.

    A unit's sum grows with its size n_c, so that what is taken away is n_d α_c + n_c α_d, fitted
    to the products between folds by least squares weighted with 1/(n_c n_d). Where every pair is a
    fold of its own that is `u_centred`.
    """
    folds = gram.folds
    if folds.single:
        return u_centred(gram.products)
    products = units.totals(units.totals(np.where(folds.same, 0.0, gram.products)).T)
    fold_of = folds.of[np.unique(units.of, return_index=True)[1]]
    rows = products.sum(axis=1)
    rest = len(folds.of) - 2 * folds.sizes
    by_fold = np.bincount(fold_of, rows)
    total = (by_fold / rest).sum() / (1 + (folds.sizes / rest).sum())
    elsewhere = total - (by_fold - folds.sizes * total) / rest
    alpha = (rows - units.sizes * elsewhere[fold_of]) / (len(folds.of) - folds.sizes[fold_of])
    products -= alpha[:, None] * units.sizes + alpha * units.sizes[:, None]
    products[fold_of[:, None] == fold_of] = 0.0
    return products


def u_centred(gram: FloatArray) -> FloatArray:
    """Off-diagonal entries centred so that every row sums to zero (Székely & Rizzo 2014)."""
    n = len(gram)
    off = gram.copy()
    np.fill_diagonal(off, 0.0)
    rows = off.sum(axis=1) / (n - 2)
    off += rows.sum() / (n - 1) - rows[:, None]
    off -= rows
    np.fill_diagonal(off, 0.0)
    return off


def check_level(level: float) -> None:
    """Raise `ValueError` unless `level` is a coverage strictly between 0 and 1."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, for example 0.95, not {level}")


def t_quantile(level: float, n_units: int) -> float:
    """Two-sided quantile of Student's t with n − 1 degrees of freedom."""
    return float(stdtrit(n_units - 1, (1 + level) / 2))


def analytic_interval(estimate: float, se: float, n_units: int, level: float) -> Interval:
    """estimate ± t_{n−1} · se."""
    reach = t_quantile(level, n_units) * se
    return estimate - reach, estimate + reach


def bootstrap_interval(
    estimate: float, deviations: FloatArray, n_units: int, level: float
) -> Interval:
    """estimate ± the quantile of |deviations|, widened from the normal to Student's t."""
    reach = float(widening(n_units, level) * np.quantile(np.abs(deviations), level))
    return estimate - reach, estimate + reach


def bootstrap_interval_se(deviations: FloatArray, n_units: int, level: float) -> float:
    """Monte Carlo standard error of either end of `bootstrap_interval`."""
    return widening(n_units, level) * quantile_se(np.abs(deviations), level)


def quantile_se(values: FloatArray, level: float) -> float:
    """Monte Carlo standard error of a quantile of random draws.

    Of B draws it is √(level(1 − level)/B)/f, f being their density there (Serfling 1980, 2.3.3).
    1/f is read off the sample: how much the quantile changes per step of probability, from two
    errors below to two above (Woodruff 1952).
    """
    step = np.sqrt(level * (1 - level) / len(values))
    below, above = max(level - 2 * step, 0.0), min(level + 2 * step, 1.0)
    low, high = np.quantile(values, (below, above))
    return float((high - low) / (above - below) * step)


def widening(n_units: int, level: float) -> float:
    """From the normal distribution's two-sided quantile to that of Student's t."""
    return float(t_quantile(level, n_units) / ndtri((1 + level) / 2))


@dataclass(frozen=True, slots=True)
class Accuracy:
    """A mean of accuracies whose variance is known.

    Attributes:
        mean: share of prompts on their own side.
        deviations: `(units,)` what each unit adds to the mean's deviation, times the number of
            units.
        size: number of independent prompts that would give the mean's variance, at most as many
            as the units have, divided by the directions' inflation.
        n_units: number of units.
    """

    mean: float
    deviations: FloatArray
    size: float
    n_units: int

    @classmethod
    def measure(cls, accuracies: FloatArray, units: Clusters, inflation: float) -> Accuracy:
        """Of `(pairs,)` accuracies, each pair's share of prompts on their own side.

        Args:
            inflation: `Expansion.inflation` of the same scores.
        """
        mean = accuracies.mean()
        deviations = units.deviations(accuracies)
        variance = units.variance_of_mean(accuracies) * inflation
        size = 2 * len(units) / inflation if np.isfinite(inflation) else 0.0
        if 0 < variance < np.inf:
            size = min(size, mean * (1 - mean) / variance)
        return cls(float(mean), deviations - mean, float(size), len(units))

    def interval(self, t: float) -> Interval:
        """Wilson's interval at `size`, with the quantile `t`.

        Stays within [0, 1] and keeps a width at accuracy 1. The multiplier bootstrap of a mean is
        Gaussian with a variance known in closed form, so nothing is simulated here.
        """
        mean, size = self.mean, self.size
        if np.isnan(t):
            return np.nan, np.nan
        if not size > 0:
            return 0.0, 1.0
        centre = (mean + t**2 / (2 * size)) / (1 + t**2 / size)
        reach = t / (1 + t**2 / size) * np.sqrt(mean * (1 - mean) / size + t**2 / (4 * size**2))
        # Rounding must put neither end beyond 0, 1 or the estimate itself.
        low, high = min(centre - reach, mean), max(centre + reach, mean)
        return max(0.0, float(low)), min(1.0, float(high))
