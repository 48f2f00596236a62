"""Measure the error rates of ``harness.stats`` by simulation.

    python -m benchmarks.calibration            a quarter of an hour; rewrites docs/calibration.md
    python -m benchmarks.calibration --quick    under three minutes; prints only

Every table carries Monte Carlo standard errors, and the required range where there is one. The
exit status is 1 if a required figure is missed (with ``--quick``: by more than 4 standard errors).
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.signal import lfilter
from scipy.special import ndtr
from scipy.stats import ttest_ind

from harness.stats import (
    compare,
    fold_directions,
    in_sample_separation,
    leave_one_category_out,
    pair_means,
    separation,
    smallest_detectable_effect,
    step_curve,
)
from harness.stats.kernels import kernels
from harness.stats.resample import Flipper, sign_flips
from tests.stats.reference import d_s, flipped, refit

Array = NDArray[np.float64]
Arms = tuple[Array, Array]

HIDDEN = 200
TOKENS = 20
FLIPS = 500
POOL = 8_000


# --- populations ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Population:
    """A law of matched prompts without any effect.

    ``draw(rng, n)`` gives ``(2, n, hidden)``: two arms that differ by chance alone. ``spread`` is
    the standard deviation of each dimension, ``factors`` (if any) the part of the covariance that
    dimensions share; ``centre`` is the mean. Only Gaussian laws have a closed form for the
    accuracy.
    """

    name: str
    draw: Callable[[np.random.Generator, int], Array]
    spread: Array
    gaussian: bool = True
    factors: Array | None = None
    centre: Array | float = 0.0

    def pairs(self, rng: np.random.Generator, n: int, effect: float = 0.0) -> Arms:
        """Arms whose means lie ``effect`` apart, in units of each dimension's spread."""
        artifact, natural = self.draw(rng, n)
        shift = self.shift(effect) / 2
        return artifact + shift, natural - shift

    def shift(self, effect: float) -> Array:
        return effect / np.sqrt(len(self.spread)) * self.spread

    def variance(self, directions: Array) -> Array:
        """Variance of one prompt's score along each direction."""
        own = ((directions * self.spread) ** 2).sum(axis=1)
        if self.factors is None:
            return own
        shared = (directions @ self.factors.T) ** 2 - (directions**2) @ (self.factors**2).T
        return own + shared.sum(axis=1)


def gaussian(hidden: int = HIDDEN) -> Population:
    name = "iid normal" if hidden == HIDDEN else f"iid normal, {hidden} dimensions"
    return Population(name, lambda rng, n: rng.standard_normal((2, n, hidden)), np.ones(hidden))


def massive(hidden: int = HIDDEN) -> Population:
    unit = np.ones(hidden)
    unit[:3] = 500

    def draw(rng: np.random.Generator, n: int) -> Array:
        return (rng.standard_normal((2, n, hidden)) + 6) * unit

    return Population("massive dimensions", draw, unit, centre=6 * unit)


def elementwise_t3(hidden: int = HIDDEN) -> Population:
    return Population(
        "elementwise t3",
        lambda rng, n: rng.standard_t(3, (2, n, hidden)),
        np.full(hidden, np.sqrt(3)),
        gaussian=False,
    )


def multivariate_t3(hidden: int = HIDDEN) -> Population:
    def draw(rng: np.random.Generator, n: int) -> Array:
        return rng.standard_normal((2, n, hidden)) / np.sqrt(rng.chisquare(3, (2, n, 1)) / 3)

    return Population("multivariate t3", draw, np.full(hidden, np.sqrt(3)), gaussian=False)


def low_rank(hidden: int = HIDDEN, rank: int = 10) -> Population:
    """Ten shared factors hold two thirds of the variance, as in real activations."""
    factors = np.random.default_rng(0).standard_normal((rank, hidden)) * np.sqrt(2 / rank)

    def draw(rng: np.random.Generator, n: int) -> Array:
        return rng.standard_normal((2, n, rank)) @ factors + rng.standard_normal((2, n, hidden))

    spread = np.sqrt(1 + (factors**2).sum(axis=0))
    return Population("low-rank correlation", draw, spread, factors=factors)


def pair_effects(hidden: int = HIDDEN) -> Population:
    """What a pair has in common is twice as large as what tells its arms apart."""

    def draw(rng: np.random.Generator, n: int) -> Array:
        return 2 * rng.standard_normal((1, n, hidden)) + rng.standard_normal((2, n, hidden))

    return Population("pair effects", draw, np.full(hidden, np.sqrt(5)))


def autoregressive(rng: np.random.Generator, shape: tuple[int, ...], memory: float = 0.9) -> Array:
    """Stationary AR(1) series of unit variance along the last axis but one (tokens)."""
    noise = rng.standard_normal(shape)
    noise[..., 1:, :] *= np.sqrt(1 - memory**2)
    return np.asarray(lfilter([1.0], [1.0, -memory], noise, axis=-2))


# --- tokens -----------------------------------------------------------------------------------

Tokens = Callable[..., tuple[list[Array], list[Array]]]


def independent_tokens(
    rng: np.random.Generator, n: int, hidden: int = HIDDEN
) -> tuple[list[Array], list[Array]]:
    artifact, natural = rng.standard_normal((2, n, TOKENS, hidden))
    return list(artifact), list(natural)


def ar_tokens(
    rng: np.random.Generator, n: int, hidden: int = HIDDEN
) -> tuple[list[Array], list[Array]]:
    artifact, natural = autoregressive(rng, (2, n, TOKENS, hidden))
    return list(artifact), list(natural)


def prompt_and_pair_effects(rng: np.random.Generator, n: int) -> tuple[list[Array], list[Array]]:
    pair = rng.standard_normal((1, n, 1, HIDDEN))
    prompt = rng.standard_normal((2, n, 1, HIDDEN))
    artifact, natural = pair + prompt + rng.standard_normal((2, n, TOKENS, HIDDEN))
    return list(artifact), list(natural)


def drift_and_lengths(rng: np.random.Generator, n: int) -> tuple[list[Array], list[Array]]:
    """Both arms drift along with the position; artifact responses are longer."""
    drift = np.arange(TOKENS)[:, None] * 0.05
    artifact, natural = autoregressive(rng, (2, n, TOKENS, HIDDEN)) + drift
    long, short = rng.integers(12, TOKENS + 1, n), rng.integers(6, 13, n)
    return (
        [tokens[:k] for tokens, k in zip(artifact, long, strict=True)],
        [tokens[:k] for tokens, k in zip(natural, short, strict=True)],
    )


# --- results ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Range:
    """What a figure must be; a miss that the table's note explains does not fail the run."""

    low: float = -np.inf
    high: float = np.inf
    explained: bool = False

    def __str__(self) -> str:
        if np.isinf(self.low):
            return f"at most {self.high:g}"
        return f"at least {self.low:g}" if np.isinf(self.high) else f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Figure:
    """A measured mean over runs, its Monte Carlo standard error, and what is required of it."""

    value: float
    error: float
    required: Range | None = None

    def reached(self, tolerance: float = 0.0) -> bool:
        if self.required is None:
            return True
        slack = tolerance * self.error
        return self.required.low - slack <= self.value <= self.required.high + slack

    def __str__(self) -> str:
        mark = "" if self.required is None else " ✓" if self.reached() else " ✗"
        if 0 < abs(self.value) < 1e-6:
            return f"{self.value:.0e}{mark}"
        digits = 3 if abs(self.value) < 10 else 1
        return f"{self.value:.{digits}f} ± {self.error:.{digits}f}{mark}"


@dataclass(frozen=True)
class Table:
    """Figures by setting (rows) and name (columns)."""

    title: str
    note: str
    rows: dict[str, dict[str, Figure]]

    def figures(self) -> Iterator[tuple[str, Figure]]:
        for setting, row in self.rows.items():
            for name, figure in row.items():
                yield f"{self.title}: {setting}, {name}", figure

    def markdown(self) -> str:
        names = list(dict.fromkeys(name for row in self.rows.values() for name in row))
        lines = [f"## {self.title}", "", self.note, ""]
        lines.append("| " + " | ".join(["setting", *names]) + " |")
        lines.append("|---" * (len(names) + 1) + "|")
        for setting, row in self.rows.items():
            cells = [str(row[name]) if name in row else "" for name in names]
            lines.append("| " + " | ".join([setting, *cells]) + " |")
        required = {
            f"{name} {figure.required}"
            for row in self.rows.values()
            for name, figure in row.items()
            if figure.required is not None
        }
        if required:
            lines += ["", f"Required (✓ reached, ✗ missed): {'; '.join(sorted(required))}."]
        return "\n".join(lines) + "\n"


@dataclass
class Runs:
    """Results of one simulated setting, one value per run, by name."""

    results: dict[str, list[float | bool]] = field(default_factory=dict)

    def add(self, **figures: float | bool) -> None:
        for name, value in figures.items():
            self.results.setdefault(name, []).append(value)

    def figure(self, name: str, required: Range | None = None) -> Figure:
        values = np.array(self.results[name])
        spread = values.astype(float).std(ddof=1)
        if values.dtype == bool:  # a share has an error even where all runs agree
            share = (values.sum() + 2) / (len(values) + 4)
            spread = np.sqrt(share * (1 - share))
        return Figure(float(values.mean()), float(spread / np.sqrt(len(values))), required)


def generators(runs: int, *setting: object) -> Iterator[tuple[int, np.random.Generator]]:
    """A generator for each run, independent between settings."""
    entropy = [zlib.crc32(str(part).encode()) for part in setting]
    for run, child in enumerate(np.random.SeedSequence(entropy).spawn(runs)):
        yield run, np.random.default_rng(child)


# --- what is measured -------------------------------------------------------------------------


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


# --- tables -----------------------------------------------------------------------------------

SIZE = Range(0.036, 0.064)
EFFECTS = (0.0, 1.5, 3.0)


def engine_table(runs: int) -> Table:
    """Largest difference of d from a refit of every direction, observed and flipped."""
    rows = {}
    for name, n, hidden in (("H > n", 20, 300), ("H < n", 40, 10)):
        errors = []
        for _, rng in generators(max(2, runs // 100), "engine", name):
            artifact, natural = massive(hidden).pairs(rng, n, 1.0)
            signs = sign_flips(n, 20, rng)
            ours = Flipper(kernels(artifact, natural)).null(signs).d_s
            for row, d in zip(signs, ours, strict=True):
                errors.append(abs(d - d_s(*refit(*flipped(artifact, natural, row))[:2])))
        rows[name] = {"largest difference": Figure(max(errors), 0.0, Range(high=1e-9))}
    return Table(
        "Kernels against an explicit refit",
        "Largest difference of d, over the data as they are and 19 flips of each simulated set.",
        rows,
    )


def noise_table(runs: int) -> Table:
    rows = {}
    for name, tokens in (("independent tokens", independent_tokens), ("AR(0.9) tokens", ar_tokens)):
        result = token_size(name, partial(tokens, hidden=1152), 50, max(20, runs // 10))
        rows[name] = {
            "pooled d": result.figure("pooled_d"),
            "pooled accuracy": result.figure("pooled_accuracy"),
            "pooled t-test rejects": result.figure("pooled_reject"),
            "held-out d": result.figure("d"),
            "held-out accuracy": result.figure("accuracy"),
            "sign flips reject": result.figure("reject"),
        }
    return Table(
        "Pure noise",
        "No effect at all: 50 pairs, 20 tokens, 1152 dimensions. *Pooled* is the usual way: every "
        "prompt × token vector counts as independent, and the vectors that gave the direction are "
        "scored along it. *Held-out* is ours.",
        rows,
    )


def size_table(runs: int) -> Table:
    rows: dict[str, dict[str, Figure]] = {}
    prompts = [gaussian(), massive(), elementwise_t3(), pair_effects()]
    for population in [*prompts, multivariate_t3(), low_rank()]:
        required = population.name in {law.name for law in prompts}
        rows[f"{population.name}, n = 50"] = null_figures(size(population, 50, 4 * runs), required)
    for n in (20, 100):
        rows[f"iid normal, n = {n}"] = null_figures(size(gaussian(), n, 4 * runs), n == 100)
    for hidden in (20, 1152):
        population = gaussian(hidden)
        rows[f"{population.name}, n = 50"] = null_figures(size(population, 50, runs), False)
    tokens = {
        "independent tokens": independent_tokens,
        "AR(0.9) tokens": ar_tokens,
        "prompt and pair effects": prompt_and_pair_effects,
        "unequal lengths with drift": drift_and_lengths,
    }
    for name, law in tokens.items():
        result = token_size(name, law, 50, 4 * runs if law is ar_tokens else runs)
        required = law is ar_tokens
        rows[f"{name}, n = 50"] = null_figures(result, required) | {
            "pooled t-test rejects": result.figure("pooled_reject")
        }
    rows["… averaged without cutting to the shorter"] = {
        "type-I error": uncut_size(50, runs).figure("reject")
    }
    rows["10 duplicates in 40 pairs, collapsed"] = {
        "type-I error": duplicate_size(runs, collapse=True).figure("reject")
    }
    rows["… counted as 40 pairs"] = {
        "type-I error": duplicate_size(runs, collapse=False).figure("reject")
    }
    return Table(
        "One layer under the null",
        f"Rejections of the sign-flip test at α = 0.05 ({FLIPS} flips per run), and means over "
        f"runs of the held-out estimates; {HIDDEN} dimensions unless said otherwise. *Control* is "
        "the share of runs in which the mean d of shuffled labels lies within 0.03 + 4 of its "
        "Monte Carlo errors.",
        rows,
    )


def null_figures(result: Runs, required: bool) -> dict[str, Figure]:
    size, d, accuracy = (SIZE, Range(-0.03, 0.03), Range(0.49, 0.51)) if required else (None,) * 3
    return {
        "type-I error": result.figure("reject", size),
        "mean d": result.figure("d", d),
        "mean accuracy": result.figure("accuracy", accuracy),
        "control": result.figure("control"),
    }


def family_table(runs: int) -> Table:
    layers = family(50, 4 * runs)
    steps = step_family(50, runs)
    return Table(
        "A family of tests under the null",
        "Runs with at least one rejection at α = 0.05: 26 layers, each correlated 0.9 with the one "
        "before; and the 20 tokens of AR(0.9) responses. n = 50.",
        {
            "26 correlated layers": {
                "family-wise (maxT)": layers.figure("family_wise", Range(0.03, 0.065)),
                "uncorrected": layers.figure("uncorrected", Range(low=0.3)),
                "effective layers": layers.figure("effective"),
            },
            "steps of AR(0.9) tokens": {
                "family-wise (maxT)": steps.figure("family_wise"),
                "uncorrected": steps.figure("uncorrected"),
            },
        },
    )


def coverage_table(runs: int) -> Table:
    usual = (Range(0.925, 0.98), Range(0.93, 0.99))
    sizes = (20, 50, 100)
    settings = [
        (gaussian(), sizes, usual),
        (massive(), sizes, usual),
        (elementwise_t3(), sizes, usual),
        (multivariate_t3(), sizes, (Range(0.86, explained=True), Range(0.94))),
        (low_rank(), sizes, (None, None)),
        (gaussian(20), (50,), (None, None)),
        (gaussian(1152), (50,), (None, None)),
    ]
    rows = {}
    for population, ns, (d, accuracy) in settings:
        for n, effect in product(ns, EFFECTS):
            result = coverage(population, n, effect, runs)
            rows[f"{population.name}, n = {n}, shift {effect:g}"] = {
                "true d": result.figure("true_d"),
                "bias of d": result.figure("bias"),
                "d": result.figure("d", d),
                "analytic": result.figure("analytic"),
                "accuracy": result.figure("accuracy", accuracy),
                "percentile bootstrap": result.figure("percentile"),
                "width": result.figure("width"),
            }
    return Table(
        "Coverage of 95% intervals",
        "Share of runs whose interval holds the truth: d and accuracy of *fresh* pairs along the "
        "directions fitted in that run, averaged over folds. *Shift* is the distance of the means "
        "in units of each dimension's standard deviation; the true held-out d that follows from it "
        f"is given, averaged over runs; {HIDDEN} dimensions unless said otherwise. *Percentile "
        "bootstrap* is the usual one, with the held-out scores fixed.\n\n"
        "The multivariate t3 has no fourth moment: the standard deviation of its scores is "
        "underestimated by samples of this size and no interval built on it knows by how much. "
        "That shows where d is large (shift 3, most with 100 pairs). Less is required of it (*at "
        "least*, below); the intervals of the accuracy do not suffer.",
        rows,
    )


def power_table(runs: int) -> Table:
    rows = {}
    for population in (gaussian(), low_rank()):
        result = power(population, 50, 0.7, runs)
        required = Range(0.7) if population.name == "iid normal" else None
        rows[f"{population.name}, n = 50, d = 0.7"] = {
            "power": result.figure("reject", required),
            "mean estimated d": result.figure("d"),
        }
    for n in (20, 50, 100):
        target = smallest_detectable_effect(n)
        result = power(gaussian(), n, target, runs)
        rows[f"iid normal, n = {n}, d = {target:.2f} (smallest detectable)"] = {
            "power": result.figure("reject"),
            "mean estimated d": result.figure("d"),
        }
    return Table(
        "Power",
        "Rejections at α = 0.05, one layer, where the true held-out d averages the value given. "
        "`smallest_detectable_effect` aims at a power of 0.8.",
        rows,
    )


def version_table(runs: int) -> Table:
    rows = {}
    for d in (0.7, 1.5):
        same = versions(gaussian(), 50, (d, d), 4 * runs)
        apart = versions(gaussian(), 50, (d, d + 0.5), runs)
        rows[f"d = {d} in both"] = {
            "detected": same.figure("detectable", Range(0.02, 0.065)),
            "called equivalent": same.figure("equivalent"),
            "mean difference": same.figure("difference"),
        }
        rows[f"d = {d} and {d + 0.5}"] = {
            "detected": apart.figure("detectable", Range(0.65)),
            "called equivalent": apart.figure("equivalent", Range(high=0.07)),
            "mean difference": apart.figure("difference"),
        }
    return Table(
        "Two versions",
        "The same 50 pairs under two versions whose activations correlate 0.9. *Detected*: the 95% "
        "interval of the change excludes zero. *Called equivalent* at a margin of 0.5; in the rows "
        "with a change of 0.5 this is an error.",
        rows,
    )


def category_table(runs: int) -> Table:
    return Table(
        "Leave one category out",
        "Five categories of ten pairs, each shifted by 6 standard deviations in one dimension: the "
        "same for all, or one of its own.",
        {
            name: {
                "held-out d": result.figure("d"),
                "d of the category left out": result.figure("left_out"),
                "coverage of its interval": result.figure("coverage"),
            }
            for name, result in (
                ("one direction for all", categories(50, runs, shared=True)),
                ("each its own", categories(50, runs, shared=False)),
            )
        },
    )


TABLES = (
    engine_table,
    noise_table,
    size_table,
    family_table,
    coverage_table,
    power_table,
    version_table,
    category_table,
)


# --- report -----------------------------------------------------------------------------------


def machine() -> str:
    """Processor, core count, system and library versions."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":", 1)[1].strip() if names else cpu
    return (
        f"{cpu} ({os.cpu_count()} cores), {platform.system()}, Python "
        f"{platform.python_version()}, NumPy {np.__version__}, SciPy {scipy.__version__}"
    )


def report(tables: list[Table], runs: int, seconds: float) -> str:
    required = [f for table in tables for _, f in table.figures() if f.required is not None]
    reached = sum(f.reached() for f in required)
    head = f"""# Calibration

How often the verdicts are wrong, measured. Written by `python -m benchmarks.calibration`, the last
section by `python -m benchmarks.flakiness`; do not edit by hand. What the methods are is told in
[statistics.md](statistics.md).

{reached} of {len(required)} required figures are reached; a miss is explained at its table. Each
figure is a mean over {runs} simulated runs, {4 * runs} where the requirement lies close to the
nominal value; ± is one Monte Carlo standard error. Measured in {seconds / 60:.0f} minutes of
processor time on {machine()}.

![Type-I error and coverage](img/calibration.svg)
"""
    return "\n".join([head, *(table.markdown() for table in tables)])


# The page's last section, which another program measures.
OTHER_SEEDS = "Other seeds, other verdicts?"


def split_page(page: Path) -> tuple[str, str]:
    """What is there of the page, and the section on other seeds; empty where there is none."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    start = text.find(f"\n## {OTHER_SEEDS}\n")
    return (text, "") if start < 0 else (text[:start], text[start:])


STYLE: dict[Any, Any] = {
    "svg.hashsalt": "calibration",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(tables: list[Table], path: Path) -> None:
    """Type-I errors and coverages, ours and the usual way's, against what is required."""
    import matplotlib.pyplot as plt

    by_title = {table.title: table.rows for table in tables}
    panels = (
        ("One layer under the null", "type-I error", "pooled t-test rejects", SIZE),
        ("Coverage of 95% intervals", "d", "percentile bootstrap", Range(0.925, 0.98)),
    )
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(12, 9), layout="constrained")
        for axis, (title, ours, usual, required) in zip(axes, panels, strict=True):
            # Settings that begin with an ellipsis show what goes wrong without a safeguard.
            rows = {name: row for name, row in by_title[title].items() if not name.startswith("…")}
            axis.axvspan(required.low, required.high, color="#009e73", alpha=0.2, label="required")
            for name, colour, marker in ((ours, "#0072b2", "o"), (usual, "#d55e00", "x")):
                shown = [(k, row[name]) for k, row in enumerate(rows.values()) if name in row]
                axis.errorbar(
                    [f.value for _, f in shown],
                    [k for k, _ in shown],
                    xerr=[2 * f.error for _, f in shown],
                    fmt=marker,
                    color=colour,
                    label="ours" if name == ours else name,
                )
            axis.set_yticks(range(len(rows)), list(rows), fontsize=7)
            axis.invert_yaxis()
            axis.set_title(title, pad=30)
            axis.legend(
                loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8, frameon=False
            )
        axes[0].set_xlabel("rejections at α = 0.05 (± 2 Monte Carlo errors)")
        axes[1].set_xlabel("coverage of d (± 2 Monte Carlo errors)")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def draw_noise(path: Path) -> None:
    """One data set without any effect, as the usual way and as held-out scores show it."""
    import matplotlib.pyplot as plt

    artifact, natural = ar_tokens(np.random.default_rng(1), 50, 1152)
    a, b = np.concatenate(artifact), np.concatenate(natural)
    gap = a.mean(axis=0) - b.mean(axis=0)
    unit = gap / np.linalg.norm(gap)
    usual = in_sample_separation(artifact, natural)
    (ours,) = separation(*(arm[None] for arm in pair_means(artifact, natural)))
    panels = (
        (
            "The usual way: the vectors that gave the direction\n"
            f"d = {usual.d:.1f}, accuracy {usual.accuracy:.1%}",
            (a @ unit, b @ unit),
            "1000 + 1000 token vectors",
        ),
        (
            "Held out: each pair along the others' direction\n"
            f"d = {ours.d:.2f} [{ours.d_interval[0]:.2f}, {ours.d_interval[1]:.2f}], "
            f"accuracy {ours.accuracy:.0%}, p = {ours.p_value:.2f}",
            (np.array(ours.scores_artifact), np.array(ours.scores_natural)),
            "50 + 50 prompts",
        ),
    )
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
        for axis, (title, arms, what) in zip(axes, panels, strict=True):
            bins = np.histogram_bin_edges(np.concatenate(arms), 40 if len(arms[0]) > 100 else 16)
            for scores, name, colour in zip(
                arms, ("artifact", "natural"), ("#d55e00", "#0072b2"), strict=True
            ):
                axis.hist(scores, bins, alpha=0.6, color=colour, label=name)
            axis.set_title(title, fontsize=10)
            axis.set_xlabel(f"score along the direction ({what})")
            axis.set_yticks([])
            axis.spines["left"].set_visible(False)
            axis.legend(fontsize=9, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="few runs; print and write nothing")
    parser.add_argument("--runs", type=int, help="runs per setting (default 1000, quick 50)")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    runs = options.runs or (50 if options.quick else 1000)

    start = time.process_time()
    tables = []
    for make in TABLES:
        tables.append(make(runs))
        print(tables[-1].markdown(), flush=True)
    seconds = time.process_time() - start
    print(f"{seconds:.0f} s of processor time")
    if not options.quick:
        options.output.mkdir(parents=True, exist_ok=True)
        page = options.output / "calibration.md"
        page.write_text(report(tables, runs, seconds) + split_page(page)[1], encoding="utf-8")
        draw(tables, options.output / "img" / "calibration.svg")
        draw_noise(options.output / "img" / "noise.svg")

    tolerance = 4 if options.quick else 0
    missed = [
        f"{name}: {figure}, required {figure.required}"
        for table in tables
        for name, figure in table.figures()
        if not figure.reached(tolerance) and not (figure.required and figure.required.explained)
    ]
    for line in missed:
        print(f"MISSED {line}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
