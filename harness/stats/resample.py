"""Held-out scores under sign flips of whole clusters, with the directions refitted each time.

Flipping the sign of a pair swaps its labels; pairs of one cluster are flipped together. Under the
null of no effect every pattern of flips is equally likely, whatever the dependence between layers
and between tokens, so the flipped statistics are an exact reference (Fisher 1935; Westfall &
Young 1993 for the family).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.defaults import ALPHA
from harness.stats.arrays import FloatArray
from harness.stats.clusters import Clusters
from harness.stats.estimates import (
    paired_statistic,
    standard_deviation,
    standardized_difference,
)
from harness.stats.kernels import Kernels
from harness.stats.linalg import product

CHUNK = 500
TIE = 1e-12
SMALL_NORM = 1e-12

Signs = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out scores of one layer; arrays `(..., scored pairs)`, leading axes replicates.

    Attributes:
        difference: D_i = w_i·(artifact_i − natural_i), in units of the unit direction's global
            scale.
        midpoint: R_i = w_i·m_i, the pair's mean relative to the mean over all pairs.
        norm: N_i, the squared norm of w_i in the global scale.
    """

    difference: FloatArray
    midpoint: FloatArray
    norm: FloatArray

    def scores(self, folds: Clusters) -> tuple[FloatArray, FloatArray]:
        """Artifact and natural scores, centred on the midpoint of each fold's training pairs.

        Args:
            folds: those of the scored pairs. All pairs of a fold are scored along one direction,
                so the fold's part of the overall mean is the sum of its own midpoints.
        """
        sizes = folds.sizes[folds.of]
        left = len(sizes) - sizes
        others = folds.sums(self.midpoint) - self.midpoint
        centre = self.midpoint * ((left + 1) / left) + others / left
        return centre + self.difference / 2, centre - self.difference / 2


class Null(NamedTuple):
    """Statistics under sign flips, `(flips,)` each: d_z, d_s, and the mean difference and the
    pooled standard deviation of scores along directions that are not cut to unit length."""

    d_z: FloatArray
    d_s: FloatArray
    drift: FloatArray
    spread: FloatArray


def sign_flips(n_units: int, count: int, rng: np.random.Generator) -> Signs:
    """Patterns of flips, `(count, n_units)` of ±1 as int8; row 0 is the identity.

    A pattern and its opposite give the same statistic. If all 2^(n−1) different ones are no
    more than `count` they are enumerated, and the test is exact.
    """
    if 2 ** (n_units - 1) <= count:
        index = np.arange(2 ** (n_units - 1))[:, None]
        return (1 - 2 * ((index >> np.arange(n_units)) & 1)).astype(np.int8)
    signs = rng.integers(0, 2, size=(count, n_units), dtype=np.int8) * 2 - 1
    signs[:1] = 1
    return signs.astype(np.int8)


class Flipper:
    """Held-out scores of one layer for any pattern of flips.

    A product with signs is a sum of ±kernel entries. Rounding each kernel row to a grid of
    2⁻⁵² of its absolute sum makes those sums exact, so that their order (the chunk size, the
    BLAS, its threads) cannot change a bit of the result; the rounding is no larger than that of
    an ordinary sum.

    Args:
        layer: kernels of the layer.
        rows: pairs that are scored, by default all: `layer.difference` and `layer.midpoint` have
            one row for each.
    """

    def __init__(self, layer: Kernels, rows: NDArray[np.intp] | None = None) -> None:
        self.rows = np.arange(layer.n_pairs) if rows is None else rows
        self.folds = layer.folds
        own = np.diagonal(layer.gram)
        gram = layer.gram - np.diag(own)
        blocks = [layer.difference, layer.midpoint, gram]
        if not self.folds.single:
            blocks.append(np.where(self.folds.same, gram, 0.0))
        self.kernel_rows = _summable(np.concatenate(blocks))
        self._others = (own.sum() - self.folds.sums(own))[self.rows]
        self._floor = SMALL_NORM * own.sum()

    def held_out(self, signs: Signs) -> HeldOut:
        """Scores for each row of `signs` `(flips, n)`; arrays `(flips, scored pairs)`."""
        flips = signs.astype(np.float64)
        n, k = flips.shape[1], len(self.rows)
        sums = product(flips, self.kernel_rows.T)
        difference, midpoint = sums[:, :k], sums[:, k : 2 * k]
        gram = flips * sums[:, 2 * k : 2 * k + n]
        # ‖Σ_{j∉F} δ_j‖² = ‖Σ_j δ_j‖² − 2 Σ_{j∈F} δ_j·Σ_k δ_k + ‖Σ_{j∈F} δ_j‖²
        norm = gram.sum(axis=1)[:, None] - 2 * self.folds.sums(gram)[:, self.rows] + self._others
        if not self.folds.single:
            within = flips * sums[:, 2 * k + n :]
            norm += self.folds.sums(within)[:, self.rows]
        usable = norm > self._floor
        root = np.sqrt(np.where(usable, norm, np.inf))
        return HeldOut(flips[:, self.rows] * difference / root, midpoint / root, norm)

    def observed(self) -> HeldOut:
        """Scores of the data as they are; arrays `(scored pairs,)`."""
        identity = np.ones((1, self.kernel_rows.shape[1]), dtype=np.int8)
        once = self.held_out(identity)
        return HeldOut(once.difference[0], once.midpoint[0], once.norm[0])

    def null(self, signs: Signs, *, chunk: int = CHUNK) -> Null:
        """Statistics for each row of `signs`, in chunks that fit a cache."""
        d_z, d_s, drift, spread = (np.empty(len(signs)) for _ in range(4))
        for start in range(0, len(signs), chunk):
            part = slice(start, start + chunk)
            held = self.held_out(signs[part])
            d_z[part] = paired_statistic(held.difference)
            d_s[part] = standardized_difference(held.difference, held.midpoint)
            length = np.ascontiguousarray(np.sqrt(held.norm.clip(min=0.0)))
            raw = held.difference * length
            drift[part] = raw.sum(axis=-1) / raw.shape[-1]
            spread[part] = standard_deviation(raw, held.midpoint * length)
        return Null(d_z, d_s, drift, spread)


def p_values(statistics: FloatArray) -> tuple[FloatArray, FloatArray]:
    """One-sided p per member of a family, and family-wise by single-step maxT.

    Args:
        statistics: `(family, flips)`; column 0 is the data's own, and the flips are the same
            throughout.

    Returns:
        p and adjusted p, `(family,)` each: the share of flips whose statistic, or whose largest
        statistic in the family, is no smaller than the data's.
    """
    observed = statistics[:, :1] - TIE
    largest = statistics.max(axis=0)
    return (statistics >= observed).mean(axis=1), (largest >= observed).mean(axis=1)


def p_value_se(p: float, flips: int, n_units: int) -> float:
    """Monte Carlo standard error of a p-value, family-wise or not: √(p(1 − p)/flips).

    A p-value is a share of independent flips. Zero where they are all there are, enumerated.
    """
    exact = flips == 2 ** (n_units - 1)
    return 0.0 if exact else float(np.sqrt(p * (1 - p) / flips))


def effective_family(statistics: FloatArray, alpha: float = ALPHA) -> float:
    """Number of independent tests that the family amounts to, between 1 and its size.

    How much likelier some member exceeds the family-wise critical value than each one does.
    """
    largest = statistics.max(axis=0)
    critical = np.quantile(largest, 1 - alpha, method="inverted_cdf")
    return float((largest >= critical).mean() / (statistics >= critical).mean())


def _summable(kernel: FloatArray) -> FloatArray:
    """Each row rounded to a grid on which any signed sum of its entries is exact."""
    reach = np.abs(kernel).sum(axis=1, keepdims=True)
    step = np.ldexp(1.0, np.frexp(reach)[1] - 52)
    rounded = kernel / step
    np.rint(rounded, out=rounded)
    rounded *= step
    return rounded
