"""Held-out scores under sign flips of whole clusters, with the directions refitted each time.

Flipping the sign of a pair swaps its labels; pairs of one cluster are flipped together. Under the
null of no effect every pattern of flips is equally likely, whatever the dependence between layers
and between tokens, so the flipped statistics are an exact reference (Fisher 1935; Westfall &
Young 1993 for the family).
"""

from __future__ import annotations

from collections.abc import Iterator
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
from harness.stats.kernels import BLOCK, Kernels, blocks
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


class Multipliers:
    """Standard normal numbers for a bootstrap, `(replicates, units)`, the same every time.

    They are read in blocks of rows, and drawn anew where all of them would need much memory.
    """

    def __init__(self, seed: int | np.random.SeedSequence, replicates: int, n_units: int) -> None:
        self._seed, self._n_units = seed, n_units
        self.replicates = replicates
        small = replicates * n_units <= BLOCK
        self._kept = list(self._draw()) if small else None

    def __iter__(self) -> Iterator[tuple[slice, FloatArray]]:
        """Rows, and their `(rows, units)` numbers."""
        return iter(self._kept or self._draw())

    def _draw(self) -> Iterator[tuple[slice, FloatArray]]:
        rng = np.random.default_rng(self._seed)
        for rows in blocks(self.replicates, self._n_units):
            yield rows, rng.standard_normal((rows.stop - rows.start, self._n_units))


class Flipper:
    """Held-out scores of one layer for any pattern of flips.

    Args:
        layer: kernels of the layer.
        rows: pairs that are scored, by default all: `layer.difference` and `layer.midpoint` have
            one row for each.
    """

    def __init__(self, layer: Kernels, rows: NDArray[np.intp] | None = None) -> None:
        self.rows = np.arange(len(layer.difference)) if rows is None else rows
        self.folds = layer.gram.folds
        self._layer = layer
        self._shared = [
            np.flatnonzero(self.folds.of == fold) for fold in np.flatnonzero(self.folds.sizes > 1)
        ]
        own = layer.gram.own
        self._others = (own.sum() - self.folds.sums(own))[self.rows]
        self._floor = SMALL_NORM * own.sum()

    def held_out(self, signs: Signs) -> HeldOut:
        """Scores for each row of `signs` `(flips, n)`; arrays `(flips, scored pairs)`."""
        flips = signs.astype(np.float64)
        gram = flips * product(flips, self._layer.gram.products.T)
        # ‖Σ_{j∉F} δ_j‖² = ‖Σ_j δ_j‖² − 2 Σ_{j∈F} δ_j·Σ_k δ_k + ‖Σ_{j∈F} δ_j‖²
        norm = gram.sum(axis=1)[:, None] - 2 * self.folds.sums(gram)[:, self.rows] + self._others
        if self._shared:
            within = np.zeros_like(flips)
            for pairs in self._shared:
                part = flips[:, pairs]
                within[:, pairs] = part * product(
                    part, self._layer.gram.products[np.ix_(pairs, pairs)].T
                )
            norm += self.folds.sums(within)[:, self.rows]
        usable = norm > self._floor
        root = np.sqrt(np.where(usable, norm, np.inf))
        difference = flips[:, self.rows] * product(flips, self._layer.difference.T)
        return HeldOut(difference / root, product(flips, self._layer.midpoint.T) / root, norm)

    def observed(self) -> HeldOut:
        """Scores of the data as they are; arrays `(scored pairs,)`."""
        identity = np.ones((1, len(self.folds.of)), dtype=np.int8)
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
        statistic in the family, is not smaller than the data's. What isn't a number is smaller than
        nothing, and nothing smaller than it: it can only make a p larger.
    """
    observed = statistics[:, :1] - TIE
    largest = statistics.max(axis=0)
    return (~(statistics < observed)).mean(axis=1), (~(largest < observed)).mean(axis=1)


def p_value_se(p: float, flips: int, n_units: int) -> float:
    """Monte Carlo standard error of a p-value, family-wise or not: √(p(1 − p)/flips).

    A p-value is a share of independent flips. Zero where they are all there are, enumerated.
    """
    exact = flips == 2 ** (n_units - 1)
    return 0.0 if exact else float(np.sqrt(p * (1 - p) / flips))


def effective_family(statistics: FloatArray, alpha: float = ALPHA) -> float:
    """Number of independent tests that the family amounts to, between 1 and its size.

    How much likelier some member exceeds the family-wise critical value than each one does; NaN
    where a statistic isn't a number.
    """
    largest = statistics.max(axis=0)
    if np.isnan(largest).any():
        return np.nan
    critical = np.quantile(largest, 1 - alpha, method="inverted_cdf")
    return float((largest >= critical).mean() / (statistics >= critical).mean())
