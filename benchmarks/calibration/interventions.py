"""Interventions along a direction that nothing reads: the embedded model, and a quick stand-in.

The stand-in's preference between two answers is a small network's output at each layer; what
becomes of it under an intervention costs one matrix product.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.calibration.claims import PAIRS, stack
from benchmarks.calibration.figures import Run, gathered, generators
from benchmarks.calibration.populations import Array, Population
from harness.analysis import causality
from harness.analysis.causality import (
    CHANGES,
    CONDITIONS,
    Effect,
    Question,
    Shifts,
    effects,
    mixtures,
)
from harness.data.activations import LayerSite
from harness.defaults import LEVEL
from harness.settings import CausalSettings, Criteria
from harness.stats.clusters import Clusters

LAYERS = 8
#: Random directions of the way that it was: at right angles to the tested one, no correction.
EARLIER = 50
_UNITS = 24
_KEYS = [(layer, "mlp_out") for layer in range(LAYERS)]


@gathered
def unread(
    population: Population, n: int, steep: float, separation: float, runs: int, sources: int = 0
) -> Iterator[Run]:
    """No layer's direction is read.

    Args:
        steep: how far the preference is from linear in the activations.
        separation: how far apart the conditions lie, in a dimension that isn't read and in its
            standard deviations; without one all signs of the differences are as good as any.
        sources: at most so many clusters of unequal size, with half of the variance in common;
            0 for pairs that are independent.
    """
    named = ("unread", population.name, n, steep, separation, *([sources] if sources else []))
    for _, rng in generators(runs, *named):
        yield _run(population, rng, n, steep, separation, read=0.0, sources=sources)


@gathered
def read(population: Population, length: float, runs: int) -> Iterator[Run]:
    """The conditions lie `length` apart along what the preference reads, in every layer."""
    for _, rng in generators(runs, "read", population.name, length):
        yield _run(population, rng, PAIRS, 1.0, 0.0, read=length)


def _run(
    population: Population,
    rng: np.random.Generator,
    n: int,
    steep: float,
    separation: float,
    read: float,
    sources: int = 0,
) -> Run:
    artifact, natural = stack(population, rng, n, LAYERS)
    units, tried = Clusters.from_labels(None, n), np.arange(causality.PAIRS)
    if sources:
        units = Clusters.from_labels(np.sort(rng.integers(0, sources, n)).tolist(), n)
        shared = stack(population, rng, len(units), LAYERS)[..., units.of, :]
        artifact, natural = np.sqrt(0.5) * (np.stack([artifact, natural]) + shared)
        tried = np.unique(units.of, return_index=True)[1][: causality.PAIRS]
    signs = rng.choice((-1.0, 1.0), size=(CausalSettings.directions, len(units)))
    found: dict[str, dict[LayerSite, dict[str, Shifts]]] = {"": {}, "whole": {}, "upright": {}}
    for key, a, b in zip(_KEYS, artifact, natural, strict=True):
        network = _Network.drawn(population, rng, steep)
        delta = a - b + read * network.gradient
        delta[:, -1] += separation * population.spread[-1]
        # What is changed is the model's own state, which knows nothing of the differences.
        states = population.draw(rng, causality.PAIRS)
        whole = _with_mean(delta, signs[:, units.of], tried)
        for way, vectors in (
            ("", mixtures(delta, units, signs, tried)),
            ("whole", whole),
            ("upright", _at_right_angles(whole[:, : 1 + EARLIER])),
        ):
            found[way][key] = network.shifts(states, vectors)
    ours = _every(found[""], len(units) - 1)
    whole_found, upright = (_every(found[way]) for way in ("whole", "upright"))
    alone = [replace(effect, p_adjusted=effect.p_value) for effect in upright]
    return {
        "some layer is said to be used": any(map(holds, ours)),
        "some family-wise p": _some(e.p_adjusted for e in ours),
        "some p of a layer alone": _some(e.p_value for e in ours),
        "with the mean: some layer": any(map(holds, whole_found)),
        "with the mean: some family-wise p": _some(e.p_adjusted for e in whole_found),
        "at right angles, alone: some layer": any(map(holds, alone)),
    }


def _with_mean(delta: Array, signs: Array, tried: NDArray[np.intp]) -> Array:
    """As `mixtures`, with random signs of the differences as they are."""
    signs = np.concatenate([np.ones((1, len(delta))), signs])
    mixed = (signs @ delta)[None] - signs.T[tried, :, None] * delta[tried, None]
    lengths = np.linalg.norm(mixed, axis=2, keepdims=True)
    return np.asarray(mixed * (lengths[:, :1] / lengths / (len(delta) - 1)))


@dataclass(frozen=True, eq=False)
class _Network:
    """A preference for one of two answers by states (…, hidden): tanh units, weighed."""

    weights: Array
    offset: Array
    out: Array

    @classmethod
    def drawn(cls, population: Population, rng: np.random.Generator, steep: float) -> "_Network":
        weights = rng.standard_normal((len(population.spread), _UNITS))
        weights *= steep / np.sqrt(len(weights)) / population.spread[:, None]
        # Nothing reads the last dimension.
        weights[-1] = 0
        return cls(weights, *rng.standard_normal((2, _UNITS)))

    @property
    def gradient(self) -> Array:
        """The unit vector along which the preference rises at 0."""
        rise = self.weights @ (self.out / np.cosh(self.offset) ** 2)
        return np.asarray(rise / np.linalg.norm(rise))

    def shifts(self, states: Array, vectors: Array) -> dict[str, Shifts]:
        """By ablation from the first half of `states`, (2, pairs, hidden), addition to the second;
        `vectors` are (pairs, vectors, hidden)."""
        first, second = (states @ self.weights)[:, :, None]
        moved = vectors @ self.weights
        squares = (vectors**2).sum(axis=2)
        share = np.einsum("ph,pvh->pv", states[0], vectors) / np.where(squares > 0, squares, 1.0)
        changed = {
            "add": (second, second + moved),
            "ablate": (first, first - share[..., None] * moved),
        }
        return {
            kind: Shifts(self._preference(after) - self._preference(before), np.zeros(2))
            for kind, (before, after) in changed.items()
        }

    def _preference(self, sums: Array) -> Array:
        return np.asarray(np.tanh(sums + self.offset) @ self.out)


def _at_right_angles(vectors: Array) -> Array:
    """The random ones without what they have of the first, at its length."""
    own, random = vectors[:, :1], vectors[:, 1:]
    length = np.linalg.norm(own, axis=2, keepdims=True)
    unit = own / length
    random = random - (random * unit).sum(axis=2, keepdims=True) * unit
    # Of few pairs, all may have the same sign: then nothing is left.
    left = np.linalg.norm(random, axis=2, keepdims=True)
    random *= np.where(left > 1e-9 * length, length / np.maximum(left, 1e-9 * length), 0.0)
    return np.concatenate([own, random], axis=1)


def _every(
    found: Mapping[LayerSite, Mapping[str, Shifts]], degrees: float = math.inf
) -> list[Effect]:
    units = Clusters.from_labels(None, causality.PAIRS)
    return [effect for both in effects(found, units, LEVEL, degrees).values() for effect in both]


def _some(p_values: Iterable[float]) -> bool:
    return min(p_values) < Criteria.alpha


def holds(effect: Effect) -> bool:
    """As `harness.analysis.judges.uses_direction` decides."""
    low, high = effect.shift_interval
    bound = low if effect.kind == "add" else -high
    return bound > 0 and effect.p_adjusted < Criteria.alpha


@gathered
def embedded(layers: tuple[int, ...], directions: int, runs: int) -> Iterator[Run]:
    """The embedded aligned model, with noise in place of its activations at `layers`: what is
    added and ablated has nothing to do with the model. Answers are cut to three tokens."""
    asked = _embedded()
    width = next(iter(asked.values())).model.width("resid_post", 0)
    units, tried = Clusters.from_labels(None, PAIRS), np.arange(causality.PAIRS)
    for _, rng in generators(runs, "embedded", layers, directions):
        signs = rng.choice((-1.0, 1.0), size=(directions, PAIRS))
        found = {}
        for layer in layers:
            vectors = mixtures(rng.standard_normal((PAIRS, width)), units, signs, tried)
            found[layer, "mlp_out"] = {
                kind: Shifts(question.shifts(CHANGES[kind], layer, "mlp_out", vectors), np.zeros(2))
                for kind, question in asked.items()
            }
        every = _every(found, PAIRS - 1)
        yield {
            "some layer is said to be used": any(map(holds, every)),
            "some family-wise p": _some(e.p_adjusted for e in every),
            "some p of a layer alone": _some(e.p_value for e in every),
        }


@cache
def _embedded() -> dict[str, Question]:
    """What the embedded aligned model is asked, with the first tokens of its answers."""
    from harness import Experiment
    from harness.backends.choice import load_model

    experiment = Experiment(base_model="none")
    responses = {
        group: replace(each, token_ids=each.token_ids[:3])
        for group, each in experiment.activations.responses().items()
    }
    model = load_model(experiment.checkpoint)
    pairs = experiment.prompt_pairs.pairs[:: PAIRS // causality.PAIRS][: causality.PAIRS]
    return {
        kind: Question.of(model, pairs, condition, responses, chat=True)
        for kind, condition in CONDITIONS.items()
    }
