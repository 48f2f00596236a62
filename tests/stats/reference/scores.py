"""Directions that have not seen what they score, and the figures of the scores.

Arms are `(pairs, hidden)`. `folds` has a label for each pair: pairs with equal labels never score
each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = Sequence[object]

LAMBDA = 0.9  # of direction="shrinkage"


@dataclass(frozen=True)
class Scores:
    """`(pairs,)` each: D, R and N of the formulas, and both arms' centred scores."""

    difference: Array
    midpoint: Array
    norm: Array
    artifact: Array
    natural: Array


def metric(artifact: Array, natural: Array, rows: Sequence[int], direction: str) -> Array:
    """`(hidden, hidden)`: what the summed differences are multiplied by, learnt from `rows`."""
    prompts = np.concatenate([artifact[rows], natural[rows]])
    sd = prompts.std(axis=0, ddof=1)
    alive = sd > 1e-6 * np.median(sd)
    everywhere = np.concatenate([artifact, natural]).std(axis=0, ddof=1)
    alive &= everywhere > 1e-6 * np.median(everywhere)
    inverse = np.diag(np.where(alive, 1 / np.where(alive, sd, 1), 0))
    if direction == "mean":
        return inverse @ inverse
    scaled = (prompts - prompts.mean(axis=0)) @ inverse
    correlations = scaled.T @ scaled / (len(prompts) - 1)
    shrunk = (1 - LAMBDA) * correlations + LAMBDA * np.eye(len(sd))
    return inverse @ np.linalg.inv(shrunk) @ inverse


def held_out(artifact: Array, natural: Array, folds: Labels, direction: str = "mean") -> Scores:
    """Score each pair along the direction of the pairs of other folds."""
    n = len(artifact)
    grand = np.concatenate([artifact, natural]).mean(axis=0)
    overall = metric(artifact, natural, range(n), direction)
    found: list[tuple[float, ...]] = []
    for i in range(n):
        others = [j for j in range(n) if folds[j] != folds[i]]
        total = np.sum([artifact[j] - natural[j] for j in others], axis=0)
        w = metric(artifact, natural, others, direction) @ total
        norm = total @ overall @ total
        w = w / np.sqrt(norm)
        centre = np.concatenate([artifact[others], natural[others]]).mean(axis=0)
        found.append(
            (
                w @ (artifact[i] - natural[i]),
                w @ ((artifact[i] + natural[i]) / 2 - grand),
                norm,
                w @ (artifact[i] - centre),
                w @ (natural[i] - centre),
            )
        )
    return Scores(*np.array(found).T)


def d_s(difference: Array, midpoint: Array) -> float:
    """d without Hedges' correction."""
    return float(
        np.mean(difference) / np.sqrt(np.var(midpoint, ddof=1) + np.var(difference, ddof=1) / 4)
    )


def hedges(pairs: int) -> float:
    """J."""
    return 1 - 3 / (4 * (2 * pairs - 2) - 1)


def d_z(difference: Array) -> float:
    """The test statistic."""
    return float(np.mean(difference) / np.std(difference, ddof=1))


def half_ties(value: float) -> float:
    """1 above zero, 0 below, one half at it."""
    return 1.0 if value > 0 else 0.0 if value < 0 else 0.5


def accuracies(scores: Scores) -> Array:
    """`(pairs,)`: the share of each pair's prompts on their own side."""
    return np.array(
        [
            (half_ties(a) + half_ties(-b)) / 2
            for a, b in zip(scores.artifact, scores.natural, strict=True)
        ]
    )


def area(above: Sequence[float] | Array, below: Sequence[float] | Array) -> float:
    """Mann–Whitney's: how often a score of `above` is the larger one."""
    return float(np.mean(np.sign(np.subtract.outer(above, below)) / 2 + 0.5))
