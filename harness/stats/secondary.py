"""Where a separation comes from: does it cross categories, and at which tokens is it?"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.defaults import LEVEL, MIN_PAIRS, REPLICATES, Direction, Scale
from harness.stats.arrays import Layers, MatchedLayers, pair_means
from harness.stats.clusters import Clusters
from harness.stats.estimates import (
    hedges_correction,
    pair_accuracies,
    paired_statistic,
    standardized_difference,
)
from harness.stats.intervals import Interval, analytic_interval, check_level
from harness.stats.kernels import Kernels, halves, metric
from harness.stats.resample import Flipper, HeldOut, Null, p_value_se, p_values, sign_flips

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
    """

    category: Hashable
    d: float
    d_interval: Interval
    accuracy: float
    n_pairs: int
    n_units: int


def leave_one_category_out(
    artifact: Layers,
    natural: Layers,
    categories: Sequence[Hashable],
    *,
    scale: Scale = "sd",
    direction: Direction = "mean",
    level: float = LEVEL,
    clusters: Sequence[Hashable] | None = None,
) -> list[list[CategoryTransfer]]:
    """Score every category along the direction that the other categories give.

    Args:
        artifact, natural, scale, direction: as in `separation`.
        categories: category of each pair.
        level: nominal coverage of the intervals.
        clusters: as in `separation`.

    Returns:
        For each layer, one `CategoryTransfer` per category, in order of first appearance.
        Categories with fewer than 3 clusters, or with fewer than 8 pairs outside them, are left
        out.

    Raises:
        ValueError: shapes do not match, non-finite values, or not one category per pair.
    """
    check_level(level)
    layers = MatchedLayers(artifact, natural)
    n = len(layers[0][0])
    if len(categories) != n:
        raise ValueError(f"categories must name one category for each of {n} pairs")
    members = {
        category: np.array([other == category for other in categories])
        for category in dict.fromkeys(categories)
    }
    units = Clusters.from_labels(clusters, n)
    return [
        [
            _transfer(*layer, category, held, scale, direction, level, inside)
            for category, held in members.items()
            if len(inside := units.take(np.flatnonzero(held))) >= MIN_CATEGORY
            and (~held).sum() >= MIN_PAIRS
        ]
        for layer in layers
    ]


def _transfer(
    artifact: NDArray[np.floating],
    natural: NDArray[np.floating],
    category: Hashable,
    held: NDArray[np.bool_],
    scale: Scale,
    direction: Direction,
    level: float,
    units: Clusters,
) -> CategoryTransfer:
    delta, middle = halves(artifact, natural)
    apart = Clusters.from_labels(None, int((~held).sum()))
    weigh = metric(delta[~held], middle[~held], scale, direction, apart)
    along = weigh.together(delta[~held].sum(axis=0))
    difference = delta[held] @ along
    midpoint = (middle[held] - middle[~held].mean(axis=0)) @ along
    accuracies = pair_accuracies(midpoint + difference / 2, midpoint - difference / 2)
    n, n_units = int(held.sum()), len(units)
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
