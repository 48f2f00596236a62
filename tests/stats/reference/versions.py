"""The same pairs in two versions: changes of d, and of the direction."""

from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
from scipy import stats

from tests.stats.reference import bounds
from tests.stats.reference.flips import Layers
from tests.stats.reference.scores import Array, Labels, d_s, hedges, held_out, metric


@dataclass(frozen=True)
class Change:
    difference: float
    se: float
    interval: tuple[float, float]
    equivalence_interval: tuple[float, float]
    p_value: float
    p_adjusted: float
    verdict: str
    lower: float
    unchanged_passes: float


def refitted_without(artifact: Array, natural: Array, units: Labels, direction: str) -> list[float]:
    """d_s without each unit, along directions that were learnt without it; the scales stay."""
    n = len(artifact)
    grand = np.concatenate([artifact, natural]).mean(axis=0)
    overall = metric(artifact, natural, range(n), direction)
    found = []
    for unit in dict.fromkeys(units):
        difference, midpoint = [], []
        for i in range(n):
            if units[i] == unit:
                continue
            others = [j for j in range(n) if units[j] != units[i]]
            total = np.zeros(artifact.shape[1])
            for j in others:
                if units[j] != unit:
                    total += artifact[j] - natural[j]
            w = metric(artifact, natural, others, direction) @ total
            w = w / sqrt(total @ overall @ total)
            difference.append(w @ (artifact[i] - natural[i]))
            midpoint.append(w @ ((artifact[i] + natural[i]) / 2 - grand))
        found.append(d_s(np.array(difference), np.array(midpoint)))
    return found


def holm(p: list[float]) -> list[float]:
    adjusted, largest = [nan] * len(p), 0.0
    for step, layer in enumerate(sorted(range(len(p)), key=lambda k: p[k])):
        largest = max(largest, min(1.0, (len(p) - step) * p[layer]))
        adjusted[layer] = largest
    return adjusted


def changes(
    before: Layers,
    after: Layers,
    units: Labels,
    multipliers: Array,
    margin: float = 0.5,
    level: float = 0.95,
    direction: str = "mean",
) -> list[Change]:
    n, g = len(units), len(set(units))
    j = hedges(n)
    differences, errors, draws = [], [], []
    for versions in zip(before, after, strict=True):
        d, expansions, refitted = [], [], []
        for a, b in versions:
            scores = held_out(a, b, units, direction)
            d.append(d_s(scores.difference, scores.midpoint))
            expansions.append(bounds.expand(a, b, scores, units, units, direction))
            refitted.append(bounds.jackknife(refitted_without(a, b, units, direction)))
        change = bounds.Expansion(
            expansions[1].psi - expansions[0].psi, expansions[1].q - expansions[0].q
        )
        full = ((refitted[1] - refitted[0]) ** 2).sum() - 4 * (change.q**2).sum()
        differences.append(j * (d[1] - d[0]))
        errors.append(j * sqrt(max(change.variance, full)))
        draws.append(change.draws(multipliers) / sqrt(change.variance))
    step = bounds.steps_back(draws, level, g)
    t95, t90 = bounds.t_quantile((1 + level) / 2, g), bounds.t_quantile(level, g)
    p = [
        2 * float(stats.t.sf(abs(difference / se), g - 1))
        for difference, se in zip(differences, errors, strict=True)
    ]
    adjusted = holm(p)
    passes = np.all(
        [np.abs(x * se) + t90 * se < margin for x, se in zip(draws, errors, strict=True)], axis=0
    )
    found = []
    for difference, se, own, family in zip(differences, errors, p, adjusted, strict=True):
        inner = (difference - t90 * se, difference + t90 * se)
        if -margin < inner[0] and inner[1] < margin:
            verdict = "equivalent"
        else:
            verdict = "changed" if family < 1 - level else "inconclusive"
        found.append(
            Change(
                difference=difference,
                se=se,
                interval=(difference - t95 * se, difference + t95 * se),
                equivalence_interval=inner,
                p_value=own,
                p_adjusted=family,
                verdict=verdict,
                lower=difference - step * se,
                unchanged_passes=float(np.mean(passes)),
            )
        )
    return found


@dataclass(frozen=True)
class Turn:
    cosine: float
    se: float
    interval: tuple[float, float]
    verdict: str
    p_turned: float


def turns(
    before: Layers, after: Layers, units: Labels, least: float = 0.9, level: float = 0.95
) -> list[Turn]:
    """The cosines of the two versions' summed differences, without what a unit has with itself."""
    g = len(set(units))
    cosines, errors = [], []
    for versions in zip(before, after, strict=True):
        sd = np.concatenate([arm for version in versions for arm in version]).std(axis=0, ddof=1)
        one, other = ((a - b) / sd for a, b in versions)
        cosines.append(_cosine(one, other, units))
        without = []
        for unit in dict.fromkeys(units):
            rest = [i for i in range(len(units)) if units[i] != unit]
            without.append(_cosine(one[rest], other[rest], [units[i] for i in rest]))
        errors.append(float(np.linalg.norm(bounds.jackknife(without))))
    p = holm(
        [float(stats.t.cdf((c - least) / se, g - 1)) for c, se in zip(cosines, errors, strict=True)]
    )
    t95, t90 = bounds.t_quantile((1 + level) / 2, g), bounds.t_quantile(level, g)
    found = []
    for c, se, turned in zip(cosines, errors, p, strict=True):
        verdict = "turned" if c < least and turned < 1 - level else "inconclusive"
        if c - t90 * se > least:
            verdict = "same"
        found.append(Turn(c, se, (c - t95 * se, c + t95 * se), verdict, turned))
    return found


def _cosine(one: Array, other: Array, units: Labels) -> float:
    n = len(units)
    apart = [(i, k) for i in range(n) for k in range(n) if units[i] != units[k]]
    across, within, beside = (
        sum(float(x[i] @ y[k]) for i, k in apart)
        for x, y in ((one, other), (one, one), (other, other))
    )
    return across / sqrt(within * beside)
