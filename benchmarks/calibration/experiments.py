"""What is measured: each function simulates one setting many times over.

The settings' names seed their random numbers: another name gives other figures.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import ttest_ind

from benchmarks.calibration.figures import Run, gathered, generators
from benchmarks.calibration.populations import (
    HIDDEN,
    Arms,
    Array,
    Population,
    Tokens,
    ar_tokens,
    autoregressive,
    drift_and_lengths,
    gaussian,
)
from benchmarks.calibration.reference import d_s, flipped, refit
from harness.stats import (
    Separation,
    compare,
    fold_directions,
    in_sample_separation,
    leave_one_category_out,
    pair_means,
    separation,
    step_curve,
)
from harness.stats.kernels import kernels
from harness.stats.resample import Flipper, sign_flips

FLIPS = 500
POOL = 8_000


def largest_difference(name: str, population: Population, n: int, runs: int) -> float:
    """Of d by kernels from d by a refit of every direction, observed and flipped."""
    errors = []
    for _, rng in generators(runs, "engine", name):
        artifact, natural = population.pairs(rng, n, 1.0)
        signs = sign_flips(n, 20, rng)
        ours = Flipper(kernels(artifact, natural)).null(signs).d_s
        for row, d in zip(signs, ours, strict=True):
            errors.append(abs(d - d_s(*refit(*flipped(artifact, natural, row))[:2])))
    return max(errors)


def one_layer(artifact: Array, natural: Array, run: int = 0, **how: Any) -> Separation:
    """`harness.stats.separation` of one layer, with the run's number for its seed."""
    settings = {"permutations": FLIPS, "bootstrap": 0, "seed": run} | how
    (found,) = separation(artifact[None], natural[None], **settings)
    return found


def null_run(ours: Separation) -> Run:
    return {
        "type-I error": ours.p_value <= 0.05,
        "mean d": ours.d,
        "mean accuracy": ours.accuracy,
        "control": abs(ours.null_mean) <= 0.03 + 4 * ours.null_mean_se,
    }


@gathered
def size(population: Population, n: int, runs: int) -> Iterator[Run]:
    """Null rejections and null means of one layer, from prompt-level draws."""
    for run, rng in generators(runs, "size", population.name, n):
        yield null_run(one_layer(*population.pairs(rng, n), run))


@gathered
def shrinkage_size(population: Population, n: int, runs: int) -> Iterator[Run]:
    """The same along shrunk directions, and whether the interval of d holds 0."""
    for run, rng in generators(runs, "shrinkage", population.name, n):
        ours = one_layer(*population.pairs(rng, n), run, direction="shrinkage", bootstrap=500)
        yield {
            **null_run(ours),
            "interval of d holds 0": covers(ours.d_interval, 0.0),
        }


@gathered
def shrinkage_power(population: Population, where: Array, n: int, runs: int) -> Iterator[Run]:
    """Both directions on the same pairs, whose means lie apart by `where`, `(hidden,)`."""
    for run, rng in generators(runs, "shrinkage power", population.name, n):
        artifact, natural = population.draw(rng, n)
        arms = artifact + where / 2, natural - where / 2
        mean, shrunk = (
            one_layer(*arms, run, direction=direction) for direction in ("mean", "shrinkage")
        )
        yield {
            "mean: power": mean.p_value <= 0.05,
            "shrinkage: power": shrunk.p_value <= 0.05,
            "mean: d": mean.d,
            "shrinkage: d": shrunk.d,
        }


@gathered
def token_size(name: str, tokens: Tokens, n: int, runs: int) -> Iterator[Run]:
    """Null rejections from token-level draws, ours and those of pooling all tokens."""
    for run, rng in generators(runs, "tokens", name, n):
        artifact, natural = tokens(rng, n)
        usual = in_sample_separation(artifact, natural)
        yield {
            **null_run(one_layer(*pair_means(artifact, natural), run)),
            "pooled t-test rejects": ttest_ind(*pooled_scores(artifact, natural)).pvalue <= 0.05,
            "pooled d": usual.d,
            "pooled accuracy": usual.accuracy,
        }


def pooled_scores(artifact: list[Array], natural: list[Array]) -> Arms:
    """All tokens' scores along the direction learnt from these very tokens."""
    a, b = np.concatenate(artifact), np.concatenate(natural)
    gap = a.mean(axis=0) - b.mean(axis=0)
    unit = gap / np.linalg.norm(gap)
    return a @ unit, b @ unit


@gathered
def uncut_size(n: int, runs: int) -> Iterator[Run]:
    """What goes wrong where responses of unequal length are averaged whole."""
    for run, rng in generators(runs, "uncut", n):
        arms = drift_and_lengths(rng, n)
        a, b = (np.stack([tokens.mean(axis=0) for tokens in arm]) for arm in arms)
        yield {"type-I error": one_layer(a, b, run).p_value <= 0.05}


@gathered
def duplicate_size(runs: int, *, collapse: bool) -> Iterator[Run]:
    """Forty pairs of which ten are copies of ten others."""
    rows = [*range(30), *range(10)]
    for run, rng in generators(runs, "duplicates", collapse):
        a, b = gaussian().pairs(rng, 30)
        ours = one_layer(a[rows], b[rows], run, collapse_duplicates=collapse)
        yield {"type-I error": ours.p_value <= 0.05}


@gathered
def family(n: int, runs: int) -> Iterator[Run]:
    """False alarms over a stack of 26 layers, each correlated with the one before."""
    for run, rng in generators(runs, "family", n):
        arms = autoregressive(rng, 2, n, 26, HIDDEN).transpose(0, 2, 1, 3)
        results = separation(*arms, permutations=FLIPS, bootstrap=0, seed=run)
        yield {
            "family-wise (maxT)": min(r.p_adjusted for r in results) <= 0.05,
            "uncorrected": min(r.p_value for r in results) <= 0.05,
            "effective layers": results[0].effective_layers,
        }


@gathered
def step_family(n: int, runs: int) -> Iterator[Run]:
    """False alarms over the tokens of a response."""
    for run, rng in generators(runs, "steps", n):
        curve = step_curve(*ar_tokens(rng, n), permutations=FLIPS, seed=run)
        yield {
            "family-wise (maxT)": min(r.p_adjusted for r in curve) <= 0.05,
            "uncorrected": min(r.p_value for r in curve) <= 0.05,
        }


def truth(
    population: Population,
    artifact: Array,
    natural: Array,
    effect: float,
    pool: Array | None = None,
) -> tuple[float, float]:
    """d and accuracy of fresh pairs along the directions fitted to these, averaged over folds.

    That is what the intervals are to cover.

    Args:
        artifact, natural: `(n, hidden)`, the pairs that the directions are fitted to.
        effect: how far apart the means lie, as in `Population.pairs`.
        pool: `(prompts, hidden)` without any effect, from which the accuracy is counted; by default
            it is the closed form of a Gaussian law.
    """
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
    return float(d), float((above + below).mean() / 2)


@gathered
def coverage(population: Population, n: int, effect: float, runs: int) -> Iterator[Run]:
    """Coverage of d and accuracy, by our intervals and by the percentile bootstrap."""
    pool = None
    if not population.gaussian:
        pool = population.draw(np.random.default_rng(0), POOL // 2).reshape(POOL, -1)
    for run, rng in generators(runs, "coverage", population.name, n, effect):
        artifact, natural = population.pairs(rng, n, effect)
        ours = one_layer(artifact, natural, run, permutations=0, bootstrap=1000)
        true_d, true_accuracy = truth(population, artifact, natural, effect, pool)
        scores = np.array([ours.scores_artifact, ours.scores_natural])
        yield {
            "true d": true_d,
            "bias of d": ours.d - true_d,
            "d": covers(ours.d_interval, true_d),
            "analytic": covers(ours.analytic_interval, true_d),
            "accuracy": covers(ours.accuracy_interval, true_accuracy),
            "percentile bootstrap": covers(percentile_interval(scores, rng), true_d),
            "width": ours.d_interval[1] - ours.d_interval[0],
        }


def covers(interval: tuple[float, float], value: float) -> bool:
    return interval[0] <= value <= interval[1]


def percentile_interval(scores: Array, rng: np.random.Generator) -> tuple[float, float]:
    """The usual bootstrap: resample pairs with their held-out scores, `(2, n)`, fixed."""
    n = scores.shape[1]
    drawn = scores[:, rng.integers(0, n, (400, n))]
    gap = (drawn[0] - drawn[1]).mean(axis=1)
    replicates = gap / np.sqrt(drawn.var(axis=2, ddof=1).mean(axis=0))
    low, high = np.quantile(replicates, [0.025, 0.975])
    return float(low), float(high)


def effect_for(target: float, population: Population, n: int) -> float:
    """Distance of the means at which the true held-out d averages `target`."""
    draws = 100

    def gap(effect: float) -> float:
        total = 0.0
        for _, rng in generators(draws, "effect", population.name, n):
            total += truth(population, *population.pairs(rng, n, effect), effect)[0]
        return total / draws - target

    return float(brentq(gap, 0.0, 50.0, xtol=0.003))


@gathered
def power(population: Population, n: int, target: float, runs: int) -> Iterator[Run]:
    """Rejections where the true held-out d averages `target`."""
    effect = effect_for(target, population, n)
    for run, rng in generators(runs, "power", population.name, n, target):
        ours = one_layer(*population.pairs(rng, n, effect), run)
        yield {"power": ours.p_value <= 0.05, "mean estimated d": ours.d}


@gathered
def versions(
    population: Population, n: int, targets: tuple[float, float], runs: int
) -> Iterator[Run]:
    """Two versions whose activations correlate 0.9, with given true d."""
    effect_of = {target: effect_for(target, population, n) for target in set(targets)}
    first_effect, second_effect = (effect_of[target] for target in targets)
    for _, rng in generators(runs, "versions", population.name, n, targets):
        first = population.draw(rng, n)
        second = 0.9 * first + np.sqrt(1 - 0.9**2) * population.draw(rng, n)
        (result,) = compare(
            *population.apart(first[:, None], first_effect),
            *population.apart(second[:, None], second_effect),
            margin=0.5,
        )
        yield {
            "detected": result.detectable,
            "called equivalent": result.verdict == "equivalent",
            "mean difference": result.difference,
        }


@gathered
def categories(law: Population, n: int, runs: int, effect: str = "none") -> Iterator[Run]:
    """Five categories without an effect, with one direction ("shared"), or each with its own; with
    one only where the law's dimensions are independent and alike."""
    labels = np.arange(n) % 5
    shifts = np.zeros((5, len(law.spread)))
    if effect != "none":
        shifts[np.arange(5), 0 if effect == "shared" else np.arange(5)] = 6.0
    for run, rng in generators(runs, "categories", law.name, n, effect):
        artifact, natural = law.pairs(rng, n)
        artifact = artifact + shifts[labels]
        (parts,) = leave_one_category_out(
            artifact[None], natural[None], labels.tolist(), permutations=FLIPS, seed=run
        )
        hits = []
        for category, part in enumerate(parts):
            a, b = artifact[labels != category], natural[labels != category]
            direction = (a - b).sum(axis=0) / np.concatenate([a, b]).var(axis=0, ddof=1)
            true_d = direction @ shifts[category] / np.linalg.norm(direction)
            hits.append(covers(part.d_interval, float(true_d)))
        yield {
            "held-out d": one_layer(artifact, natural, permutations=0).d,
            "d of the category left out": float(np.mean([part.d for part in parts])),
            "coverage of its interval": float(np.mean(hits)),
            "some category's p below .05": any(part.p_adjusted < 0.05 for part in parts),
        }
