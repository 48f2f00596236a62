"""What the ladder's claims are made of: units that depend on each other, bounds for many layers,
effects that differ between categories, and the same pairs in a base model."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from benchmarks.calibration.experiments import FLIPS, POOL, effect_for, one_layer, truth
from benchmarks.calibration.figures import Run, gathered, generators
from benchmarks.calibration.populations import Arms, Array, Population, gaussian
from harness.analysis.controls import FEWEST_CATEGORIES
from harness.stats import (
    Separation,
    TooFewError,
    compare,
    direction_drift,
    following,
    pairs_to_decide,
    separation,
)

PAIRS = 65
LAYERS = 18


def one_prompt_shared(population: Population, rng: np.random.Generator) -> tuple[Arms, list[int]]:
    """Ten pairs have the same natural prompt."""
    artifact, natural = population.pairs(rng, PAIRS)
    natural[:10] = natural[0]
    return (artifact, natural), [0] * 10 + list(range(1, PAIRS - 9))


def nearly_the_same(population: Population, rng: np.random.Generator) -> tuple[Arms, list[int]]:
    """Every two pairs share nine tenths of their variance."""
    labels = [pair // 2 for pair in range(PAIRS)]
    own, shared = population.draw(rng, PAIRS), population.draw(rng, PAIRS)[:, labels]
    return (np.sqrt(0.1) * own[0] + np.sqrt(0.9) * shared[0],
            np.sqrt(0.1) * own[1] + np.sqrt(0.9) * shared[1]), labels  # fmt: skip


def sources(population: Population, rng: np.random.Generator) -> tuple[Arms, list[int]]:
    """Some twenty sources of one to eight pairs, with half of the variance in common."""
    labels = np.sort(rng.integers(0, 22, PAIRS))
    own, shared = population.draw(rng, PAIRS), population.draw(rng, PAIRS)[:, labels]
    return (np.sqrt(0.5) * (own[0] + shared[0]), np.sqrt(0.5) * (own[1] + shared[1])), (
        labels.tolist()
    )


DEPENDENT = {
    "10 of 65 pairs share one prompt": one_prompt_shared,
    "every two pairs nearly the same": nearly_the_same,
    "sources of one to eight pairs": sources,
}


@gathered
def clusters(kind: str, population: Population, runs: int) -> Iterator[Run]:
    """Dependent pairs under the null, with their clusters and without."""
    for run, rng in generators(runs, "clusters", kind, population.name):
        (artifact, natural), labels = DEPENDENT[kind](population, rng)
        ours = one_layer(artifact, natural, run, bootstrap=500, clusters=labels)
        apart = one_layer(artifact, natural, run)
        yield {
            "type-I error": ours.p_value <= 0.05,
            "interval of d holds 0": ours.d_interval[0] <= 0 <= ours.d_interval[1],
            "interval of accuracy holds .5": (
                ours.accuracy_interval[0] <= 0.5 <= ours.accuracy_interval[1]
            ),
            "type-I error, as if independent": apart.p_value <= 0.05,
        }


def stack(population: Population, rng: np.random.Generator, n: int, layers: int = LAYERS) -> Array:
    """`(2, layers, n, hidden)`: layers that correlate 0.9 with the one before."""
    drawn = [population.draw(rng, n)]
    for _ in range(layers - 1):
        drawn.append(0.9 * drawn[-1] + np.sqrt(1 - 0.9**2) * population.draw(rng, n))
    return np.stack(drawn, axis=1)


@cache
def _effect(target: float, law: Population, n: int) -> float:
    return effect_for(target, law, n) if target else 0.0


@gathered
def bounds(law: Population, target: float, runs: int) -> Iterator[Run]:
    """Lower bounds of all layers at once, where the true d of each is `target`."""
    effect = _effect(target, law, PAIRS)
    pool = None
    if not law.gaussian:
        pool = law.draw(np.random.default_rng(0), POOL // 2).reshape(POOL, -1)
    for run, rng in generators(runs, "bounds", law.name, target):
        artifact, natural = law.apart(stack(law, rng, PAIRS), effect)
        found = separation(artifact, natural, permutations=0, bootstrap=1000, seed=run)
        true = [truth(law, a, b, effect, pool) for a, b in zip(artifact, natural, strict=True)]
        both = list(zip(found, true, strict=True))
        yield {
            "some bound of d above its truth": any(s.d_lower > d for s, (d, _) in both),
            "some bound of accuracy": any(s.accuracy_lower > a for s, (_, a) in both),
            "some interval of d": any(s.d_interval[0] > d for s, (d, _) in both),
            "mean bound": float(np.mean([s.d_lower for s in found])),
        }


def holds(s: Separation) -> bool:
    """As `harness.analysis.judges.crosses_categories` decides."""
    assert s.p_folds is not None
    return s.d_lower > 0 and s.p_adjusted < 0.05 and s.p_folds <= 2.0 ** (1 - FEWEST_CATEGORIES)


@gathered
def across(law: Population, share: float, target: float, layers: int, runs: int) -> Iterator[Run]:
    """Five categories of 13 pairs, each with an effect of its own that makes up `share` of the
    differences' variance, and one effect in common, alone worth a d of `target`."""
    labels = [pair % 5 for pair in range(PAIRS)]
    common = law.shift(_effect(target, law, PAIRS))
    for run, rng in generators(runs, "across", law.name, share, target, layers):
        one, other = stack(law, rng, PAIRS, layers)
        own = stack(law, rng, 5, layers)[0]
        middle = (one + other) / 2
        delta = np.sqrt(1 - share) * (one - other) + np.sqrt(2 * share) * own[:, labels] + common
        artifact, natural = middle + delta / 2, middle - delta / 2
        how: dict[str, Any] = {"permutations": FLIPS, "seed": run}
        ours = separation(artifact, natural, bootstrap=FLIPS, folds=labels, **how)
        plain = separation(artifact, natural, bootstrap=0, **how)
        yield {
            "claim in some layer": any(map(holds, ours)),
            "claim in the first layer": holds(ours[0]),
            "flips of pairs alone": any(s.p_adjusted < 0.05 for s in ours),
            "separation test": any(s.p_adjusted < 0.05 for s in plain),
            "mean d": float(np.mean([s.d for s in ours])),
        }


@gathered
def base(law: Population, targets: tuple[float, float], runs: int) -> Iterator[Run]:
    """A model and its base, whose activations correlate 0.9, with given true d in every layer."""
    effects = [_effect(target, law, PAIRS) for target in targets]
    for run, rng in generators(runs, "base", law.name, targets):
        first = stack(law, rng, PAIRS)
        second = 0.9 * first + np.sqrt(1 - 0.9**2) * stack(law, rng, PAIRS)
        found = compare(
            *law.apart(first, effects[0]), *law.apart(second, effects[1]), bootstrap=1000, seed=run
        )
        yield {
            "some layer is said to be beyond": any(c.lower > 0 for c in found),
            "the first layer is": found[0].lower > 0,
            "some interval excludes 0 from below": any(c.interval[0] > 0 for c in found),
        }


@gathered
def own_words(law: Population, topic: float, words: float, runs: int) -> Iterator[Run]:
    """The same, where training changed nothing but what is written: the topic alone gives the d
    `topic` in both, and the model's own words are worth `words`, in another direction."""
    shift = law.shift(_effect(words, law, PAIRS))
    aside = shift * np.where(np.arange(len(shift)) % 2, 1, -1) / 2
    effect = _effect(topic, law, PAIRS)
    for run, rng in generators(runs, "own words", law.name, topic, words):
        found = []
        for written in (aside, 0.0):
            first = stack(law, rng, PAIRS)
            second = 0.9 * first + np.sqrt(1 - 0.9**2) * stack(law, rng, PAIRS)
            artifact, natural = law.apart(second, effect)
            arms = (*law.apart(first, effect), artifact + written, natural - written)
            found.append(compare(*arms, bootstrap=1000, seed=run))
        yield {
            "some layer is said to be beyond": any(
                own.lower > 0 and same.lower > 0 for own, same in zip(*found, strict=True)
            ),
            "by each model's own words alone": any(own.lower > 0 for own in found[0]),
        }


@gathered
def gate(
    law: Population, agreement: float, targets: tuple[float, float], turned: float, runs: int
) -> Iterator[Run]:
    """A version and the next one, whose activations correlate `agreement`, with given true d; the
    second one's effect turned by so many degrees."""
    effects = [_effect(target, law, PAIRS) for target in targets]
    shift = law.shift(effects[1])
    aside = shift * np.where(np.arange(len(shift)) % 2, 1, -1)  # at right angles, in law's scale
    angle = np.deg2rad(turned)
    for run, rng in generators(runs, "gate", law.name, agreement, targets, turned):
        first = stack(law, rng, PAIRS)
        second = agreement * first + np.sqrt(1 - agreement**2) * stack(law, rng, PAIRS)
        half = (np.cos(angle) * shift + np.sin(angle) * aside) / 2
        arms = (*law.apart(first, effects[0]), second[0] + half, second[1] - half)
        changes = compare(*arms, bootstrap=1000, seed=run)
        drifts = direction_drift(*arms)
        yield {
            "some layer changed": any(c.verdict == "changed" for c in changes),
            "some layer changed, no family": any(
                c.detectable and c.verdict != "equivalent" for c in changes
            ),
            "some direction turned": any(d.verdict == "turned" for d in drifts),
            "d equivalent in all": all(c.verdict == "equivalent" for c in changes),
            "said of an unchanged model": changes[0].unchanged_passes,
            "direction the same in all": all(d.verdict == "same" for d in drifts),
        }


@gathered
def behaviour(kind: str, runs: int) -> Iterator[Run]:
    """Held-out scores in 18 layers against what a model did with the prompts: 65 pairs in five
    categories, whose artifact prompts lie at different distances by category."""
    law, labels = gaussian(), [pair % 5 for pair in range(PAIRS)]
    shift = law.shift(_effect(1.5, law, PAIRS))
    for run, rng in generators(runs, "behaviour", kind):
        artifact, natural = stack(law, rng, PAIRS)
        artifact = artifact + shift * (1 + 0.5 * np.array(labels)[:, None])
        evaded = rng.random(PAIRS) < 0.5
        if kind == "few of a kind":
            evaded = rng.random(PAIRS) < 0.08
        elif kind == "nothing but the category":
            evaded = np.array(labels) < 3
        elif kind.startswith("the direction"):
            artifact = artifact + float(kind.split()[-2]) * shift * evaded[:, None]
        found = separation(artifact, natural, permutations=0, bootstrap=0)
        try:
            layers = following(
                [np.array(s.scores_artifact) for s in found],
                evaded.tolist(),
                labels,
                permutations=1000,
                bootstrap=1000,
                seed=run,
            )
        except TooFewError:
            yield {"can't be decided": True, "claim in some layer": False, "in the first": False}
            continue
        holds = [f.lower > 0.5 and f.p_adjusted < 0.05 for f in layers]
        yield {"can't be decided": False, "claim in some layer": any(holds),
               "in the first": holds[0]}  # fmt: skip


@gathered
def said(target: float, threshold: float, runs: int) -> Iterator[Run]:
    """How many pairs would decide it, said after 65 of them that show the true d."""
    law = gaussian()
    effect = _effect(target, law, PAIRS)
    for run, rng in generators(runs, "said", target, threshold):
        found = one_layer(*law.pairs(rng, PAIRS, effect), run, permutations=0, bootstrap=1000)
        shown = replace(found, d=target, d_lower=target - (found.d - found.d_lower))
        yield {"pairs said": pairs_to_decide(shown, threshold)}


@gathered
def decides(target: float, threshold: float, n: int, runs: int) -> Iterator[Run]:
    """How often so many pairs decide it."""
    law, effect = gaussian(), effect_for(target, gaussian(), n)
    for run, rng in generators(runs, "decides", target, threshold):
        found = one_layer(*law.pairs(rng, n, effect), run, permutations=0, bootstrap=1000)
        yield {"decides": found.d_lower > threshold}
