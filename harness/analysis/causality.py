"""Does the model use the direction? Change it, and see what becomes of the words.

At one layer and site, each pair's direction is the mean difference of all the *other* pairs. It
is added to the activations of the natural prompt (Turner et al. 2023) and projected out of those
of the artifact prompt (Arditi et al. 2024), and so are random directions of the same length. What
is measured is how far the model now prefers the artifact prompt's answer to the natural one's,
with both answers given: nothing is generated.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np

import gemma_mlx
from gemma_mlx import Gemma, intervention
from harness.data.activations import AnalysisError, LayerSite, PairActivations
from harness.data.pairs import Condition
from harness.data.store import Response
from harness.defaults import LEVEL, MIN_PAIRS
from harness.stats import fold_directions
from harness.stats.clusters import Clusters
from harness.stats.intervals import analytic_interval

#: Random directions that the real one is held against.
RANDOM_DIRECTIONS = 50

# Prompts about nothing in particular, to see what an intervention does to ordinary text.
NEUTRAL_PROMPTS = (
    "Please describe a quiet morning at the lake.",
    "How do people bake bread at home?",
    "Tell me about the weather in spring.",
    "What do gardeners do in the autumn?",
    "Write a short note about a train ride.",
    "How is paper made from wood?",
    "Describe a small town by the sea.",
    "What does a baker do before sunrise?",
)

_BATCH_ELEMENTS = 2**26


@dataclass(frozen=True)
class Effect:
    """What one intervention does at one layer and site.

    Attributes:
        kind: "add" (to natural prompts) or "ablate" (from artifact prompts).
        shift, shift_interval: mean over pairs of the change in log P(artifact answer) −
            log P(natural answer), nats per token, beyond what random directions do on average,
            and its t interval over pairs (over clusters of them) at the given level.
        own_shift, random_shift: the two parts of it.
        p_value: rank of the real direction's mean shift among those of the random ones.
        divergence, random_divergence: mean KL(before ‖ after), nats per token, on the model's
            own answers to neutral prompts.
        n_pairs, n_random: pairs and random directions.
    """

    kind: str
    shift: float
    shift_interval: tuple[float, float]
    own_shift: float
    random_shift: float
    p_value: float
    divergence: float
    random_divergence: float
    n_pairs: int
    n_random: int


def causal_effects(
    gemma: Gemma,
    activations: PairActivations,
    responses: Mapping[str, Response],
    key: LayerSite,
    *,
    chat: bool = True,
    n_random: int = RANDOM_DIRECTIONS,
    level: float = LEVEL,
    seed: int = 0,
    progress: Callable[[Iterable[np.ndarray]], Iterable[np.ndarray]] = iter,
) -> tuple[Effect, Effect]:
    """Measure addition and ablation at one (layer, site).

    Random directions are sums of the same pair differences with random signs, at the length of
    the real one and at right angles to it: they lie where activations vary (isotropic ones are
    too easily beaten), but hold nothing of the direction itself. `progress` wraps the iteration
    over them, for example `tqdm`.

    Raises:
        AnalysisError: fewer than 8 pairs have two different answers, or both conditions have the
            same activations.
    """
    pairs = [
        pair
        for pair in activations.pairs
        if responses[pair.group("natural")].token_ids != responses[pair.group("artifact")].token_ids
    ]
    if len(pairs) < MIN_PAIRS:
        raise AnalysisError(
            f"{len(pairs)} pairs have two different answers; {MIN_PAIRS} are needed to see what an "
            "intervention does to the choice between them"
        )
    chosen = activations.select(pairs, [key])
    if np.array_equal(chosen.artifact[0], chosen.natural[0]):
        raise AnalysisError(f"layer {key[0]}, {key[1]}: both conditions have the same activations")
    layer, site = key
    units = Clusters.from_labels(chosen.clusters, len(pairs))
    own, random = _directions(chosen, units, n_random, np.random.default_rng(seed))
    divergence = _divergence_on_neutral_prompts(gemma, layer, chat=chat)
    artifact, natural = (
        [responses[pair.group(condition)].token_ids for pair in pairs]
        for condition in ("artifact", "natural")
    )

    def measure(kind: str, condition: Condition, at: _ChangeTo) -> Effect:
        prompts = gemma_mlx.encode_prompts(gemma, [p.prompt(condition) for p in pairs], chat=chat)
        preference = _preference(gemma, prompts, artifact, natural, layer)
        before = preference(lambda rows: nullcontext())

        def what(vectors: np.ndarray) -> tuple[np.ndarray, float]:
            after = preference(lambda rows: at(vectors[rows]))
            return after - before, divergence(at(vectors.mean(axis=0)))

        return _effect(kind, what(own), list(map(what, progress(random))), units, level)

    return (
        measure("add", "natural", partial(intervention.add, gemma, site, layer)),
        measure("ablate", "artifact", partial(intervention.ablate, gemma, site, layer)),
    )


_ChangeTo = Callable[[np.ndarray], AbstractContextManager[None]]


def _directions(
    activations: PairActivations, units: Clusters, n_random: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Row by row (pairs, width): the mean difference of the other clusters' pairs; and `n_random`
    times the same with random signs, each row at right angles to the first and at its length."""
    artifact, natural = activations.artifact[0], activations.natural[0]
    others = (len(artifact) - units.sizes)[units.of, None]
    own = fold_directions(artifact, natural, scale="raw", clusters=activations.clusters) / others
    delta = artifact - natural
    lengths = np.linalg.norm(own, axis=1, keepdims=True)
    unit = own / lengths
    random = []
    for _ in range(n_random):
        signed = rng.choice((-1.0, 1.0), size=(len(units), 1))[units.of] * delta
        mixed = signed.sum(axis=0) - units.sums(signed.T).T
        mixed -= (mixed * unit).sum(axis=1, keepdims=True) * unit
        random.append(mixed / np.linalg.norm(mixed, axis=1, keepdims=True) * lengths)
    return own, random


def _preference(
    gemma: Gemma,
    prompts: Sequence[Sequence[int]],
    artifact: Sequence[Sequence[int]],
    natural: Sequence[Sequence[int]],
    layer: int,
) -> Callable[[Callable[[slice], AbstractContextManager[None]]], np.ndarray]:
    """A function of a change to some rows. It gives, per row, the mean log-probability per token
    of the artifact answer minus that of the natural one, while the change is made.

    Prompts and answers are read once, as far as `layer`, which is about to be changed; in batches
    of as many rows as keep the distributions in memory.
    """
    longest = max(map(len, (*artifact, *natural)))
    size = max(1, min(64, _BATCH_ELEMENTS // (longest * gemma.config.vocab_size)))
    batches = []
    for start in range(0, len(prompts), size):
        rows = slice(start, start + size)
        read = partial(gemma_mlx.read_continuations, gemma, prompts[rows], layer=layer)
        batches.append((rows, [read(artifact[rows]), read(natural[rows])]))

    def preference(change: Callable[[slice], AbstractContextManager[None]]) -> np.ndarray:
        found = []
        for rows, sides in batches:
            with change(rows):
                for_artifact, for_natural = (
                    np.array([tokens.mean(dtype=np.float64) for tokens in side.token_log_probs()])
                    for side in sides
                )
            found.append(for_artifact - for_natural)
        return np.concatenate(found)

    return preference


def _divergence_on_neutral_prompts(
    gemma: Gemma, layer: int, *, chat: bool
) -> Callable[[AbstractContextManager[None]], float]:
    """A function of a change at `layer`. It gives the mean KL(before ‖ after), nats per token, on
    the model's own answers to neutral prompts."""
    prompts = gemma_mlx.encode_prompts(gemma, NEUTRAL_PROMPTS, chat=chat)
    written = gemma_mlx.generate(gemma, prompts, sites=())
    spoken = [(p, g.token_ids) for p, g in zip(prompts, written, strict=True) if g.token_ids]
    if not spoken:
        raise AnalysisError("the model answers no neutral prompt with any token")
    reading = gemma_mlx.read_continuations(gemma, *zip(*spoken, strict=True), layer=layer)
    before = reading.log_probs()

    def divergence(change: AbstractContextManager[None]) -> float:
        with change:
            after = reading.log_probs()
        per_token = [
            (np.exp(b.astype(np.float64)) * (b - a)).sum(axis=-1)
            for b, a in zip(before, after, strict=True)
        ]
        return float(np.concatenate(per_token).mean())

    return divergence


def _effect(
    kind: str,
    found: tuple[np.ndarray, float],
    by_chance: Sequence[tuple[np.ndarray, float]],
    units: Clusters,
    level: float,
) -> Effect:
    """From the shift of each pair and the divergence, along the direction and along random ones."""
    own, divergence = found
    random = np.stack([shifts for shifts, _ in by_chance])
    beyond = own - random.mean(axis=0)
    sign = 1.0 if kind == "add" else -1.0
    as_large = (sign * random.mean(axis=1) >= sign * own.mean()).sum()
    shift, se = float(beyond.mean()), float(np.sqrt(units.variance_of_mean(beyond)))
    return Effect(
        kind=kind,
        shift=shift,
        shift_interval=analytic_interval(shift, se, len(units), level),
        own_shift=float(own.mean()),
        random_shift=float(random.mean()),
        p_value=float((1 + as_large) / (1 + len(random))),
        divergence=divergence,
        random_divergence=float(np.mean([each for _, each in by_chance])),
        n_pairs=len(beyond),
        n_random=len(random),
    )
