"""Directions of interventions, what they do, and the rank of the tested one."""

from math import sqrt

import numpy as np
from scipy import stats

from tests.stats.reference.scores import Array, Labels


def directions(delta: Array, units: Labels, signs: Array, row: int) -> Array:
    """`(1 + random, width)`: pair `row`'s direction, and random ones of its length.

    Args:
        signs: `(random, units)` of ±1.
    """
    names = list(dict.fromkeys(units))
    others = [j for j in range(len(delta)) if units[j] != units[row]]
    own = np.mean([delta[j] for j in others], axis=0)
    found = [own]
    for pattern in signs:
        mixture = np.zeros(delta.shape[1])
        for j in others:
            mixture += pattern[names.index(units[j])] * (delta[j] - own)
        found.append(mixture * np.linalg.norm(own) / np.linalg.norm(mixture))
    return np.array(found)


def rank_test(statistics: Array, degrees: float) -> tuple[Array, Array]:
    """`(kinds, members)`: p by itself, and over the family (maxT within a kind, minP over kinds).

    Args:
        statistics: `(kinds, members, columns)`, the tested direction's column first.
        degrees: of freedom of the law that the other columns were drawn from.
    """
    kinds, members, columns = statistics.shape
    z = np.empty(statistics.shape)
    for k in range(kinds):
        for m in range(members):
            row = statistics[k, m]
            z[k, m] = (row - np.mean(row)) / np.std(row)
            z[k, m, 0] = stats.norm.ppf(stats.t.cdf(z[k, m, 0], degrees))
    largest = [
        [max(z[k, m, c] for m in range(members)) for c in range(columns)] for k in range(kinds)
    ]

    def rank(kind: int, value: float) -> int:
        return sum(other >= value for other in largest[kind])

    smallest = [min(rank(k, largest[k][c]) for k in range(kinds)) for c in range(columns)]
    alone, family = np.empty((kinds, members)), np.empty((kinds, members))
    for k in range(kinds):
        for m in range(members):
            own = z[k, m, 0]
            alone[k, m] = sum(value >= own for value in z[k, m]) / columns
            family[k, m] = sum(s <= rank(k, own) for s in smallest) / columns
    return alone, family


def beyond_random(shifts: Array, units: Labels, level: float) -> tuple[float, tuple[float, float]]:
    """Mean over pairs of the tested direction's shift beyond the random ones', and its t interval.

    Args:
        shifts: `(pairs, 1 + random)`, the tested direction's first.
    """
    excess = [row[0] - np.mean(row[1:]) for row in shifts]
    n, mean = len(excess), float(np.mean(excess))
    names = list(dict.fromkeys(units))
    g = len(names)
    sums = [sum(excess[i] - mean for i in range(n) if units[i] == name) / n for name in names]
    se = sqrt(g / (g - 1) * sum(s**2 for s in sums))
    t = float(stats.t.ppf((1 + level) / 2, g - 1))
    return mean, (mean - t * se, mean + t * se)
