"""What the pairs and the representations are like, apart from how far the arms lie apart."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from harness.defaults import COSINE, LEVEL, Scale
from harness.stats.arrays import Checked, FloatArray, Layers, MatchedLayers
from harness.stats.clusters import Clusters, usable_pairs
from harness.stats.compare import holm
from harness.stats.intervals import Interval, analytic_interval, check_level, u_centred
from harness.stats.kernels import halves, inverse_variances
from harness.stats.resample import SMALL_NORM


@dataclass(frozen=True, slots=True)
class PairQuality:
    """How well one layer's pairs agree on a direction.

    Attributes:
        cosines: of each pair's difference with the direction of all other clusters, in the scaled
            space; zero where either vanishes.
        mean_cosine: their mean.
        disagreeing: pairs whose cosine is negative, worst first.
        top_dimensions, top_share: the dimensions that hold most of Σ‖δ‖² in raw units, largest
            first, and their share of it: near 1 where a few massive activations rule the raw
            geometry.
    """

    cosines: tuple[float, ...]
    mean_cosine: float
    disagreeing: tuple[int, ...]
    top_dimensions: tuple[int, ...]
    top_share: float


def pair_quality(
    artifact: Layers,
    natural: Layers,
    *,
    scale: Scale = "sd",
    top: int = 5,
    clusters: Sequence[Hashable] | None = None,
) -> list[PairQuality]:
    """Agreement of the pairs with each other, and dominance of single dimensions.

    Args:
        artifact, natural, scale, clusters: as in `separation`.
        top: number of dimensions in `top_dimensions`.

    Raises:
        ValueError: shapes do not match, non-finite values, or `top` below 1.
    """
    if top < 1:
        raise ValueError(f"top must be at least 1, not {top}")
    layers = MatchedLayers(artifact, natural)
    folds = Clusters.from_labels(clusters, len(layers[0][0]))
    return [_quality(*layer, scale, top, folds) for layer in layers]


def _quality(
    artifact: NDArray[np.floating],
    natural: NDArray[np.floating],
    scale: Scale,
    top: int,
    folds: Clusters,
) -> PairQuality:
    delta, middle = halves(artifact, natural)
    gram = (delta * inverse_variances(delta, middle, scale, folds).overall) @ delta.T
    own, rows = np.diagonal(gram), gram.sum(axis=1)
    within = np.where(folds.same, gram, 0.0).sum(axis=1)
    # ‖δ_i‖² ‖Σ_{j∉F} δ_j‖²
    squares = own * (gram.sum() - 2 * folds.sums(rows) + folds.sums(within))
    usable = squares > (SMALL_NORM * own.sum()) ** 2
    cosines = (rows - within) / np.sqrt(np.where(usable, squares, np.inf))

    energy = (delta**2).sum(axis=0)
    largest = np.argsort(-energy, kind="stable")[:top]
    worst = np.argsort(cosines, kind="stable")
    return PairQuality(
        cosines=tuple(cosines.tolist()),
        mean_cosine=float(cosines.mean()),
        disagreeing=tuple(worst[cosines[worst] < 0].tolist()),
        top_dimensions=tuple(largest.tolist()),
        top_share=float(energy[largest].sum() / energy.sum()) if energy.any() else 0.0,
    )


def debiased_cka(x: Layers, y: Layers) -> FloatArray:
    """Debiased linear CKA between all layers of `x` and all layers of `y`.

    Similarity of two representations of the same prompts up to rotation and scale; expected to
    be 0 between unrelated ones, 1 between equal ones, and not inflated where there are fewer
    prompts than dimensions (Kornblith et al. 2019, with the unbiased HSIC of Song et al. 2012).

    Args:
        x, y: `(layers, prompts, hidden)`, or sequences of `(prompts, hidden_l)`; widths and depths
            may differ, prompts must be the same, at least 4. For both arms, concatenate them along
            the prompts.

    Returns:
        float64 `(layers of x, layers of y)`; NaN where a representation does not vary.
    """
    forms = [
        np.stack([_prompt_gram(layer).ravel() for layer in Checked(name, values)])
        for name, values in (("x", x), ("y", y))
    ]
    if forms[0].shape[1] != forms[1].shape[1]:
        raise ValueError("x and y must hold the same prompts")
    return forms[0] @ forms[1].T


def _prompt_gram(layer: NDArray[np.floating]) -> FloatArray:
    """U-centred Gram matrix of the prompts, of unit norm."""
    if len(layer) < 4:
        raise ValueError(f"CKA needs at least 4 prompts, not {len(layer)}")
    values = np.asarray(layer, dtype=np.float64)
    values = values - values.mean(axis=0)
    gram = u_centred(values @ values.T)
    norm = np.linalg.norm(gram)
    return gram / norm if norm > 0 else np.full_like(gram, np.nan)


Identity = Literal["same", "turned", "inconclusive"]


@dataclass(frozen=True, slots=True)
class DirectionDrift:
    """Cosine between two versions' directions, corrected for the noise in both.

    Attributes:
        cosine: Σ_{i≠j} δ^A_i·δ^B_j over the root of the same sums within A and within B: unlike the
            plain cosine of two noisy means it does not shrink with the hidden size. It may exceed
            1, and is NaN where a version has no direction to speak of.
        interval, se: jackknife over clusters.
        verdict: `"same"` if the interval at 2·level − 1 (90% for 95%) lies above `least`, else
            `"turned"` if the cosine is below it with a one-sided p, adjusted over the layers of the
            call (Holm 1979), below 1 − level, else `"inconclusive"`; the latter where there is no
            cosine, too.
        p_turned: that p.
        least: smallest cosine that counts as the same direction.
        n_pairs, n_units: distinct pairs used, and the clusters that they form.
    """

    cosine: float
    interval: Interval
    se: float
    verdict: Identity
    p_turned: float
    least: float
    n_pairs: int
    n_units: int


def direction_drift(
    artifact_a: Layers,
    natural_a: Layers,
    artifact_b: Layers,
    natural_b: Layers,
    *,
    least: float = COSINE,
    scale: Scale = "sd",
    level: float = LEVEL,
    clusters: Sequence[Hashable] | None = None,
) -> list[DirectionDrift]:
    """How far the direction of separation turned between two versions, layer by layer.

    Args:
        artifact_a, natural_a, artifact_b, natural_b: as in `compare`, with equal depths and widths.
        least: smallest cosine that counts as the same direction.
        scale: `"sd"` measures angles with each dimension divided by its standard deviation over
            both versions; `"raw"` in raw units.
        level: nominal coverage of the interval.
        clusters: as in `separation`.

    Raises:
        ValueError: shapes do not match, non-finite values, or fewer than 8 clusters of distinct
            pairs.
    """
    check_level(level)
    a, b = MatchedLayers(artifact_a, natural_a, "_a"), MatchedLayers(artifact_b, natural_b, "_b")
    if [layer[0].shape for layer in a] != [layer[0].shape for layer in b]:
        raise ValueError("artifact_a and artifact_b must have the same shape, layer by layer")
    pairs, units = usable_pairs(
        artifact_a, natural_a, artifact_b, natural_b, collapse_duplicates=True, labels=clusters
    )
    n_units = len(units)
    found = [_cosine(one, other, pairs, units, scale) for one, other in zip(a, b, strict=True)]
    cosines, errors = np.array(found).T
    # Where there is no direction there is nothing that could have turned.
    ratio = np.divide(
        cosines - least, errors, out=np.where(cosines < least, -np.inf, np.inf), where=errors > 0
    )
    known = np.isfinite(cosines) & np.isfinite(errors)
    p_turned = holm(np.where(known, stdtr(n_units - 1, ratio), 1.0))
    results = []
    for cosine, se, p in zip(cosines.tolist(), errors.tolist(), p_turned.tolist(), strict=True):
        low, _ = analytic_interval(cosine, se, n_units, 2 * level - 1)
        verdict: Identity = "turned" if p < 1 - level else "inconclusive"
        results.append(
            DirectionDrift(
                cosine=cosine,
                interval=analytic_interval(cosine, se, n_units, level),
                se=se,
                verdict="same" if low > least else verdict,
                p_turned=p,
                least=least,
                n_pairs=len(pairs),
                n_units=n_units,
            )
        )
    return results


def _cosine(
    a: tuple[NDArray[np.floating], NDArray[np.floating]],
    b: tuple[NDArray[np.floating], NDArray[np.floating]],
    pairs: NDArray[np.intp],
    units: Clusters,
    scale: Scale,
) -> tuple[float, float]:
    n, n_units = len(pairs), len(units)
    delta, middle = halves(
        *(np.concatenate([x[pairs], y[pairs]]) for x, y in zip(a, b, strict=True))
    )
    both = Clusters.from_labels([*units.of.tolist(), *units.of.tolist()], 2 * n)
    weighted = delta * inverse_variances(delta, middle, scale, both).overall
    within_a = _leave_outs(weighted[:n] @ delta[:n].T, units)
    within_b = _leave_outs(weighted[n:] @ delta[n:].T, units)
    between = _leave_outs(weighted[:n] @ delta[n:].T, units)
    product = within_a * within_b
    signal = (within_a > 0) & (within_b > 0)
    cosines = np.divide(
        between, np.sqrt(np.abs(product)), out=np.full(n_units + 1, np.nan), where=signal
    )
    cosine, without = float(cosines[0]), cosines[1:]
    return cosine, float(np.sqrt((n_units - 1) / n_units * ((without - without.mean()) ** 2).sum()))


def _leave_outs(products: FloatArray, units: Clusters) -> FloatArray:
    """Mean product of pairs of different clusters: of all, then without each cluster in turn;
    `(clusters + 1,)`."""
    n = len(products)
    off = np.where(units.same, 0.0, products)
    total = off.sum()
    without = total - units.totals(off.sum(axis=0)) - units.totals(off.sum(axis=1))
    between = n**2 - (units.sizes**2).sum()
    left = between - 2 * units.sizes * (n - units.sizes)
    return np.concatenate([[total / between], without / left])
