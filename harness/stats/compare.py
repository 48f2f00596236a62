"""The same pairs measured twice: two versions, a model and its base, a model and a baseline."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from harness.defaults import LEVEL, MARGIN, REPLICATES, Direction, Scale
from harness.stats.arrays import Layers, MatchedLayers
from harness.stats.clusters import Clusters, usable_pairs
from harness.stats.estimates import hedges_correction, standardized_difference
from harness.stats.intervals import (
    Expansion,
    Interval,
    analytic_interval,
    expand,
    refitted_influence,
    t_quantile,
)
from harness.stats.kernels import kernels
from harness.stats.resample import Flipper, Multipliers
from harness.stats.simultaneous import Largest

Verdict = Literal["equivalent", "changed", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Change of one layer's d from A to B.

    Attributes:
        difference, interval, se: d_B − d_A, its interval at `level` and standard error.
        equivalence_interval: interval at 2·level − 1 (90% for 95%), which two one-sided tests
            compare to the margin.
        p_value, p_adjusted: two-sided, of no difference; and adjusted over the layers of the call
            (Holm 1979).
        verdict: `"equivalent"` if the equivalence interval lies inside ±margin, else `"changed"` if
            `p_adjusted` is below 1 − level, else `"inconclusive"`. So where nothing changed, the
            probability that any layer of the call is said to have changed is at most 1 − level;
            and where some layer changed by the margin or more, the probability that all of them
            are said to be equivalent is (intersection–union test; Berger 1982).
        detectable: whether the layer's own interval excludes zero, whatever the verdict: a change
            can be real and yet within the margin.
        d_a, d_b: the two separations.
        margin: largest change that counts as none.
        n_pairs, n_units: distinct pairs used, and the clusters that they form.
        unchanged_passes: probability that all layers of the call would be equivalent, were there
            no change in any; NaN without a bootstrap.
        lower, lower_se: lower bound of `difference` that holds in all layers of the call together
            (the probability that any lies above what it bounds is 1 − level), and its Monte Carlo
            standard error. NaN without a bootstrap.
    """

    difference: float
    interval: Interval
    se: float
    equivalence_interval: Interval
    p_value: float
    p_adjusted: float
    verdict: Verdict
    detectable: bool
    d_a: float
    d_b: float
    margin: float
    n_pairs: int
    n_units: int
    lower: float
    lower_se: float
    unchanged_passes: float

    def __str__(self) -> str:
        within = ", detectable, but within the margin" if self.detectable else ""
        return (
            f"{self.verdict}{within if self.verdict == 'equivalent' else ''}: "
            f"d {self.d_a:.2f} → {self.d_b:.2f}, difference {self.difference:+.2f} "
            f"[{self.interval[0]:+.2f}, {self.interval[1]:+.2f}], margin ±{self.margin:g}"
        )


def compare(
    artifact_a: Layers,
    natural_a: Layers,
    artifact_b: Layers,
    natural_b: Layers,
    *,
    margin: float = MARGIN,
    level: float = LEVEL,
    scale: Scale = "sd",
    direction: Direction = "mean",
    bootstrap: int = REPLICATES,
    seed: int = 0,
    collapse_duplicates: bool = True,
    clusters: Sequence[Hashable] | None = None,
) -> list[Comparison]:
    """Compare d between two measurements of the same pairs, layer by layer.

    Pairing removes what the pairs themselves contribute: the variance is that of the difference of
    the two expansions, or, where that is more, the jackknife's with refitted directions, less what
    it counts twice (`_variance`). Equivalence is judged by two one-sided tests (Schuirmann 1987).

    Args:
        artifact_a, natural_a, artifact_b, natural_b: as `separation` takes them. Row i is the same
            pair in all four; A and B may differ in width. If one side has a single layer (a
            baseline made of text) it is compared with every layer of the other.
        margin: largest |change of d| that counts as none.
        level: nominal coverage of `interval`.
        bootstrap: multiplier replicates for `lower` and `unchanged_passes`; 0 for none.
        scale, direction, seed, collapse_duplicates, clusters: as in `separation`; duplicates are
            decided on both versions together.

    Raises:
        ValueError: shapes, numbers of pairs or of layers do not match; non-finite values; fewer
            than 8 clusters of distinct pairs; `margin` not positive; `level` not between 0.5 and 1.
    """
    if not 0.5 < level < 1:
        raise ValueError(f"level must lie between 0.5 and 1, for example 0.95, not {level}")
    if not margin > 0:
        raise ValueError(f"margin must be positive, not {margin}")
    a = MatchedLayers(artifact_a, natural_a, "_a")
    b = MatchedLayers(artifact_b, natural_b, "_b")
    if len(a[0][0]) != len(b[0][0]):
        raise ValueError(
            f"artifact_a and artifact_b must hold the same pairs: {len(a[0][0])} and {len(b[0][0])}"
        )
    if len(a) != len(b) and 1 not in (len(a), len(b)):
        raise ValueError(
            "artifact_a and artifact_b must have the same number of layers, or one of them a "
            f"single one: {len(a)} and {len(b)}"
        )
    conditions = (artifact_a, natural_a, artifact_b, natural_b)
    pairs, units = usable_pairs(
        *conditions, collapse_duplicates=collapse_duplicates, labels=clusters
    )
    n, n_units, depth = len(pairs), len(units), max(len(a), len(b))
    measured_a, measured_b = (
        _measure(version, depth, pairs, units, scale, direction) for version in (a, b)
    )
    d_s, variances = [], []
    multipliers = Multipliers(seed, bootstrap, n_units)
    largest = Largest(bootstrap)
    correction = hedges_correction(n)
    within = np.ones(bootstrap, dtype=bool)
    for x, y in zip(measured_a, measured_b, strict=True):
        d_s.append((x.d_s, y.d_s))
        change = y.expansion - x.expansion
        with np.errstate(invalid="ignore"):
            variances.append(_variance(change, y.refitted - x.refitted))
        deviations = change.bootstrap(multipliers)
        largest.add(deviations, change.variance)
        wider = np.sqrt(variances[-1] / change.variance) if change.variance > 0 else 1.0
        room = margin / correction - t_quantile(2 * level - 1, n_units) * np.sqrt(variances[-1])
        within &= np.abs(deviations) * wider < room
    reach, reach_se = largest.reach(level, n_units)
    passes = float(within.mean()) if bootstrap else np.nan
    d_a, d_b = correction * np.array(d_s).T
    difference = d_b - d_a
    se = correction * np.sqrt(variances)
    # Identical versions have neither a difference nor an error.
    ratio = np.divide(np.abs(difference), se, out=np.zeros(depth), where=difference != 0)
    p = 2 * stdtr(n_units - 1, -ratio)
    p_adjusted = holm(p)
    results = []
    for index in range(depth):
        estimate, error = float(difference[index]), float(se[index])
        interval = analytic_interval(estimate, error, n_units, level)
        equivalence = analytic_interval(estimate, error, n_units, 2 * level - 1)
        detectable = interval[0] > 0 or interval[1] < 0
        verdict: Verdict = "changed" if p_adjusted[index] < 1 - level else "inconclusive"
        if -margin < equivalence[0] and equivalence[1] < margin:
            verdict = "equivalent"
        results.append(
            Comparison(
                difference=estimate,
                interval=interval,
                se=error,
                equivalence_interval=equivalence,
                p_value=float(p[index]),
                p_adjusted=float(p_adjusted[index]),
                verdict=verdict,
                detectable=detectable,
                d_a=float(d_a[index]),
                d_b=float(d_b[index]),
                margin=margin,
                n_pairs=n,
                n_units=n_units,
                lower=estimate - reach * error,
                lower_se=reach_se * error,
                unchanged_passes=passes,
            )
        )
    return results


def _variance(change: Expansion, refitted: NDArray[np.float64]) -> float:
    """Of a change of d_s.

    That pairs are both scored and learnt from makes a degenerate U-statistic of it. Half of that
    one's variance is the expansion's quadratic part, the other half is in its linear part; the
    jackknife with refitted directions holds all of it twice (Efron & Stein 1981).
    """
    degenerate = 2 * (2 * float(np.vdot(change.quadratic, change.quadratic)))
    return max(change.variance, float((refitted**2).sum()) - degenerate)


class _Measured(NamedTuple):
    """d_s of one layer, its expansion, and its `refitted_influence`."""

    d_s: float
    expansion: Expansion
    refitted: NDArray[np.float64]


def _measure(
    layers: MatchedLayers,
    depth: int,
    pairs: NDArray[np.intp],
    units: Clusters,
    scale: Scale,
    direction: Direction,
) -> Iterator[_Measured]:
    """Each layer of one version; a single layer `depth` times.

    One at a time: an expansion is as large as the number of units squared.
    """
    for layer in layers:
        layer_kernels = kernels(
            *(arm[pairs] for arm in layer), scale=scale, direction=direction, folds=units
        )
        held = Flipper(layer_kernels).observed()
        d_s = float(standardized_difference(held.difference, held.midpoint))
        expansion = expand(held, layer_kernels.gram, units)
        found = _Measured(d_s, expansion, refitted_influence(layer_kernels, units))
        yield from repeat(found, depth // len(layers))


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Family-wise p-values by Holm's step-down Bonferroni."""
    order = np.argsort(p)
    steps = np.maximum.accumulate(np.arange(len(p), 0, -1) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted
