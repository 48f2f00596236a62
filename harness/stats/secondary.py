"""Where a separation comes from: does it cross categories, and at which tokens is it?"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.defaults import LEVEL, MIN_PAIRS, REPLICATES, Direction, Scale
from harness.stats.arrays import Layers, MatchedLayers, pair_means
from harness.stats.clusters import Clusters
from harness.stats.compare import holm
from harness.stats.estimates import (
    hedges_correction,
    pair_accuracies,
    paired_statistic,
    standardized_difference,
)
from harness.stats.intervals import Interval, analytic_interval, check_level
from harness.stats.kernels import Kernels, halves, metric
from harness.stats.resample import Flipper, HeldOut, Null, Signs, p_value_se, p_values, sign_flips

MIN_CATEGORY = 3


@dataclass(frozen=True, slots=True)
class CategoryTransfer:
    """One category scored along a direction learnt on all the others.

    Attributes:
        category: the category that was left out.
        d, accuracy: Hedges' d and accuracy of its pairs.
        d_interval: interval of d for fresh pairs of this category along the same direction: the
            direction has not seen them, so a jackknife (Efron & Stein 1981) with t quantiles is
            enough.
        n_pairs, n_units: its number of pairs, and of clusters that they form.
        p_value, p_adjusted: one-sided, of flipping its clusters along the direction as it is; and
            adjusted over the categories (Holm 1979). At best 2^−n_units.
    """

    category: Hashable
    d: float
    d_interval: Interval
    accuracy: float
    n_pairs: int
    n_units: int
    p_value: float
    p_adjusted: float


def leave_one_category_out(
    artifact: Layers,
    natural: Layers,
    categories: Sequence[Hashable],
    *,
    scale: Scale = "sd",
    direction: Direction = "mean",
    permutations: int = REPLICATES,
    level: float = LEVEL,
    seed: int = 0,
    clusters: Sequence[Hashable] | None = None,
) -> list[list[CategoryTransfer]]:
    """Score every category along the direction that the other categories give.

    Args:
        artifact, natural, scale, direction, seed: as in `separation`.
        categories: category of each pair.
        permutations: sign flips of a category's clusters, the identity included; all of them where
            there are no more.
        level: nominal coverage of the intervals.
        clusters: as in `separation`. No direction has seen a cluster of the category, even where
            it has pairs in others.

    Returns:
        For each layer, one `CategoryTransfer` per category, in order of first appearance.
        Categories with fewer than 3 clusters, or with fewer than 8 pairs outside them, are left
        out.

    Raises:
        ValueError: shapes do not match, non-finite values, not one category per pair, or no flips.
    """
    check_level(level)
    layers = MatchedLayers(artifact, natural)
    n = len(layers[0][0])
    if len(categories) != n:
        raise ValueError(f"categories must name one category for each of {n} pairs")
    if permutations < 1:
        raise ValueError(f"permutations must be 1 or more, not {permutations}")
    all_units, rng = Clusters.from_labels(clusters, n), np.random.default_rng(seed)
    parts: list[_Part] = []
    for category in dict.fromkeys(categories):
        held = np.flatnonzero([other == category for other in categories])
        others = np.flatnonzero(~np.isin(all_units.of, all_units.of[held]))
        units = all_units.take(held)
        if len(units) >= MIN_CATEGORY and len(others) >= MIN_PAIRS:
            # With a further unit that is never flipped: a pattern and its opposite aren't the same.
            signs = sign_flips(len(units) + 1, permutations, rng)[:, :-1]
            parts.append(_Part(category, held, others, units, signs))
    results = []
    for layer in layers:
        found = [_transfer(*layer, part, scale, direction, level) for part in parts]
        p = holm(np.array([transfer.p_value for transfer in found]))
        results.append(
            [replace(t, p_adjusted=each) for t, each in zip(found, p.tolist(), strict=True)]
        )
    return results


class _Part(NamedTuple):
    """A category: its pairs, those that its direction is learnt from, its clusters, and the
    flips of these."""

    category: Hashable
    held: NDArray[np.intp]
    others: NDArray[np.intp]
    units: Clusters
    signs: Signs


def _transfer(
    artifact: NDArray[np.floating],
    natural: NDArray[np.floating],
    part: _Part,
    scale: Scale,
    direction: Direction,
    level: float,
) -> CategoryTransfer:
    """With the category's p by itself in both places."""
    category, held, others, units, signs = part
    delta, middle = halves(artifact, natural)
    apart = Clusters.from_labels(None, len(others))
    weigh = metric(delta[others], middle[others], scale, direction, apart)
    along = weigh.together(delta[others].sum(axis=0))
    difference = delta[held] @ along
    midpoint = (middle[held] - middle[others].mean(axis=0)) @ along
    accuracies = pair_accuracies(midpoint + difference / 2, midpoint - difference / 2)
    n, n_units = len(held), len(units)
    # The direction stays, and so does the sum of squares: d_z grows with the sum alone.
    totals = units.totals(difference)
    sums = np.einsum("fu,u->f", signs, totals) / (np.abs(totals).sum() or 1.0)
    p = float(p_values(sums[None])[0][0])
    d = hedges_correction(n) * float(standardized_difference(difference, midpoint))
    left_out = [
        float(standardized_difference(difference[units.of != i], midpoint[units.of != i]))
        for i in range(n_units)
    ]
    se = hedges_correction(n) * float(np.sqrt((n_units - 1) * np.var(left_out)))
    return CategoryTransfer(
        category=category,
        d=d,
        d_interval=analytic_interval(d, se, n_units, level),
        accuracy=float(accuracies.mean()),
        n_pairs=n,
        n_units=n_units,
        p_value=p,
        p_adjusted=p,
    )


@dataclass(frozen=True, slots=True)
class StepSeparation:
    """Separation at one generated token, along the directions of the whole response.

    Attributes:
        step: index of the token, from 0.
        d, d_z, accuracy: as in `Separation`, over the pairs that have this token in both arms.
        p_value, p_adjusted: one-sided sign-flip p, and family-wise over the steps (maxT).
        null_quantile_95: 95% quantile of d under the flips.
        n_pairs: pairs that have this token in both arms.
        p_se, p_adjusted_se: Monte Carlo standard errors of the two p-values, as in `Separation`.
    """

    step: int
    d: float
    d_z: float
    accuracy: float
    p_value: float
    p_adjusted: float
    null_quantile_95: float
    n_pairs: int
    p_se: float
    p_adjusted_se: float


def step_curve(
    artifact: Sequence[NDArray[np.floating]],
    natural: Sequence[NDArray[np.floating]],
    *,
    scale: Scale = "sd",
    direction: Direction = "mean",
    permutations: int = REPLICATES,
    min_share: float = 0.8,
    seed: int = 0,
    clusters: Sequence[Hashable] | None = None,
) -> list[StepSeparation]:
    """Separation of one layer token by token.

    Each pair's step-t vectors are scored along the direction that the other pairs' averages
    give, and under every flip the directions are refitted, as in `separation`.

    Args:
        artifact, natural: per pair, one `(tokens_i, hidden)` array; the arms' numbers of tokens may
            differ.
        scale, direction, permutations, seed, clusters: as in `separation`; at least one flip.
        min_share: steps that fewer than this share of the pairs have in both arms are left out.

    Raises:
        ValueError: shapes do not match, a pair without tokens, non-finite values, fewer than 8
            clusters, `permutations` or `min_share` out of range.
    """
    means = pair_means(artifact, natural)
    n = len(means[0])
    folds = Clusters.from_labels(clusters, n)
    if len(folds) < MIN_PAIRS:
        units = "pairs" if folds.single else "clusters of pairs"
        raise ValueError(f"{len(folds)} {units} are too few: at least {MIN_PAIRS} are needed")
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, not {permutations}")
    if not 0 < min_share <= 1:
        raise ValueError(f"min_share must lie between 0 and 1, not {min_share}")
    delta, middle = halves(*MatchedLayers(means[0][None], means[1][None])[0])
    weigh = metric(delta, middle, scale, direction, folds)
    gram = weigh.together(delta) @ delta.T
    signs = sign_flips(len(folds), permutations, np.random.default_rng(seed))[:, folds.of]
    shared = np.array([min(len(a), len(b)) for a, b in zip(artifact, natural, strict=True)])

    observed: list[tuple[int, HeldOut, Clusters]] = []
    nulls: list[Null] = []
    for step in range(shared.max()):
        rows = np.flatnonzero(shared > step)
        if len(rows) < max(min_share * n, MIN_PAIRS):
            break
        step_delta, step_middle = halves(
            *(np.stack([arm[pair][step] for pair in rows.tolist()]) for arm in (artifact, natural))
        )
        step_middle -= step_middle.mean(axis=0)
        vectors = np.concatenate([step_delta, step_middle])
        found = weigh.apart(vectors, np.tile(rows, 2)) @ delta.T
        difference, midpoint = found[: len(rows)], found[len(rows) :]
        difference[folds.same[rows]] = midpoint[folds.same[rows]] = 0.0
        flipper = Flipper(Kernels.from_products(difference, midpoint, gram.copy(), folds), rows)
        observed.append((step, flipper.observed(), folds.take(rows)))
        nulls.append(flipper.null(signs))

    if not observed:
        return []
    p, p_adjusted = p_values(np.stack([null.d_z for null in nulls]))
    results = []
    for index, (step, held, scored) in enumerate(observed):
        size = len(held.difference)
        correction = hedges_correction(size)
        results.append(
            StepSeparation(
                step=step,
                d=correction * float(standardized_difference(held.difference, held.midpoint)),
                d_z=float(paired_statistic(held.difference)),
                accuracy=float(pair_accuracies(*held.scores(scored)).mean()),
                p_value=float(p[index]),
                p_adjusted=float(p_adjusted[index]),
                null_quantile_95=correction * float(np.quantile(nulls[index].d_s, 0.95)),
                n_pairs=size,
                p_se=p_value_se(p[index], len(signs), len(folds)),
                p_adjusted_se=p_value_se(p_adjusted[index], len(signs), len(folds)),
            )
        )
    return results
