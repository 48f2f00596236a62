"""All figures of `separation` for a family of layers."""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy import stats

from tests.stats.reference import bounds
from tests.stats.reference.flips import Layers
from tests.stats.reference.scores import Array, Labels, area, d_s, d_z, half_ties, hedges, held_out


@dataclass(frozen=True)
class Figures:
    d: float
    d_z: float
    d_se: float
    analytic_interval: tuple[float, float]
    d_interval: tuple[float, float]
    d_lower: float
    accuracy: float
    accuracy_interval: tuple[float, float]
    accuracy_lower: float
    paired_accuracy: float
    auroc: float
    scores_artifact: tuple[float, ...]
    scores_natural: tuple[float, ...]


def distinct(layers: Layers) -> list[int]:
    """The first of each set of pairs that are identical in both arms of every layer."""
    n = len(layers[0][0])
    kept: list[int] = []
    for i in range(n):
        if not any(all((x[i] == x[j]).all() for arms in layers for x in arms) for j in kept):
            kept.append(i)
    return kept


def figures(
    layers: Layers,
    units: Labels,
    folds: Labels,
    multipliers: Array,
    level: float = 0.95,
    direction: str = "mean",
) -> list[Figures]:
    n, g = len(units), len(set(units))
    j = hedges(n)
    parts = []
    for a, b in layers:
        scores = held_out(a, b, folds, direction)
        expansion = bounds.expand(a, b, scores, units, folds, direction)
        parts.append((scores, expansion, bounds.accuracy(scores, units, expansion)))
    draws = [e.draws(multipliers) for _, e, _ in parts]
    of_d = bounds.steps_back(
        [x / sqrt(e.variance) for x, (_, e, _) in zip(draws, parts, strict=True)], level, g
    )
    of_accuracy = bounds.steps_back(
        [
            bounds.draws_of_accuracy(share.influence, multipliers)
            for _, _, share in parts
            if share.influence.any()
        ],
        level,
        g,
    )
    two_sided = bounds.t_quantile((1 + level) / 2, g)
    widening = two_sided / float(stats.norm.ppf((1 + level) / 2))
    found = []
    for x, (scores, expansion, share) in zip(draws, parts, strict=True):
        d = j * d_s(scores.difference, scores.midpoint)
        se = j * sqrt(expansion.variance)
        half = widening * j * float(np.quantile(np.abs(x), level))
        found.append(
            Figures(
                d=d,
                d_z=d_z(scores.difference),
                d_se=se,
                analytic_interval=(d - two_sided * se, d + two_sided * se),
                d_interval=(d - half, d + half),
                d_lower=d - of_d * se,
                accuracy=share.mean,
                accuracy_interval=(
                    bounds.wilson(share.mean, share.size, two_sided, -1),
                    bounds.wilson(share.mean, share.size, two_sided, 1),
                ),
                accuracy_lower=bounds.wilson(share.mean, share.size, of_accuracy, -1),
                paired_accuracy=float(np.mean([half_ties(x) for x in scores.difference])),
                auroc=area(scores.artifact, scores.natural),
                scores_artifact=tuple(scores.artifact),
                scores_natural=tuple(scores.natural),
            )
        )
    return found
