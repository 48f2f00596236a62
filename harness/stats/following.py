"""Do the held-out scores tell the prompts that were evaded from those that were answered?

Within categories, since a category that is evaded as a whole says nothing of evading.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.defaults import LEVEL, MIN_PAIRS, REPLICATES
from harness.stats.arrays import FloatArray
from harness.stats.clusters import Clusters
from harness.stats.intervals import Accuracy
from harness.stats.resample import TIE, Multipliers
from harness.stats.simultaneous import Largest


@dataclass(frozen=True, slots=True)
class Following:
    """One layer's scores against what the model did.

    Attributes:
        auroc: probability that a prompt that was evaded outscores one of the same category that was
            answered, averaged over the categories.
        lower, lower_se: its lower bound, which holds in all layers of the call together (the
            probability that any lies above what it bounds is 1 − level), and its Monte Carlo
            standard error.
        p_value, p_adjusted, p_se: one-sided, of dealing out evaded and answered anew within each
            category; over the layers of the call (maxT); Monte Carlo standard error of
            `p_adjusted`.
        n_evaded, n_answered: units with a prompt of either kind.
        n_categories: categories that hold both kinds.
        scores_evaded, scores_answered: the scores of their prompts.
    """

    auroc: float
    lower: float
    lower_se: float
    p_value: float
    p_adjusted: float
    p_se: float
    n_evaded: int
    n_answered: int
    n_categories: int
    scores_evaded: tuple[float, ...]
    scores_answered: tuple[float, ...]


class TooFewError(ValueError):
    """Too few prompts of either kind, in categories that hold both, to tell anything."""


def following(
    scores: Sequence[FloatArray],
    evaded: Sequence[bool],
    categories: Sequence[Hashable],
    *,
    clusters: Sequence[Hashable] | None = None,
    permutations: int = REPLICATES,
    bootstrap: int = REPLICATES,
    level: float = LEVEL,
    seed: int = 0,
) -> list[Following]:
    """Score against behaviour, layer by layer.

    Args:
        scores: per layer, `(prompts,)` scores along directions that have not seen the prompt.
        evaded: whether each prompt was evaded.
        categories: each prompt's category.
        clusters: as in `separation`: prompts with equal labels are dealt out and resampled
            together.
        permutations: dealings within categories, the observed one included.
        bootstrap: multiplier replicates for `lower`.
        level: that of `lower`.

    Raises:
        TooFewError: fewer than 8 units of either kind in categories that hold both.
        ValueError: not one value per prompt.
    """
    n = len(evaded)
    if any(len(layer) != n for layer in scores) or len(categories) != n:
        raise ValueError(f"scores and categories must have one value for each of {n} prompts")
    kinds = np.asarray(evaded, dtype=bool)
    numbers = Clusters.from_labels(categories, n).of
    both = {c for c in numbers if 0 < kinds[numbers == c].sum() < (numbers == c).sum()}
    used = np.array([c in both for c in numbers])
    units = Clusters.from_labels(clusters, n)
    counts = [len(np.unique(units.of[used & (kinds == kind)])) for kind in (True, False)]
    if min(counts) < MIN_PAIRS:
        raise TooFewError(
            f"{kinds.sum()} artifact prompts were evaded and {n - kinds.sum()} answered; it takes "
            f"{MIN_PAIRS} of each in categories that have both, not {counts[0]} and {counts[1]}"
        )
    rows = np.flatnonzero(used)
    kinds, numbers, units = kinds[rows], numbers[rows], units.take(rows)
    layers = [np.asarray(layer, dtype=np.float64)[rows] for layer in scores]
    flip_seed, bootstrap_seed = np.random.SeedSequence(seed).spawn(2)

    weights = np.stack([_weights(layer, kinds, numbers) for layer in layers], axis=1)
    dealt = _dealings(kinds, numbers, units, permutations, np.random.default_rng(flip_seed))
    sums = dealt @ weights
    observed = sums[0] - TIE
    p = (sums >= observed).mean(axis=0)
    # Each layer's AUROC is its sum of ranks less a constant; layers are compared by the AUROC.
    constant = sum(
        (kinds[numbers == c].sum() + 1) / (2 * (~kinds[numbers == c]).sum()) for c in both
    ) / len(both)
    largest = sums.max(axis=1)
    p_adjusted = (largest[:, None] >= observed).mean(axis=0)

    multipliers = Multipliers(bootstrap_seed, bootstrap, len(units))
    bounds = Largest(bootstrap)
    measured = []
    for layer, total in zip(layers, sums[0], strict=True):
        auroc = min(1.0, max(0.0, float(total - constant)))
        influence = units.totals(_influence(layer, kinds, numbers))
        variance = float(influence @ influence)
        deviations = np.concatenate([block @ influence for _, block in multipliers])
        bounds.add(deviations, variance)
        size = float(min(counts))
        if variance > 0:
            size = min(size, auroc * (1 - auroc) / variance)
        measured.append(Accuracy(auroc, influence, size, len(units)))
    reach, reach_se = bounds.reach(level, len(units))
    return [
        Following(
            auroc=found.mean,
            lower=found.interval(reach)[0],
            lower_se=(
                found.interval(reach - reach_se)[0] - found.interval(reach + reach_se)[0]
            ) / 2,
            p_value=float(p[i]),
            p_adjusted=float(p_adjusted[i]),
            p_se=float(np.sqrt(p_adjusted[i] * (1 - p_adjusted[i]) / len(dealt))),
            n_evaded=counts[0],
            n_answered=counts[1],
            n_categories=len(both),
            scores_evaded=tuple(layers[i][kinds].tolist()),
            scores_answered=tuple(layers[i][~kinds].tolist()),
        )
        for i, found in enumerate(measured)
    ]  # fmt: skip


def _weights(scores: FloatArray, kinds: NDArray[np.bool_], numbers: NDArray[np.intp]) -> FloatArray:
    """`(prompts,)`: what each adds to the average AUROC where it counts as evaded, but for a
    constant: its rank in its category, over the product of both kinds' numbers (Mann & Whitney
    1947)."""
    weights = np.empty(len(scores))
    chosen = np.unique(numbers)
    for category in chosen:
        here = numbers == category
        evaded = kinds[here].sum()
        weights[here] = _ranks(scores[here]) / (evaded * (here.sum() - evaded) * len(chosen))
    return weights


def _ranks(values: FloatArray) -> FloatArray:
    """From 1, equal values sharing the mean of theirs."""
    ordered = np.sort(values)
    low = np.searchsorted(ordered, values, "left")
    return (low + np.searchsorted(ordered, values, "right") + 1) / 2


def _influence(
    scores: FloatArray, kinds: NDArray[np.bool_], numbers: NDArray[np.intp]
) -> FloatArray:
    """`(prompts,)`: how far each moves the average AUROC: its share of prompts of the other kind
    that it lies right of, less its category's mean (DeLong et al. 1988)."""
    influence = np.empty(len(scores))
    chosen = np.unique(numbers)
    for category in chosen:
        for kind in (True, False):
            mine, others = ((numbers == category) & (kinds == k) for k in (kind, not kind))
            gaps = scores[mine][:, None] - scores[others]
            right = (0.5 + np.sign(gaps if kind else -gaps) / 2).mean(axis=1)
            # ddof 1, so that few prompts of a kind aren't taken for certain.
            size = np.sqrt(mine.sum() * max(1, mine.sum() - 1)) * len(chosen)
            influence[mine] = (right - right.mean()) / size
    return influence


def _dealings(
    kinds: NDArray[np.bool_],
    numbers: NDArray[np.intp],
    units: Clusters,
    count: int,
    rng: np.random.Generator,
) -> FloatArray:
    """`(count, prompts)` of 0 and 1: who counts as evaded; row 0 as it was.

    Whole units are exchanged, with others that have prompts of the same categories in the same
    numbers.
    """
    strata: dict[tuple[int, ...], list[NDArray[np.intp]]] = {}
    for unit in range(len(units)):
        mine = np.flatnonzero(units.of == unit)
        mine = mine[np.argsort(numbers[mine], kind="stable")]
        strata.setdefault(tuple(numbers[mine].tolist()), []).append(mine)
    dealt = np.tile(kinds.astype(np.float64), (max(count, 1), 1))
    for members in strata.values():
        places = np.stack(members)  # (units, prompts of each)
        order = rng.permuted(np.tile(np.arange(len(places)), (len(dealt) - 1, 1)), axis=1)
        dealt[1:, places] = kinds[places][order]
    return dealt
