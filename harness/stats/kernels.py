"""Held-out directions, reduced to three pair × pair kernels per layer.

For pair i of fold F the direction is w_i = Σ_{j∉F} δ_j / s²_{−F}: the sum of the other folds'
differences, each dimension divided by its variance over the other folds' prompts; or the same times
the inverse of their shrunk correlations (`Shrunk`). A fold is a single pair, or pairs that share
something and so must not score each other. Every held-out score is a sum of kernel entries, so once
the kernels are there no replicate touches the hidden dimension.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.defaults import Direction, Scale
from harness.stats.arrays import FloatArray
from harness.stats.clusters import Clusters
from harness.stats.linalg import product

DEAD_SD = 1e-6  # relative to the median dimension
SHRINKAGE = 0.9  # λ, of the correlations towards none; declared, never chosen by what it finds
BLOCK = 2**22  # numbers that are worked on at once
CANCELLATION = 1e-3  # a variance from sums keeps 1e-12 relative accuracy above this share


@dataclass(frozen=True, slots=True)
class Gram:
    """Inner products of the pairs' differences, Σ_h δ_ih δ_jh / s²_h with the variance over all
    prompts.

    Attributes:
        products: `(n, n)`, zero on the diagonal.
        own: `(n,)`: the diagonal.
        folds: the pairs that are held out together.
    """

    products: FloatArray
    own: FloatArray
    folds: Clusters


@dataclass(frozen=True, slots=True)
class Kernels:
    """Inner products from which all held-out scores are summed.

    Rows are scored pairs, columns are the pairs a direction is learnt from. A pair is never
    scored by its own fold, so the entries within a fold are zero. Signed sums of each row are
    exact (`_make_summable`).

    Attributes:
        difference: `(n, n)`: Σ_h δ_ih δ_jh / s²_{−F(i),h}, zero within a fold.
        midpoint: `(n, n)`: Σ_h m_ih δ_jh / s²_{−F(i),h}, zero within a fold; m is a pair's mean
            relative to the mean over all pairs.
        gram: of the same pairs.
    """

    difference: FloatArray
    midpoint: FloatArray
    gram: Gram

    @classmethod
    def from_products(
        cls, difference: FloatArray, midpoint: FloatArray, gram: FloatArray, folds: Clusters
    ) -> Kernels:
        """From matrices as the attributes say, `gram` with its diagonal; all three are changed."""
        own = np.diagonal(gram).copy()
        np.fill_diagonal(gram, 0.0)
        for kernel in (difference, midpoint, gram):
            _make_summable(kernel)
        return cls(difference, midpoint, Gram(gram, own, folds))


@dataclass(frozen=True, slots=True)
class Weights:
    """Inverse variances: `(folds, hidden)` without each fold and `(hidden,)` with all pairs."""

    fold: FloatArray
    overall: FloatArray
    folds: Clusters

    def apart(self, values: FloatArray, pairs: NDArray[np.intp]) -> FloatArray:
        """`(k, hidden)` vectors, weighted as row i is without the fold of pair `pairs[i]`."""
        return values * self.fold[self.folds.of[pairs]]

    def together(self, values: FloatArray) -> FloatArray:
        """`(…, hidden)` vectors, weighted as with all pairs."""
        return values * self.overall

    def without_folds(self) -> Weights:
        """As far as `together` goes; with thousands of pairs the rest is large."""
        return Weights(np.empty((0, len(self.overall))), self.overall, self.folds)


@dataclass(frozen=True, slots=True)
class Shrunk:
    """`Weights`, and dimensions that vary together turned back to where they vary apart.

    In the space where each dimension has variance 1 a vector is multiplied by
    ((1 − λ)R + λI)⁻¹, R being the prompts' correlations, whatever their labels: Fisher's linear
    discriminant with correlations shrunk towards none (Friedman 1989; Schäfer & Strimmer 2005).

    Attributes:
        delta, middle: `halves` of the pairs that R is of.
    """

    weights: Weights
    delta: FloatArray
    middle: FloatArray

    def apart(self, values: FloatArray, pairs: NDArray[np.intp]) -> FloatArray:
        """As `Weights.apart`; one linear system per fold."""
        result = np.empty_like(values)
        of = self.weights.folds.of
        for fold in np.unique(of[pairs]):
            rows = of[pairs] == fold
            result[rows] = self._solve(values[rows], of != fold, self.weights.fold[fold])
        return result

    def together(self, values: FloatArray) -> FloatArray:
        """As `Weights.together`."""
        everything = np.ones(len(self.delta), dtype=bool)
        return self._solve(np.atleast_2d(values), everything, self.weights.overall).reshape(
            values.shape
        )

    def without_folds(self) -> Shrunk:
        """As of `Weights`."""
        return Shrunk(self.weights.without_folds(), self.delta, self.middle)

    def _solve(
        self, values: FloatArray, pairs: NDArray[np.bool_], inverse_variance: FloatArray
    ) -> FloatArray:
        scale = np.sqrt(inverse_variance)
        middle, half = self.middle[pairs] * scale, self.delta[pairs] * scale / 2
        middle -= middle.mean(axis=0)
        prompts = np.concatenate([middle + half, middle - half])
        share = (1 - SHRINKAGE) / (len(prompts) - 1)
        scaled = values * scale
        if len(scale) <= len(prompts):
            matrix = share * (prompts.T @ prompts)
            matrix[np.diag_indices_from(matrix)] += SHRINKAGE
            return np.linalg.solve(matrix, scaled.T).T * scale
        # Woodbury: with fewer prompts than dimensions the system is as large as the prompts.
        matrix = share * (prompts @ prompts.T)
        matrix[np.diag_indices_from(matrix)] += SHRINKAGE
        known = np.linalg.solve(matrix, prompts @ scaled.T)
        return (scaled - share * known.T @ prompts) * (scale / SHRINKAGE)


def halves(
    artifact: NDArray[np.floating], natural: NDArray[np.floating]
) -> tuple[FloatArray, FloatArray]:
    """Pair differences δ, and pair means relative to the median prompt; `(n, hidden)` each."""
    delta, middle = np.empty(artifact.shape), np.empty(artifact.shape)
    for columns in blocks(artifact.shape[1], len(artifact)):
        a = np.asarray(artifact[:, columns], dtype=np.float64)
        b = np.asarray(natural[:, columns], dtype=np.float64)
        # Unlike the mean, the median makes constant dimensions exact zeros, and one huge value in
        # a dimension does not cost the others their digits.
        median = np.median(np.concatenate([a, b]), axis=0)
        delta[:, columns] = a - b
        middle[:, columns] = ((a - median) + (b - median)) / 2
    return delta, middle


def inverse_variances(
    delta: FloatArray, middle: FloatArray, scale: Scale, folds: Clusters
) -> Weights:
    """Weights 1/s² of each dimension, without each fold in turn and with all of them.

    The variance is that of the prompts of both arms (ddof 1), labels ignored, so that swapping
    the labels of a pair changes no weight. Dimensions whose standard deviation is at most 1e-6
    of the median dimension's get weight zero. `scale="raw"` weighs all dimensions alike.
    """
    width = delta.shape[1]
    if scale == "raw":
        return Weights(np.ones((len(folds), width)), np.ones(width), folds)
    if scale != "sd":
        raise ValueError(f"scale must be 'sd' or 'raw', not {scale!r}")
    fold, everywhere = np.empty((len(folds), width)), np.empty(width)
    for columns in blocks(width, len(delta)):
        fold[:, columns], everywhere[columns] = _variances(
            delta[:, columns], middle[:, columns], folds
        )
    overall = _inverse(everywhere)
    for rows in blocks(len(fold), width):
        fold[rows] = _inverse(fold[rows]) * (overall > 0)
    return Weights(fold, overall, folds)


def _variances(
    delta: FloatArray, middle: FloatArray, folds: Clusters
) -> tuple[FloatArray, FloatArray]:
    """Variances of the prompts, `(folds, columns)` and `(columns,)`."""
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
    return fold, everywhere


def metric(
    delta: FloatArray, middle: FloatArray, scale: Scale, direction: Direction, folds: Clusters
) -> Weights | Shrunk:
    """What turns summed differences into a direction, and inner products into scores.

    Args:
        delta, middle: `halves` of the pairs to learn it from.

    Raises:
        ValueError: unknown `scale` or `direction`, or both "raw" and "shrinkage".
    """
    weights = inverse_variances(delta, middle, scale, folds)
    if direction == "mean":
        return weights
    if direction != "shrinkage":
        raise ValueError(f"direction must be 'mean' or 'shrinkage', not {direction!r}")
    if scale != "sd":
        raise ValueError("direction 'shrinkage' needs scale 'sd': it shrinks correlations")
    return Shrunk(weights, delta, middle)


def kernels(
    artifact: NDArray[np.floating],
    natural: NDArray[np.floating],
    *,
    scale: Scale = "sd",
    direction: Direction = "mean",
    folds: Clusters | None = None,
) -> Kernels:
    """The three kernels of one layer.

    Args:
        artifact, natural: `(pairs, hidden)` activations, any float dtype; row i of both is pair i.
        scale: `"sd"` divides each dimension by its training variance; `"raw"` does not.
        direction: as in `separation`.
        folds: pairs that are held out together; by default each pair by itself.

    Raises:
        ValueError: unknown `scale` or `direction`.
    """
    delta, middle = halves(artifact, natural)
    n, width = delta.shape
    folds = folds or Clusters.from_labels(None, n)
    weigh = metric(delta, middle, scale, direction, folds)
    difference, midpoint = (np.empty((n, n)) for _ in range(2))
    mean = middle.mean(axis=0)
    for rows in blocks(n, width):
        pairs = np.arange(n)[rows]
        vectors = np.concatenate([delta[rows], middle[rows] - mean])
        found = product(weigh.apart(vectors, np.tile(pairs, 2)), delta.T)
        difference[rows], midpoint[rows] = found[: len(pairs)], found[len(pairs) :]
        same = folds.of[rows, None] == folds.of
        difference[rows][same] = midpoint[rows][same] = 0.0
    del middle
    weigh = weigh.without_folds()
    gram = np.empty((n, n))
    for rows in blocks(n, width):
        gram[rows] = product(weigh.together(delta[rows]), delta.T)
    return Kernels.from_products(difference, midpoint, gram, folds)


def fold_directions(
    artifact: NDArray[np.floating],
    natural: NDArray[np.floating],
    *,
    scale: Scale = "sd",
    direction: Direction = "mean",
    clusters: Sequence[Hashable] | None = None,
) -> FloatArray:
    """The direction each pair is scored along, learnt from all the other clusters.

    Args:
        artifact, natural: `(pairs, hidden)` activations of one layer.
        scale, direction, clusters: as in `separation`. With `"raw"` it is the others' summed
            difference.

    Returns:
        float64 `(pairs, hidden)`: row i is w_i = Σ_{j∉F(i)} δ_j / s²_{−F(i)}, F(i) being pair i's
        cluster; not normalised.
    """
    delta, middle = halves(artifact, natural)
    folds = Clusters.from_labels(clusters, len(delta))
    weigh = metric(delta, middle, scale, direction, folds)
    return weigh.apart(delta.sum(axis=0) - folds.sums(delta.T).T, np.arange(len(delta)))


def _make_summable(kernel: FloatArray) -> None:
    """Round each row, in place, to a grid on which any signed sum of its entries is exact.

    A product with signs is a sum of ±kernel entries. On a grid of 2⁻⁵² of the row's absolute sum
    those sums are exact, so that their order (the chunk size, the BLAS, its threads) cannot change
    a bit of the result; the rounding is no larger than that of an ordinary sum.
    """
    for rows in blocks(len(kernel), kernel.shape[1]):
        part = kernel[rows]
        reach = np.abs(part).sum(axis=1, keepdims=True)
        step = np.ldexp(1.0, np.frexp(reach)[1] - 52)
        part /= step
        np.rint(part, out=part)
        part *= step


def blocks(total: int, across: int) -> Iterator[slice]:
    """Slices of rows or columns that together hold as many numbers as need little memory."""
    size = max(1, BLOCK // across)
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def _inverse(variance: FloatArray) -> FloatArray:
    """1/variance, and zero where the dimension is dead."""
    alive = variance > DEAD_SD**2 * np.median(variance, axis=-1, keepdims=True)
    return np.divide(1.0, variance, out=np.zeros_like(variance), where=alive)
