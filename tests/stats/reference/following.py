"""Held-out scores against what the model did, within categories.

`units` has a label for each prompt: prompts with equal labels are dealt out and resampled together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from math import inf, sqrt

import numpy as np

from tests.stats.reference import bounds
from tests.stats.reference.scores import Array, Labels, area, half_ties

Kinds = Sequence[bool]


@dataclass(frozen=True)
class Figures:
    auroc: float
    lower: float
    p_value: float
    p_adjusted: float


def _parts(evaded: Kinds, categories: Labels) -> list[tuple[list[int], list[int]]]:
    """The evaded and the answered prompts of each category that holds both."""
    found = []
    for category in dict.fromkeys(categories):
        here = [i for i in range(len(evaded)) if categories[i] == category]
        above, below = [i for i in here if evaded[i]], [i for i in here if not evaded[i]]
        if above and below:
            found.append((above, below))
    return found


def auroc(scores: Array, evaded: Kinds, categories: Labels) -> float:
    """Averaged over the categories that hold both kinds."""
    return float(
        np.mean([area(scores[above], scores[below]) for above, below in _parts(evaded, categories)])
    )


def dealings(evaded: Kinds, categories: Labels, units: Labels) -> list[list[bool]]:
    """All ways to deal out what was done among units with prompts of the same categories."""
    alike: dict[tuple[object, ...], list[list[int]]] = {}
    for unit in dict.fromkeys(units):
        mine = [i for i in range(len(units)) if units[i] == unit]
        mine.sort(key=lambda i: str(categories[i]))
        alike.setdefault(tuple(categories[i] for i in mine), []).append(mine)
    ways = []
    for members in alike.values():
        patterns = [tuple(evaded[i] for i in mine) for mine in members]
        ways.append(
            [
                {
                    i: kind
                    for mine, kinds in zip(members, order, strict=True)
                    for i, kind in zip(mine, kinds, strict=True)
                }
                for order in sorted(set(permutations(patterns)))
            ]
        )
    found = []
    for choice in product(*ways):
        kinds = {i: kind for part in choice for i, kind in part.items()}
        found.append([kinds[i] for i in range(len(units))])
    return found


def influence(scores: Array, evaded: Kinds, categories: Labels, units: Labels) -> Array:
    """`(units,)`: DeLong's: each prompt's share of prompts of the other kind that it lies right of,
    less its category's mean."""
    each = np.zeros(len(scores))
    parts = _parts(evaded, categories)
    for above, below in parts:
        for mine, others, sign in ((above, below, 1), (below, above, -1)):
            right = [
                np.mean([half_ties(sign * (scores[i] - scores[k])) for k in others]) for i in mine
            ]
            m = len(mine)
            for i, share in zip(mine, right, strict=True):
                each[i] = (share - np.mean(right)) / sqrt(m * max(1, m - 1)) / len(parts)
    return np.array(
        [sum(each[i] for i in range(len(units)) if units[i] == u) for u in dict.fromkeys(units)]
    )


def figures(
    layers: Sequence[Array],
    evaded: Kinds,
    categories: Labels,
    units: Labels,
    multipliers: Array,
    level: float = 0.95,
) -> list[Figures]:
    used = sorted(i for part in _parts(evaded, categories) for kind in part for i in kind)
    layers = [scores[used] for scores in layers]
    evaded, categories, units = ([x[i] for i in used] for x in (evaded, categories, units))
    own = [auroc(scores, evaded, categories) for scores in layers]
    dealt = np.array(
        [
            [auroc(scores, kinds, categories) for scores in layers]
            for kinds in dealings(evaded, categories, units)
        ]
    )
    g = len(set(units))
    fewer = min(
        len({unit for unit, kind in zip(units, evaded, strict=True) if kind == which})
        for which in (True, False)
    )
    parts = [influence(scores, evaded, categories, units) for scores in layers]
    back = bounds.steps_back(
        [bounds.draws_of_accuracy(part, multipliers) for part in parts if part.any()], level, g
    )
    found = []
    for k, (area_, part) in enumerate(zip(own, parts, strict=True)):
        variance = float((part**2).sum())
        size = min(fewer, area_ * (1 - area_) / variance if variance > 0 else inf)
        found.append(
            Figures(
                auroc=area_,
                lower=bounds.wilson(area_, size, back, -1),
                p_value=float(np.mean(dealt[:, k] >= area_ - 1e-12)),
                p_adjusted=float(np.mean(dealt.max(axis=1) >= area_ - 1e-12)),
            )
        )
    return found
