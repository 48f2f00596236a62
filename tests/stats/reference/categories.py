"""Each category along the direction of the others."""

from dataclasses import dataclass

import numpy as np

from tests.stats.reference import bounds
from tests.stats.reference.scores import (
    Array,
    Labels,
    accuracies,
    d_s,
    hedges,
    held_out,
)


@dataclass(frozen=True)
class Figures:
    category: object
    d: float
    d_interval: tuple[float, float]
    accuracy: float


def figures(
    artifact: Array,
    natural: Array,
    categories: Labels,
    units: Labels,
    level: float = 0.95,
    direction: str = "mean",
) -> list[Figures]:
    scores = held_out(artifact, natural, categories, direction)
    each = accuracies(scores)
    found = []
    for category in dict.fromkeys(categories):
        here = [i for i in range(len(units)) if categories[i] == category]
        own = list(dict.fromkeys(units[i] for i in here))
        if len(own) < 3:
            continue
        j = hedges(len(here))
        d = j * d_s(scores.difference[here], scores.midpoint[here])
        without = []
        for unit in own:
            rest = [i for i in here if units[i] != unit]
            without.append(d_s(scores.difference[rest], scores.midpoint[rest]))
        half = bounds.t_quantile((1 + level) / 2, len(own)) * j
        half *= float(np.linalg.norm(bounds.jackknife(without)))
        found.append(Figures(category, d, (d - half, d + half), float(np.mean(each[here]))))
    return found
