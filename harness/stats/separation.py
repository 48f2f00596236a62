"""How far apart matched prompts lie, layer by layer, on pairs that the direction has not seen."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.defaults import LEVEL, REPLICATES, Direction, Scale
from harness.stats.arrays import FloatArray, Layers, MatchedLayers
from harness.stats.clusters import Clusters, usable_pairs
from harness.stats.estimates import (
    auroc,
    hedges_correction,
    pair_accuracies,
    paired_accuracies,
    paired_statistic,
    standardized_difference,
)
from harness.stats.intervals import (
    Accuracy,
    Expansion,
    Interval,
    analytic_interval,
    bootstrap_interval,
    bootstrap_interval_se,
    check_level,
    expand,
    t_quantile,
)
from harness.stats.kernels import kernels
from harness.stats.resample import (
    Flipper,
    HeldOut,
    Multipliers,
    Null,
    Signs,
    effective_family,
    p_value_se,
    p_values,
    sign_flips,
)
from harness.stats.simultaneous import Largest


@dataclass(frozen=True, slots=True)
class Separation:
    """Separation of the two arms in one layer, measured on held-out pairs.

    Attributes:
        d, d_interval, d_se: Hedges' d of the held-out scores (standard deviations), its interval
            and standard error. The interval is for d on fresh pairs of this population along the
            directions fitted here.
        analytic_interval: the same interval from the closed form; equal to `d_interval` without a
            bootstrap.
        d_s, d_z: d without the small-sample correction; mean over standard deviation of the paired
            differences, which is the test statistic.
        accuracy, accuracy_interval: share of prompts on their own side of the training midpoint,
            and its interval.
        paired_accuracy, auroc: share of pairs in the right order; probability that any artifact
            prompt outscores any natural one (descriptive, no interval).
        p_value, p_adjusted, p_se: one-sided sign-flip p of this layer; family-wise over all layers
            of the call (maxT); Monte Carlo standard error of `p_value`, zero if all flips were
            enumerated.
        null_mean, null_mean_se, null_quantile_95: of d under shuffled labels: mean, taken before d
            is divided by its spread (which depends on the flip), its Monte Carlo standard error,
            and the 95% quantile.
        effective_layers: number of independent layers that would need the same family-wise
            correction.
        n_pairs, pairs: distinct pairs used, and their indices in the input.
        n_units: clusters of those pairs, which are the independent observations.
        scores_artifact, scores_natural: held-out scores of those pairs, zero at the training
            midpoint.
        p_adjusted_se, d_interval_se: Monte Carlo standard errors of `p_adjusted` and of either end
            of `d_interval`: what another seed would change. Zero where nothing was drawn at random.
        d_lower, accuracy_lower: lower bounds of d and of accuracy that hold in all layers of the
            call together: the probability that any lies above what it bounds is 1 − level. NaN
            without a bootstrap.
        d_lower_se, accuracy_lower_se: their Monte Carlo standard errors.
        p_folds: one-sided p of flipping whole folds, family-wise over the layers of the call: what
            effects that differ from fold to fold would give by chance. At best 2^−(folds − 1); None
            where no folds were given.
    """

    d: float
    d_interval: Interval
    d_se: float
    analytic_interval: Interval
    d_s: float
    d_z: float
    accuracy: float
    accuracy_interval: Interval
    paired_accuracy: float
    auroc: float
    p_value: float
    p_adjusted: float
    p_se: float
    null_mean: float
    null_mean_se: float
    null_quantile_95: float
    effective_layers: float
    n_pairs: int
    n_units: int
    pairs: tuple[int, ...]
    scores_artifact: tuple[float, ...]
    scores_natural: tuple[float, ...]
    p_adjusted_se: float
    d_interval_se: float
    d_lower: float
    d_lower_se: float
    accuracy_lower: float
    accuracy_lower_se: float
    p_folds: float | None


def separation(
    artifact: Layers,
    natural: Layers,
    *,
    scale: Scale = "sd",
    direction: Direction = "mean",
    permutations: int = REPLICATES,
    bootstrap: int = REPLICATES,
    level: float = LEVEL,
    seed: int = 0,
    collapse_duplicates: bool = True,
    clusters: Sequence[Hashable] | None = None,
    folds: Sequence[Hashable] | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> list[Separation]:
    """Measure the separation of matched pairs in every layer.

    Each pair is scored along a direction learnt from all the *other* clusters, so that nothing is
    found in noise. The method and its measured error rates are in `docs/statistics.md` and
    `docs/calibration.md`.

    Args:
        artifact, natural: activations averaged to one vector per prompt: `(layers, pairs, hidden)`
            arrays, or sequences of `(pairs, hidden_l)` arrays where widths differ (layers and sites
            of one run). Any real dtype; the work is done in float64. Row i of both is pair i.
        scale: `"sd"` divides each dimension by its training variance; `"raw"` does not.
        direction: what a pair is scored along: `"mean"`, the other pairs' mean difference in that
            scale; or `"shrinkage"`, which also takes into account that dimensions vary together:
            that difference times ((1 − λ)R + λI)⁻¹, R being the training prompts' correlations and
            λ = 0.9. It finds effects that lie where prompts vary little, and loses some of those
            that lie where they vary most. Choose before looking. Every pair takes a linear system
            as large as the prompts or the dimensions, whichever are fewer.
        permutations: sign flips of whole clusters, the identity included; where 2^(clusters − 1)
            is no more, all are enumerated. 0 leaves every p-value and null figure NaN.
        bootstrap: multiplier replicates for `d_interval`; 0 gives the analytic interval.
        level: nominal coverage of the intervals.
        seed: the same seed gives the same results to the last bit.
        collapse_duplicates: count pairs that are identical in both arms in every layer once. Turn
            it off only where equal values are no sign of equal prompts (a single feature such as
            length).
        clusters: a label for each pair. Pairs with equal labels share something (a prompt, a topic,
            a source), so that they count as one observation: they are held out, flipped and
            resampled together. By default every pair stands by itself.
        folds: a label for each pair. Pairs with equal labels never score each other, but count as
            observations of their own: with the pairs' categories the figures are those of
            directions that have not seen the category. By default the clusters.
        progress: wraps the iteration over layers, for example `tqdm`.

    Returns:
        One `Separation` per layer, in order.

    Raises:
        ValueError: wrong shapes or settings, NaN or infinity (drop with `finite_pairs`), fewer
            than 8 clusters of distinct pairs, a cluster or fold with half of the pairs, or a
            cluster that lies in two folds. 8 to 19 clusters give a `UserWarning`.
    """
    _check_settings(permutations, bootstrap, level)
    layers = MatchedLayers(artifact, natural)
    pairs, units = usable_pairs(
        artifact, natural, collapse_duplicates=collapse_duplicates, labels=clusters
    )
    held_out = units if folds is None else _folds(folds, len(layers[0][0]), pairs, units)
    n, n_units = len(pairs), len(units)
    flip_seed, bootstrap_seed = np.random.SeedSequence(seed).spawn(2)
    flip_rng = np.random.default_rng(flip_seed)
    signs = _by_pair(sign_flips(n_units, permutations, flip_rng), units)
    multipliers = Multipliers(bootstrap_seed, bootstrap, n_units)

    swaps = signs[:0]
    if folds is not None:
        swaps = _by_pair(sign_flips(len(held_out), permutations, flip_rng), held_out)

    observed: list[dict[str, Any]] = []
    accuracies: list[Accuracy] = []
    null_d_z = np.empty((len(layers), len(signs)))
    null_folds = np.empty((len(layers), len(swaps)))
    nulls: list[Null] = []
    largest, largest_accuracy = Largest(bootstrap), Largest(bootstrap)

    def measure(index: int) -> None:
        """One layer; what is as large as the number of pairs squared goes with this function."""
        layer = kernels(
            *(arm if n == len(arm) else arm[pairs] for arm in layers[index]),
            scale=scale,
            direction=direction,
            folds=held_out,
        )
        flipper = Flipper(layer)
        held = flipper.observed()
        nulls.append(flipper.null(signs))
        null_d_z[index] = nulls[-1].d_z
        null_folds[index] = flipper.null(swaps).d_z
        gram = layer.gram
        del layer, flipper
        expansion = expand(held, gram, units)
        deviations = expansion.bootstrap(multipliers)
        scores = held.scores(held_out)
        accuracies.append(Accuracy.measure(pair_accuracies(*scores), units, expansion.inflation))
        largest.add(deviations, expansion.variance)
        shift = accuracies[-1].deviations
        shifts = np.empty(bootstrap)
        for rows, block in multipliers:
            shifts[rows] = block @ shift
        largest_accuracy.add(shifts, float(shift @ shift))
        observed.append(_estimates(held, scores, expansion, deviations, level))

    for index in progress(range(len(layers))):
        measure(index)
    correction = hedges_correction(n)

    p = p_adjusted = np.full(len(layers), np.nan)
    effective = np.nan
    if permutations:
        p, p_adjusted = p_values(null_d_z)
        effective = effective_family(null_d_z)
    p_folds = p_values(null_folds)[1].tolist() if len(swaps) else [None] * len(layers)
    t = t_quantile(level, n_units)
    reach, reach_se = largest.reach(level, n_units)
    accuracy_reach, accuracy_reach_se = largest_accuracy.reach(level, n_units)
    results = []
    for index, estimates in enumerate(observed):
        null_mean, null_mean_se, null_quantile = _null_figures(nulls[index], correction)
        results.append(
            Separation(
                **estimates,
                accuracy=accuracies[index].mean,
                accuracy_interval=accuracies[index].interval(t),
                p_value=float(p[index]),
                p_adjusted=float(p_adjusted[index]),
                p_se=p_value_se(p[index], len(signs), n_units),
                p_adjusted_se=p_value_se(p_adjusted[index], len(signs), n_units),
                null_mean=null_mean,
                null_mean_se=null_mean_se,
                null_quantile_95=null_quantile,
                effective_layers=effective,
                n_pairs=n,
                n_units=n_units,
                pairs=tuple(pairs.tolist()),
                d_lower=estimates["d"] - reach * estimates["d_se"],
                d_lower_se=reach_se * estimates["d_se"],
                accuracy_lower=accuracies[index].interval(accuracy_reach)[0],
                accuracy_lower_se=(
                    accuracies[index].interval(accuracy_reach - accuracy_reach_se)[0]
                    - accuracies[index].interval(accuracy_reach + accuracy_reach_se)[0]
                )
                / 2,
                p_folds=p_folds[index],
            )
        )
    return results


def _by_pair(signs: Signs, groups: Clusters) -> Signs:
    """Signs of groups, `(flips, groups)`, as those of their pairs, `(flips, pairs)`."""
    return signs if groups.single else signs[:, groups.of]


def _folds(
    labels: Sequence[Hashable], n_pairs: int, pairs: NDArray[np.intp], units: Clusters
) -> Clusters:
    folds = Clusters.from_labels(labels, n_pairs).take(pairs)
    folds.check_shares("fold")
    if not folds.contain(units):
        raise ValueError("folds must not divide a cluster: its pairs would score each other")
    return folds


def _estimates(
    held: HeldOut,
    scores: tuple[FloatArray, FloatArray],
    expansion: Expansion,
    deviations: FloatArray,
    level: float,
) -> dict[str, Any]:
    """The fields of `Separation` that take no flips and no other layer.

    The expansion, as large as the number of units squared, need not outlive its layer.
    """
    n, n_units = len(held.difference), len(expansion.linear)
    correction = hedges_correction(n)
    d_s = float(standardized_difference(held.difference, held.midpoint))
    d, d_se = correction * d_s, correction * float(np.sqrt(expansion.variance))
    d_interval = analytic = analytic_interval(d, d_se, n_units, level)
    d_interval_se = 0.0
    if len(deviations):
        d_interval = bootstrap_interval(d, correction * deviations, n_units, level)
        d_interval_se = bootstrap_interval_se(correction * deviations, n_units, level)
    return {
        "d": d,
        "d_interval": d_interval,
        "d_interval_se": d_interval_se,
        "d_se": d_se,
        "analytic_interval": analytic,
        "d_s": d_s,
        "d_z": float(paired_statistic(held.difference)) if np.isfinite(d) else d,
        "paired_accuracy": float(paired_accuracies(held.difference).mean()),
        "auroc": auroc(*scores),
        "scores_artifact": tuple(scores[0].tolist()),
        "scores_natural": tuple(scores[1].tolist()),
    }


def _null_figures(null: Null, correction: float) -> tuple[float, float, float]:
    """Mean of d under the flips, its Monte Carlo standard error, and the 95% quantile.

    What has mean 0 is the product of direction and differences. d divides it by a spread that
    grows with the direction's length, so that where the pairs share a strong effect, flips that
    happen to cancel it would pull the plain mean of d below 0 without anything being wrong:
    the mean is taken before that division.
    """
    if null.d_s.size == 0:
        return np.nan, np.nan, np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = correction * null.drift / np.sqrt(np.mean(null.spread**2))
        error = relative.std() / np.sqrt(relative.size)
        quantile = correction * np.quantile(null.d_s, 0.95)
    return float(relative.mean()), float(error), float(quantile)


def _check_settings(permutations: int, bootstrap: int, level: float) -> None:
    if permutations < 0:
        raise ValueError(f"permutations must be 0 (no test) or more, not {permutations}")
    if bootstrap < 0:
        raise ValueError(f"bootstrap must be 0 (analytic interval) or more, not {bootstrap}")
    check_level(level)
