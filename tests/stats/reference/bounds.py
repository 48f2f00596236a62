"""How uncertain d and accuracy are: the expansion to second order, intervals, lower bounds.

`units` has a label for each pair: pairs with equal labels vary together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from scipy import stats

from tests.stats.reference.scores import Array, Labels, Scores, accuracies, d_s, metric


@dataclass(frozen=True)
class Expansion:
    """d_s* − d_s = ε·psi + εᵀqε, with a multiplier for each unit in order of appearance."""

    psi: Array
    q: Array

    @property
    def variance(self) -> float:
        return float((self.psi**2).sum() + 2 * (self.q**2).sum())

    def draws(self, multipliers: Array) -> Array:
        """`(replicates,)`, of `(replicates, units)` standard normal numbers."""
        return np.array([e @ self.psi + e @ self.q @ e for e in multipliers])


def jackknife(figures: Sequence[float]) -> Array:
    """Influences of units, from the figure without each: their squares sum to its variance."""
    g = len(figures)
    return np.sqrt((g - 1) / g) * (np.mean(figures) - np.array(figures))


def expand(
    artifact: Array,
    natural: Array,
    scores: Scores,
    units: Labels,
    folds: Labels,
    direction: str = "mean",
) -> Expansion:
    n = len(artifact)
    names = list(dict.fromkeys(units))
    g = len(names)
    members = [[i for i in range(n) if units[i] == name] for name in names]
    size = [len(m) for m in members]
    without = []
    for c in range(g):
        rest = [i for i in range(n) if i not in members[c]]
        without.append(d_s(scores.difference[rest], scores.midpoint[rest]))

    delta = artifact - natural
    overall = metric(artifact, natural, range(n), direction)
    places, sums = [], []
    for c in range(g):
        for d in range(g):
            if folds[members[c][0]] != folds[members[d][0]]:
                places.append((c, d))
                sums.append(
                    sum(delta[i] @ overall @ delta[j] for i in members[c] for j in members[d])
                )
    # Least squares of S_cd on n_d α_c + n_c α_d with weights 1/(n_c n_d).
    design = np.zeros((len(places), g))
    weight = np.array([1 / sqrt(size[c] * size[d]) for c, d in places])
    for row, (c, d) in enumerate(places):
        design[row, c] += size[d]
        design[row, d] += size[c]
    alpha = np.linalg.lstsq(design * weight[:, None], np.array(sums) * weight, rcond=None)[0]
    left = np.array(sums) - design @ alpha
    centred = np.zeros((g, g))
    for (c, d), value in zip(places, left, strict=True):
        centred[c, d] = value
    spread = np.var(scores.midpoint, ddof=1) + np.var(scores.difference, ddof=1) / 4
    factor = sqrt((g - 1) / (2 * n**2 * (g - 3)) * np.mean(1 / scores.norm) / spread)
    return Expansion(jackknife(without), factor * centred)


def t_quantile(probability: float, units: int) -> float:
    return float(stats.t.ppf(probability, units - 1))


def widening(probability: float, units: int) -> float:
    return t_quantile(probability, units) / float(stats.norm.ppf(probability))


def steps_back(deviations: Sequence[Array], level: float, units: int) -> float:
    """How many standard errors all layers' bounds lie below their estimates.

    Args:
        deviations: per layer, `(replicates,)` draws over their standard error; layers without an
            error take no part.
    """
    normal = float(stats.norm.ppf(level))
    if not deviations:
        return t_quantile(level, units)
    largest = [max(layer[b] for layer in deviations) for b in range(len(deviations[0]))]
    return max(float(np.quantile(largest, level)), normal) * t_quantile(level, units) / normal


def draws_of_accuracy(influence: Array, multipliers: Array) -> Array:
    """`(replicates,)`: deviations of a mean, or of an AUROC, over their standard error."""
    return multipliers @ influence / np.sqrt((influence**2).sum())


def wilson(p: float, size: float, t: float, side: int) -> float:
    """One end of Wilson's interval of a share p of `size`."""
    centre = (p + t**2 / (2 * size)) / (1 + t**2 / size)
    half = t / (1 + t**2 / size) * sqrt(p * (1 - p) / size + t**2 / (4 * size**2))
    return centre + side * half


@dataclass(frozen=True)
class Accuracy:
    """A mean of accuracies, what each unit's multiplier adds to it, and Wilson's n_e."""

    mean: float
    influence: Array
    size: float


def accuracy(scores: Scores, units: Labels, expansion: Expansion) -> Accuracy:
    each = accuracies(scores)
    n, mean = len(each), float(np.mean(each))
    names = list(dict.fromkeys(units))
    g = len(names)
    inflation = expansion.variance / float((expansion.psi**2).sum())
    # A ratio: what the units' pairs have beyond the mean, over all pairs.
    excess = np.array([sum(each[i] - mean for i in range(n) if units[i] == u) / n for u in names])
    variance = g / (g - 1) * float((excess**2).sum()) * inflation
    size = min(mean * (1 - mean) / variance if variance > 0 else inf, 2 * g / inflation)
    return Accuracy(mean, excess, size)
