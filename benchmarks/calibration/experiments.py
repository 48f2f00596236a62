"""What is measured: each function simulates one setting many times over."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import ttest_ind

from benchmarks.calibration.figures import Runs, generators
from benchmarks.calibration.populations import (
    HIDDEN,
    Array,
    Population,
    Tokens,
    ar_tokens,
    autoregressive,
    drift_and_lengths,
    gaussian,
)
from harness.stats import (
    compare,
    fold_directions,
    in_sample_separation,
    leave_one_category_out,
    pair_means,
    separation,
    step_curve,
)

FLIPS = 500
POOL = 8_000


def size(population: Population, n: int, runs: int) -> Runs:
    """Null rejections and null means of one layer, from prompt-level draws."""
    collected = Runs()
    for run, rng in generators(runs, "size", population.name, n):
        artifact, natural = population.pairs(rng, n)
        (ours,) = separation(
            artifact[None], natural[None], permutations=FLIPS, bootstrap=0, seed=run
        )
        collected.add(
            reject=ours.p_value <= 0.05,
            d=ours.d,
            accuracy=ours.accuracy,
            control=abs(ours.null_mean) <= 0.03 + 4 * ours.null_mean_se,
        )
    return collected


def token_size(name: str, tokens: Tokens, n: int, runs: int) -> Runs:
    """Null rejections from token-level draws, ours and those of pooling all tokens."""
    collected = Runs()
    for run, rng in generators(runs, "tokens", name, n):
        artifact, natural = tokens(rng, n)
        a, b = pair_means(artifact, natural)
        (ours,) = separation(a[None], b[None], permutations=FLIPS, bootstrap=0, seed=run)
        usual = in_sample_separation(artifact, natural)
        collected.add(
            reject=ours.p_value <= 0.05,
            d=ours.d,
            accuracy=ours.accuracy,
            control=abs(ours.null_mean) <= 0.03 + 4 * ours.null_mean_se,
            pooled_d=usual.d,
            pooled_accuracy=usual.accuracy,
            pooled_reject=pooled_t_test(artifact, natural) <= 0.05,
        )
    return collected


def pooled_t_test(artifact: list[Array], natural: list[Array]) -> float:
    """p of a t-test between all tokens' scores along the direction learnt from them."""
    a, b = np.concatenate(artifact), np.concatenate(natural)
    gap = a.mean(axis=0) - b.mean(axis=0)
    return float(ttest_ind(a @ gap, b @ gap).pvalue)


def uncut_size(n: int, runs: int) -> Runs:
    """What goes wrong where responses of unequal length are averaged whole."""
    collected = Runs()
    for run, rng in generators(runs, "uncut", n):
        artifact, natural = drift_and_lengths(rng, n)
        a, b = (np.stack([t.mean(axis=0) for t in arm]) for arm in (artifact, natural))
        (ours,) = separation(a[None], b[None], permutations=FLIPS, bootstrap=0, seed=run)
        collected.add(reject=ours.p_value <= 0.05)
    return collected


def duplicate_size(runs: int, *, collapse: bool) -> Runs:
    """Forty pairs of which ten are copies of ten others."""
    collected = Runs()
    population = gaussian()
    for run, rng in generators(runs, "duplicates", collapse):
        rows = [*range(30), *range(10)]
        a, b = (arm[rows] for arm in population.pairs(rng, 30))
        (ours,) = separation(
            a[None],
            b[None],
            permutations=FLIPS,
            bootstrap=0,
            seed=run,
            collapse_duplicates=collapse,
        )
        collected.add(reject=ours.p_value <= 0.05)
    return collected


def family(n: int, runs: int, layers: int = 26, correlation: float = 0.9) -> Runs:
    """False alarms over a stack of layers, each correlated with the one before."""
    collected = Runs()
    for run, rng in generators(runs, "family", n):
        arms = autoregressive(rng, (2, n, layers, HIDDEN), correlation).transpose(0, 2, 1, 3)
        results = separation(*arms, permutations=FLIPS, bootstrap=0, seed=run)
        collected.add(
            family_wise=min(r.p_adjusted for r in results) <= 0.05,
            uncorrected=min(r.p_value for r in results) <= 0.05,
            effective=results[0].effective_layers,
        )
    return collected


def step_family(n: int, runs: int) -> Runs:
    """False alarms over the tokens of a response."""
    collected = Runs()
    for run, rng in generators(runs, "steps", n):
        curve = step_curve(*ar_tokens(rng, n), permutations=FLIPS, seed=run)
        collected.add(
            family_wise=min(r.p_adjusted for r in curve) <= 0.05,
            uncorrected=min(r.p_value for r in curve) <= 0.05,
        )
    return collected


@dataclass(frozen=True)
class Truth:
    """d and accuracy of fresh pairs along the directions fitted to given ones."""

    d: float
    accuracy: float


def truth(
    population: Population, artifact: Array, natural: Array, effect: float, pool: Array | None
) -> Truth:
    """What the intervals are to cover: fresh pairs, these directions, averaged over folds."""
    n = len(artifact)
    delta = artifact - natural
    prompts = np.concatenate([artifact, natural])
    norms = (((delta.sum(axis=0) - delta) / prompts.std(axis=0, ddof=1)) ** 2).sum(axis=1)
    directions = fold_directions(artifact, natural) / np.sqrt(norms)[:, None]
    gaps = directions @ population.shift(effect)
    variances = population.variance(directions)
    d = gaps.mean() / np.sqrt(variances.mean())
    middles = (prompts.sum(axis=0) - artifact - natural) / (2 * n - 2)
    thresholds = ((middles - population.centre) * directions).sum(axis=1)
    if pool is None:
        spread = np.sqrt(variances)
        above = ndtr((gaps / 2 - thresholds) / spread)
        below = ndtr((gaps / 2 + thresholds) / spread)
    else:
        scores = pool @ directions.T
        above = (scores > thresholds - gaps / 2).mean(axis=0)
        below = (scores < thresholds + gaps / 2).mean(axis=0)
    return Truth(float(d), float((above + below).mean() / 2))


def coverage(population: Population, n: int, effect: float, runs: int) -> Runs:
    """Coverage of d and accuracy, by our intervals and by the percentile bootstrap."""
    pool = None
    if not population.gaussian:
        pool = population.draw(np.random.default_rng(0), POOL // 2).reshape(POOL, -1)
    collected = Runs()
    for run, rng in generators(runs, "coverage", population.name, n, effect):
        artifact, natural = population.pairs(rng, n, effect)
        (ours,) = separation(
            artifact[None], natural[None], permutations=0, bootstrap=1000, seed=run
        )
        true = truth(population, artifact, natural, effect, pool)
        scores = np.array([ours.scores_artifact, ours.scores_natural])
        collected.add(
            true_d=true.d,
            bias=ours.d - true.d,
            d=covers(ours.d_interval, true.d),
            analytic=covers(ours.analytic_interval, true.d),
            accuracy=covers(ours.accuracy_interval, true.accuracy),
            percentile=covers(percentile_interval(scores, rng), true.d),
            width=ours.d_interval[1] - ours.d_interval[0],
        )
    return collected


def covers(interval: tuple[float, float], value: float) -> bool:
    return interval[0] <= value <= interval[1]


def percentile_interval(
    scores: Array, rng: np.random.Generator, count: int = 400
) -> tuple[float, float]:
    """The usual bootstrap: resample pairs with their held-out scores fixed."""
    n = scores.shape[1]
    drawn = scores[:, rng.integers(0, n, (count, n))]
    gap = (drawn[0] - drawn[1]).mean(axis=1)
    replicates = gap / np.sqrt(drawn.var(axis=2, ddof=1).mean(axis=0))
    low, high = np.quantile(replicates, [0.025, 0.975])
    return float(low), float(high)


def effect_for(target: float, population: Population, n: int, draws: int = 100) -> float:
    """Distance of the means at which the true held-out d averages ``target``."""

    def gap(effect: float) -> float:
        total = 0.0
        for _, rng in generators(draws, "effect", population.name, n):
            artifact, natural = population.pairs(rng, n, effect)
            total += truth(population, artifact, natural, effect, None).d
        return total / draws - target

    return float(brentq(gap, 0.0, 10.0, xtol=0.003))


def power(population: Population, n: int, target: float, runs: int) -> Runs:
    """Rejections where the true held-out d averages ``target``."""
    effect = effect_for(target, population, n)
    collected = Runs()
    for run, rng in generators(runs, "power", population.name, n, target):
        artifact, natural = population.pairs(rng, n, effect)
        (ours,) = separation(
            artifact[None], natural[None], permutations=FLIPS, bootstrap=0, seed=run
        )
        collected.add(reject=ours.p_value <= 0.05, d=ours.d)
    return collected


def versions(
    population: Population,
    n: int,
    targets: tuple[float, float],
    runs: int,
    correlation: float = 0.9,
    margin: float = 0.5,
) -> Runs:
    """Two versions whose activations correlate, with given true d."""
    effect_of = {target: effect_for(target, population, n) for target in set(targets)}
    effects = [effect_of[target] for target in targets]
    collected = Runs()
    for _, rng in generators(runs, "versions", population.name, n, targets):
        first = population.draw(rng, n)
        second = correlation * first + np.sqrt(1 - correlation**2) * population.draw(rng, n)
        arms = []
        for draw, effect in zip((first, second), effects, strict=True):
            shift = population.shift(effect) / 2
            arms += [draw[:1] + shift, draw[1:] - shift]
        (result,) = compare(*arms, margin=margin)
        collected.add(
            detectable=result.detectable,
            equivalent=result.verdict == "equivalent",
            difference=result.difference,
        )
    return collected


def categories(n: int, runs: int, *, shared: bool) -> Runs:
    """Five categories with one direction, or each with its own."""
    labels = np.arange(n) % 5
    shifts = np.zeros((5, HIDDEN))
    shifts[np.arange(5), 0 if shared else np.arange(5)] = 6.0
    collected = Runs()
    for _, rng in generators(runs, "categories", n, shared):
        artifact, natural = rng.standard_normal((2, n, HIDDEN))
        artifact += shifts[labels]
        (whole,) = separation(artifact[None], natural[None], permutations=0, bootstrap=0)
        (parts,) = leave_one_category_out(artifact[None], natural[None], labels.tolist())
        hits = []
        for category, part in enumerate(parts):
            a, b = artifact[labels != category], natural[labels != category]
            direction = (a - b).sum(axis=0) / np.concatenate([a, b]).var(axis=0, ddof=1)
            true_d = direction @ shifts[category] / np.linalg.norm(direction)
            hits.append(covers(part.d_interval, float(true_d)))
        collected.add(
            d=whole.d,
            left_out=float(np.mean([part.d for part in parts])),
            coverage=float(np.mean(hits)),
        )
    return collected
