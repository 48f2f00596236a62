"""Held-out directions, reduced to three pair × pair kernels per layer.

For pair i of fold F the direction is w_i = Σ_{j∉F} δ_j / s²_{−F}: the sum of the other folds'
differences, each dimension divided by its variance over the other folds' prompts. A fold is a
single pair, or pairs that share something and so must not score each other. Every held-out score
is a sum of kernel entries, so once the kernels are there no replicate touches the hidden
dimension.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.defaults import Scale
from harness.stats.arrays import FloatArray
from harness.stats.clusters import Clusters
from harness.stats.linalg import product

DEAD_SD = 1e-6  # relative to the median dimension
CANCELLATION = 1e-3  # a variance from sums keeps 1e-12 relative accuracy above this share


@dataclass(frozen=True, slots=True)
class Kernels:
    """Inner products from which all held-out scores are summed.

    Rows are scored pairs, columns are the pairs a direction is learnt from. A pair is never
    scored by its own fold, so the entries within a fold are zero.

    Attributes:
        difference: `(n, n)`: Σ_h δ_ih δ_jh / s²_{−F(i),h}, zero within a fold.
        midpoint: `(n, n)`: Σ_h m_ih δ_jh / s²_{−F(i),h}, zero within a fold; m is a pair's mean
            relative to the mean over all pairs.
        gram: `(n, n)`: Σ_h δ_ih δ_jh / s²_h, with the variance over all prompts.
        folds: the pairs that are held out together.
    """

    difference: FloatArray
    midpoint: FloatArray
    gram: FloatArray
    folds: Clusters

    @property
    def n_pairs(self) -> int:
        return len(self.gram)


@dataclass(frozen=True, slots=True)
class Weights:
    """Inverse variances, `(n, hidden)` without each pair's fold and `(hidden,)` with all."""

    fold: FloatArray
    overall: FloatArray


def halves(
    artifact: NDArray[np.floating], natural: NDArray[np.floating]
) -> tuple[FloatArray, FloatArray]:
    """Pair differences δ, and pair means relative to the median prompt; `(n, hidden)` each."""
    a = np.asarray(artifact, dtype=np.float64)
    b = np.asarray(natural, dtype=np.float64)
    # Unlike the mean, the median makes constant dimensions exact zeros, and one huge value in a
    # dimension does not cost the others their digits.
    median = np.median(np.concatenate([a, b]), axis=0)
    return a - b, ((a - median) + (b - median)) / 2


def inverse_variances(
    delta: FloatArray, middle: FloatArray, scale: Scale, folds: Clusters
) -> Weights:
    """Weights 1/s² of each dimension, without each fold in turn and with all of them.

    The variance is that of the prompts of both arms (ddof 1), labels ignored, so that swapping
    the labels of a pair changes no weight. Dimensions whose standard deviation is at most 1e-6
    of the median dimension's get weight zero. `scale="raw"` weighs all dimensions alike.
    """
    if scale == "raw":
        return Weights(np.ones_like(delta), np.ones(delta.shape[1]))
    if scale != "sd":
        raise ValueError(f"scale must be 'sd' or 'raw', not {scale!r}")
    n = len(delta)
    sums, squares = 2 * middle, 2 * middle**2 + delta**2 / 2  # a + b and a² + b² of a pair
    total, total_squares = sums.sum(axis=0), squares.sum(axis=0)
    everywhere = (total_squares - total**2 / (2 * n)) / (2 * n - 1)
    if not folds.single:
        sums, squares = (folds.totals(values.T).T for values in (sums, squares))
    left = 2 * (n - folds.sizes[:, None])
    fold = (total_squares - squares - (total - sums) ** 2 / left) / (left - 1)
    for index in np.flatnonzero((fold < CANCELLATION * everywhere).any(axis=1)):
        lost = fold[index] < CANCELLATION * everywhere
        others = folds.of != index
        m, d = middle[np.ix_(others, lost)], delta[np.ix_(others, lost)]
        fold[index, lost] = np.concatenate([m + d / 2, m - d / 2]).var(axis=0, ddof=1)
    overall = _inverse(everywhere)
    inverse = _inverse(fold) * (overall > 0)
    return Weights(inverse if folds.single else inverse[folds.of], overall)


def kernels(
    artifact: NDArray[np.floating],
    natural: NDArray[np.floating],
    *,
    scale: Scale = "sd",
    folds: Clusters | None = None,
) -> Kernels:
    """The three kernels of one layer.

    Args:
        artifact, natural: `(pairs, hidden)` activations, any float dtype; row i of both is pair i.
        scale: `"sd"` divides each dimension by its training variance; `"raw"` does not.
        folds: pairs that are held out together; by default each pair by itself.

    Raises:
        ValueError: unknown `scale`.
    """
    delta, middle = halves(artifact, natural)
    folds = folds or Clusters.from_labels(None, len(delta))
    weights = inverse_variances(delta, middle, scale, folds)
    difference = product(delta * weights.fold, delta.T)
    midpoint = product((middle - middle.mean(axis=0)) * weights.fold, delta.T)
    difference[folds.same] = midpoint[folds.same] = 0.0
    return Kernels(difference, midpoint, product(delta * weights.overall, delta.T), folds)


def fold_directions(
    artifact: NDArray[np.floating],
    natural: NDArray[np.floating],
    *,
    scale: Scale = "sd",
    clusters: Sequence[Hashable] | None = None,
) -> FloatArray:
    """The direction each pair is scored along, learnt from all the other clusters.

    Args:
        artifact, natural: `(pairs, hidden)` activations of one layer.
        scale, clusters: as in `separation`. With `"raw"` it is the others' summed difference.

    Returns:
        float64 `(pairs, hidden)`: row i is w_i = Σ_{j∉F(i)} δ_j / s²_{−F(i)}, F(i) being pair i's
        cluster; not normalised.
    """
    delta, middle = halves(artifact, natural)
    folds = Clusters.from_labels(clusters, len(delta))
    weights = inverse_variances(delta, middle, scale, folds)
    return (delta.sum(axis=0) - folds.sums(delta.T).T) * weights.fold


def _inverse(variance: FloatArray) -> FloatArray:
    """1/variance, and zero where the dimension is dead."""
    alive = variance > DEAD_SD**2 * np.median(variance, axis=-1, keepdims=True)
    return np.divide(1.0, variance, out=np.zeros_like(variance), where=alive)
