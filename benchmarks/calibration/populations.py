"""Simulated data whose true effect is known: laws of matched prompts, and of responses' tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

Array = NDArray[np.float64]
Arms = tuple[Array, Array]
"""Artifact and natural prompts, `(pairs, hidden)` each."""

HIDDEN = 200
TOKENS = 20


@dataclass(frozen=True, eq=False)
class Population:
    """A law of matched prompts without any effect.

    Attributes:
        draw: `draw(rng, n)` gives `(2, n, hidden)`, two arms that differ by chance alone.
        spread: `(hidden,)`, the standard deviation of each dimension.
        gaussian: whether the accuracy has a closed form.
        factors: `(factors, hidden)`, the part of the covariance that dimensions share, if any.
        centre: the mean.
    """

    name: str
    draw: Callable[[np.random.Generator, int], Array]
    spread: Array
    gaussian: bool = True
    factors: Array | None = None
    centre: Array | float = 0.0

    def pairs(self, rng: np.random.Generator, n: int, effect: float = 0.0) -> Arms:
        """Arms whose means lie `effect` apart, in units of each dimension's spread."""
        return self.apart(self.draw(rng, n), effect)

    def apart(self, drawn: Array, effect: float) -> Arms:
        """Two drawn arms, `(2, …, hidden)`, moved `effect` apart."""
        shift = self.shift(effect) / 2
        return drawn[0] + shift, drawn[1] - shift

    def shift(self, effect: float) -> Array:
        """Difference of the means, `(hidden,)`."""
        return effect / np.sqrt(len(self.spread)) * self.spread

    def variance(self, directions: Array) -> Array:
        """Variance of one prompt's score along each of `(n, hidden)` directions."""
        own = ((directions * self.spread) ** 2).sum(axis=1)
        if self.factors is None:
            return own
        shared = (directions @ self.factors.T) ** 2 - (directions**2) @ (self.factors**2).T
        return own + shared.sum(axis=1)


def gaussian(hidden: int = HIDDEN) -> Population:
    name = "iid normal" if hidden == HIDDEN else f"iid normal, {hidden} dimensions"
    return Population(name, lambda rng, n: rng.standard_normal((2, n, hidden)), np.ones(hidden))


def massive(hidden: int = HIDDEN) -> Population:
    """Three dimensions that are 500 times as large as the others, all far from zero."""
    unit = np.ones(hidden)
    unit[:3] = 500

    def draw(rng: np.random.Generator, n: int) -> Array:
        return (rng.standard_normal((2, n, hidden)) + 6) * unit

    return Population("massive dimensions", draw, unit, centre=6 * unit)


def elementwise_t3() -> Population:
    def draw(rng: np.random.Generator, n: int) -> Array:
        return rng.standard_t(3, (2, n, HIDDEN))

    return Population("elementwise t3", draw, np.full(HIDDEN, np.sqrt(3)), gaussian=False)


def multivariate_t3() -> Population:
    def draw(rng: np.random.Generator, n: int) -> Array:
        return rng.standard_normal((2, n, HIDDEN)) / np.sqrt(rng.chisquare(3, (2, n, 1)) / 3)

    return Population("multivariate t3", draw, np.full(HIDDEN, np.sqrt(3)), gaussian=False)


def low_rank(rank: int = 10) -> Population:
    """Ten shared factors hold two thirds of the variance, as in real activations."""
    factors = np.random.default_rng(0).standard_normal((rank, HIDDEN)) * np.sqrt(2 / rank)

    def draw(rng: np.random.Generator, n: int) -> Array:
        return rng.standard_normal((2, n, rank)) @ factors + rng.standard_normal((2, n, HIDDEN))

    spread = np.sqrt(1 + (factors**2).sum(axis=0))
    return Population("low-rank correlation", draw, spread, factors=factors)


@cache
def real() -> list[Population]:
    """The covariance of a real model's activations, where they have been collected; else none.

    Those of Gemma 3 270M, never aligned, in the middle of its layers, on the prompts that ship:
    `python -m benchmarks.real_gemma` collects them.
    """
    from fixtures.real_gemma import FILE
    from fixtures.train_adapter import TEMPLATE
    from harness import Experiment
    from harness.data.activations import read_activations

    if not FILE.exists():
        return []
    base = Experiment(FILE, chat_template=TEMPLATE, base_model="none", layers=[9])
    found, _ = read_activations(base.activations, base.prompt_pairs, [9], base.sites)
    prompts = np.concatenate([*found.artifact, *found.natural])
    prompts = prompts - prompts.mean(axis=0)
    # As many factors as there are prompts, and a little noise in the dimensions that they leave.
    factors = prompts / np.sqrt(len(prompts) - 1)
    own = 0.1 * factors.std(axis=0) * np.sqrt(len(prompts))

    def draw(rng: np.random.Generator, n: int) -> Array:
        hidden = factors.shape[1]
        mixed = rng.standard_normal((2, n, len(factors))) @ factors
        return mixed + rng.standard_normal((2, n, hidden)) * own

    spread = np.sqrt(own**2 + (factors**2).sum(axis=0))
    return [Population("covariance of Gemma 3 270M", draw, spread, factors=factors)]


def pair_effects() -> Population:
    """What a pair has in common is twice as large as what tells its arms apart."""

    def draw(rng: np.random.Generator, n: int) -> Array:
        return 2 * rng.standard_normal((1, n, HIDDEN)) + rng.standard_normal((2, n, HIDDEN))

    return Population("pair effects", draw, np.full(HIDDEN, np.sqrt(5)))


def autoregressive(rng: np.random.Generator, *shape: int) -> Array:
    """AR(0.9) series of unit variance, stationary, along the last axis but one (tokens)."""
    noise = rng.standard_normal(shape)
    noise[..., 1:, :] *= np.sqrt(1 - 0.9**2)
    return np.asarray(lfilter([1.0], [1.0, -0.9], noise, axis=-2))


TokenArms = tuple[list[Array], list[Array]]
"""Artifact and natural responses, `(tokens, hidden)` each."""
Tokens = Callable[[np.random.Generator, int], TokenArms]
"""A law of responses without any effect: `law(rng, n)` gives n pairs of them."""


def independent_tokens(rng: np.random.Generator, n: int, hidden: int = HIDDEN) -> TokenArms:
    artifact, natural = rng.standard_normal((2, n, TOKENS, hidden))
    return list(artifact), list(natural)


def ar_tokens(rng: np.random.Generator, n: int, hidden: int = HIDDEN) -> TokenArms:
    artifact, natural = autoregressive(rng, 2, n, TOKENS, hidden)
    return list(artifact), list(natural)


def prompt_and_pair_effects(rng: np.random.Generator, n: int) -> TokenArms:
    pair = rng.standard_normal((1, n, 1, HIDDEN))
    prompt = rng.standard_normal((2, n, 1, HIDDEN))
    artifact, natural = pair + prompt + rng.standard_normal((2, n, TOKENS, HIDDEN))
    return list(artifact), list(natural)


def drift_and_lengths(rng: np.random.Generator, n: int) -> TokenArms:
    """Both arms drift along with the position; artifact responses are longer."""
    artifact, natural = ar_tokens(rng, n)
    drift = np.arange(TOKENS)[:, None] * 0.05
    long, short = rng.integers(12, TOKENS + 1, n), rng.integers(6, 13, n)
    return (
        [(tokens + drift)[:k] for tokens, k in zip(artifact, long, strict=True)],
        [(tokens + drift)[:k] for tokens, k in zip(natural, short, strict=True)],
    )
