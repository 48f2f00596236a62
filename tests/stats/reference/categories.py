"""Each category along the direction of the others."""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from tests.stats.reference import bounds
from tests.stats.reference.scores import Array, Labels, d_s, d_z, half_ties, hedges, metric
from tests.stats.reference.versions import holm


@dataclass(frozen=True)
class Figures:
    category: object
    d: float
    d_interval: tuple[float, float]
    accuracy: float
    p_value: float
    p_adjusted: float


def figures(
    artifact: Array,
    natural: Array,
    categories: Labels,
    units: Labels,
    level: float = 0.95,
    direction: str = "mean",
) -> list[Figures]:
    n = len(units)
    delta, middle = artifact - natural, (artifact + natural) / 2
    found = []
    for category in dict.fromkeys(categories):
        here = [i for i in range(n) if categories[i] == category]
        own = list(dict.fromkeys(units[i] for i in here))
        # What shares a cluster with the category has no say in its direction.
        others = [i for i in range(n) if units[i] not in own]
        if len(own) < 3:
            continue
        along = metric(artifact, natural, others, direction) @ delta[others].sum(axis=0)
        centre = middle[others].mean(axis=0)
        difference = np.array([along @ delta[i] for i in here])
        midpoint = np.array([along @ (middle[i] - centre) for i in here])
        j = hedges(len(here))
        d = j * d_s(difference, midpoint)
        without = []
        for unit in own:
            rest = [k for k, i in enumerate(here) if units[i] != unit]
            without.append(d_s(difference[rest], midpoint[rest]))
        half = bounds.t_quantile((1 + level) / 2, len(own)) * j
        half *= float(np.linalg.norm(bounds.jackknife(without)))
        right = [
            (half_ties(m + x / 2) + half_ties(x / 2 - m)) / 2
            for x, m in zip(difference, midpoint, strict=True)
        ]
        as_far = []
        for pattern in product([1, -1], repeat=len(own)):
            signs = np.array([pattern[own.index(units[i])] for i in here])
            as_far.append(d_z(signs * difference) >= d_z(difference) - 1e-12)
        p = float(np.mean(as_far))
        found.append(Figures(category, d, (d - half, d + half), float(np.mean(right)), p, p))
    adjusted = holm([f.p_value for f in found])
    return [replace(f, p_adjusted=p) for f, p in zip(found, adjusted, strict=True)]
