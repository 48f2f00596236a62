"""Does the model use the direction? Change it, and see what becomes of the words.

At a layer and site each pair's direction is the mean difference of all the *other* pairs (of other
clusters). It is added to the activations of the natural prompt (Turner et al. 2023) and projected
out of those of the artifact prompt (Arditi et al. 2024), and so are random directions of the same
length: sums of the same differences, less their mean, with random signs. What is measured is how
far the model now prefers the artifact prompt's answer to the natural one's, with both answers
given: nothing is generated.

Where neither the labels nor the model make anything of the direction, it is one more draw from the
law of the random ones, as estimated from so many differences, and its rank among them gives a
p-value. So nothing else is taken out of them: at right angles to the tested direction they would
lack a dimension that it has. The mean is taken out because, where the conditions lie far apart,
differences with random signs would be the tested direction itself, forwards or backwards, and
nothing could stand out from them. The signs are the same in all layers and for both interventions,
so that `harness.stats.rank_test` gives a p-value for the family. docs/calibration.md has the error
rates, and those of both alternatives.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gemma_mlx import encode_prompts, intervention
from harness.backends.model import Choice, Model
from harness.data.activations import AnalysisError, LayerSite, PairActivations
from harness.data.pairs import Condition, Pair
from harness.data.store import Response
from harness.defaults import LEVEL, MIN_PAIRS
from harness.settings import CausalSettings
from harness.stats import rank_test
from harness.stats.arrays import FloatArray
from harness.stats.clusters import Clusters
from harness.stats.intervals import analytic_interval

#: Pairs that are intervened on. Directions differ far more from each other than a direction's mean
#: over ten pairs from that over all, so that more cost time and give the rank next to nothing.
PAIRS = 10

#: Random directions whose divergence on neutral prompts is measured; it decides nothing.
DIVERGENCES = 4

# Differences of mean log-probabilities below it are rounding.
_TIE = 1e-6

# Vectors in one forward pass: more are no faster on a CPU, where arrays are to stay in its cache.
_VECTORS = 51

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
class Shifts:
    """What the directions do at one layer and site, by one kind of intervention.

    Attributes:
        shifts: `(pairs, 1 + random directions)`, the tested direction first: changes of
            log P(artifact answer) − log P(natural answer), nats per token.
        divergences: of the tested direction and the first few random ones, as in `Effect`.
    """

    shifts: FloatArray
    divergences: FloatArray


@dataclass(frozen=True)
class Effect:
    """What one intervention does at one layer and site.

    Attributes:
        kind: "add" (to natural prompts) or "ablate" (from artifact prompts).
        shift, shift_interval: mean over pairs of the change in log P(artifact answer) −
            log P(natural answer), nats per token, beyond what random directions do on average,
            and its t interval over pairs (over clusters of them) at the given level.
        own_shift, random_shift: the two parts of it.
        p_value: rank of the direction's mean shift among those of the random ones.
        p_adjusted: the same over the run's layers and sites (maxT) and both interventions (minP).
        divergence, random_divergence: mean KL(before ‖ after), nats per token, on the model's
            own answers to neutral prompts; a description, for which few random directions do.
        n_pairs, n_random: pairs intervened on, and random directions.
    """

    kind: str
    shift: float
    shift_interval: tuple[float, float]
    own_shift: float
    random_shift: float
    p_value: float
    p_adjusted: float
    divergence: float
    random_divergence: float
    n_pairs: int
    n_random: int


def causal_effects(
    model: Model,
    activations: PairActivations,
    responses: Mapping[str, Response],
    keys: Sequence[LayerSite],
    *,
    chat: bool = True,
    directions: int = CausalSettings.directions,
    level: float = LEVEL,
    seed: int = 0,
    progress: Callable[[Iterable[LayerSite]], Iterable[LayerSite]] = iter,
) -> dict[LayerSite, tuple[Effect, Effect]]:
    """Measure addition and ablation at every (layer, site) of a family.

    Directions come from all pairs with two different answers; `PAIRS` of these are intervened on,
    drawn at random from the categories in turn, the same ones for every direction.

    Args:
        keys: the family, over which the p-values are adjusted.
        directions: how many random ones.
        progress: wraps the iteration over `keys`, for example `tqdm`.

    Raises:
        AnalysisError: fewer than 8 pairs, or clusters of them, have two different answers.
    """
    pairs = [
        pair
        for pair in activations.pairs
        if responses[pair.group("natural")].token_ids != responses[pair.group("artifact")].token_ids
    ]
    chosen = activations.select(pairs, keys)
    units = Clusters.from_labels(chosen.clusters, len(pairs))
    if len(units) < MIN_PAIRS:
        together = "" if units.single else f", in {len(units)} units"
        raise AnalysisError(
            f"{len(pairs)} pairs have two different answers{together}; {MIN_PAIRS} are needed to "
            "see what an intervention does to the choice between them"
        )
    tried = _balanced(chosen)
    rng = np.random.default_rng(seed)
    signs = rng.choice((-1.0, 1.0), size=(directions, len(units)))
    asked = {
        kind: Question.of(model, [pairs[i] for i in tried], condition, responses, chat=chat)
        for kind, condition in CONDITIONS.items()
    }
    neutral = _Neutral.of(model, chat=chat)
    found = {
        key: _measure(asked, neutral, key, mixtures(artifact - natural, units, signs, tried))
        for key, artifact, natural in zip(
            progress(keys), chosen.artifact, chosen.natural, strict=True
        )
    }
    return effects(found, units.take(tried), level, len(units) - 1)


def mixtures(delta: FloatArray, units: Clusters, signs: FloatArray, rows: np.ndarray) -> FloatArray:
    """The mean difference of the other clusters' pairs and, at its length, sums of these
    differences, less their mean, with a sign for each cluster.

    Args:
        delta: `(pairs, width)`.
        signs: `(directions, clusters)`, ±1.
        rows: pairs to give the directions of.

    Returns:
        `(rows, 1 + directions, width)`, the mean difference first; 0 where differences cancel, and
        all of a row where there is no mean difference, or nothing to hold it against.
    """
    totals = units.totals(delta.T).T
    mixed = np.empty((len(rows), 1 + len(signs), delta.shape[1]))
    for vectors, own in zip(mixed, units.of[rows], strict=True):
        others = np.delete(np.arange(len(units)), own)
        mean = totals[others].sum(axis=0) / units.sizes[others].sum()
        vectors[0] = mean
        vectors[1:] = signs[:, others] @ (totals[others] - units.sizes[others, None] * mean)
    lengths = np.linalg.norm(mixed, axis=2, keepdims=True)
    # What is left where differences cancel is rounding.
    there = lengths > 1e-9 * np.linalg.norm(delta, axis=1).max()
    there &= there[:, :1] & there[:, 1:].any(axis=1, keepdims=True)
    return np.where(there, lengths[:, :1] / np.where(there, lengths, 1.0), 0.0) * mixed


def effects(
    found: Mapping[LayerSite, Mapping[str, Shifts]], units: Clusters, level: float, degrees: float
) -> dict[LayerSite, tuple[Effect, Effect]]:
    """The effects of a whole family, from the shifts by "add" and "ablate" at each member.

    Args:
        units: of the pairs that were intervened on.
        degrees: of freedom of the random directions' law: clusters of all pairs, less one.
    """
    towards = [
        [_SIGN[kind] * found[key][kind].shifts.mean(axis=0) for key in found] for kind in CONDITIONS
    ]
    p_values = np.stack(rank_test(np.array(towards), degrees=degrees, tolerance=_TIE), axis=-1)
    add, ablate = (
        [
            _effect(kind, found[key][kind], p, units, level)
            for key, p in zip(found, p_values[number], strict=True)
        ]
        for number, kind in enumerate(CONDITIONS)
    )
    return dict(zip(found, zip(add, ablate, strict=True), strict=True))


def _effect(
    kind: str, found: Shifts, p_values: FloatArray, units: Clusters, level: float
) -> Effect:
    own, random = found.shifts[:, 0], found.shifts[:, 1:]
    beyond = own - random.mean(axis=1)
    shift, se = float(beyond.mean()), float(np.sqrt(units.variance_of_mean(beyond)))
    return Effect(
        kind=kind,
        shift=shift,
        shift_interval=analytic_interval(shift, se, len(units), level),
        own_shift=float(own.mean()),
        random_shift=float(random.mean()),
        p_value=float(p_values[0]),
        p_adjusted=float(p_values[1]),
        divergence=float(found.divergences[0]),
        random_divergence=float(found.divergences[1:].mean()),
        n_pairs=len(beyond),
        n_random=random.shape[1],
    )


#: Which prompts an intervention of a kind is made on, and how.
CONDITIONS: Mapping[str, Condition] = {"add": "natural", "ablate": "artifact"}
CHANGES = {"add": intervention.add, "ablate": intervention.ablate}
# The direction says more of the artifact answer where it is added, less where it is ablated.
_SIGN = {"add": 1.0, "ablate": -1.0}


def _measure(
    asked: Mapping[str, "Question"], neutral: "_Neutral", key: LayerSite, vectors: FloatArray
) -> dict[str, Shifts]:
    layer, site = key
    means = vectors.mean(axis=0)[: 1 + DIVERGENCES]
    return {
        kind: Shifts(
            question.shifts(CHANGES[kind], layer, site, vectors),
            neutral.divergences(CHANGES[kind], layer, site, means),
        )
        for kind, question in asked.items()
    }


def _balanced(activations: PairActivations) -> np.ndarray:
    """Indices of at most `PAIRS` pairs, drawn from as many clusters as there are, and from the
    categories in turn; the same ones for every seed of the statistics."""
    earlier: Counter[object] = Counter()
    order: list[tuple[int, int, int]] = []
    for index in np.random.default_rng(0).permutation(len(activations.pairs)).tolist():
        cluster, category = activations.clusters[index], activations.pairs[index].category
        order.append((earlier[cluster], earlier[category], index))
        earlier.update((cluster, category))
    return np.sort([index for *_, index in sorted(order, key=lambda each: each[:2])[:PAIRS]])


@dataclass(frozen=True)
class Question:
    """Prompts (token ids), each with the artifact prompt's answer and the natural one's."""

    model: Model
    prompts: Sequence[Sequence[int]]
    answers: Sequence[tuple[Sequence[int], Sequence[int]]]

    @classmethod
    def of(
        cls,
        model: Model,
        pairs: Sequence[Pair],
        condition: Condition,
        responses: Mapping[str, Response],
        *,
        chat: bool,
    ) -> "Question":
        prompts = encode_prompts(model, [p.prompt(condition) for p in pairs], chat=chat)
        answers = [
            (responses[p.group("artifact")].token_ids, responses[p.group("natural")].token_ids)
            for p in pairs
        ]
        return cls(model, prompts, answers)

    def shifts(
        self, change: Callable[..., Any], layer: int, site: str, vectors: FloatArray
    ) -> FloatArray:
        """What each vector does to the preference for the first answer: the mean log-probability
        per token of that answer less that of the other.

        Args:
            change: `intervention.add` or `intervention.ablate`.
            vectors: `(prompts, vectors, width)`; one of zeros does nothing.

        Returns:
            `(prompts, vectors)`, nats per token; what may be rounding is 0.
        """
        found = np.zeros(vectors.shape[:2])
        for i, (prompt, answers) in enumerate(zip(self.prompts, self.answers, strict=True)):
            choice = self.model.read_choice(prompt, answers, layer=layer)
            before = _preference(choice)
            (some,) = np.nonzero(vectors[i].any(axis=-1))
            for part in self._parts(some, answers):
                with change(self.model, site, layer, vectors[i, part], each=True):
                    found[i, part] = _preference(choice) - before
        return np.where(np.abs(found) > _TIE, found, 0.0)

    def _parts(self, which: np.ndarray, answers: Sequence[Sequence[int]]) -> Iterator[np.ndarray]:
        """In parts of as many as keep the distributions in memory, about equally many each."""
        elements = max(map(len, answers)) * self.model.config.vocab_size
        most = max(1, min(_VECTORS, _BATCH_ELEMENTS // elements))
        return iter(np.array_split(which, -(-len(which) // most)) if len(which) else ())


def _preference(choice: Choice) -> FloatArray:
    artifact, natural = (
        tokens.mean(axis=-1, dtype=np.float64) for tokens in choice.token_log_probs()
    )
    return np.asarray(artifact - natural)


@dataclass(frozen=True)
class _Neutral:
    """Neutral prompts and the model's own answers, token ids."""

    model: Model
    prompts: Sequence[Sequence[int]]
    answers: Sequence[Sequence[int]]

    @classmethod
    def of(cls, model: Model, *, chat: bool) -> "_Neutral":
        prompts = encode_prompts(model, NEUTRAL_PROMPTS, chat=chat)
        written = model.write(prompts)
        spoken = [(p, tokens) for p, tokens in zip(prompts, written, strict=True) if tokens]
        if not spoken:
            raise AnalysisError("the model answers no neutral prompt with any token")
        return cls(model, *zip(*spoken, strict=True))

    def divergences(
        self, change: Callable[..., Any], layer: int, site: str, vectors: FloatArray
    ) -> FloatArray:
        """The mean KL(before ‖ after) by each vector `(vectors, width)`, nats per token; 0 by one
        of zeros."""
        reading = self.model.read_continuations(self.prompts, self.answers, layer=layer)
        before = reading.log_probs()
        found = np.zeros(len(vectors))
        for i in np.flatnonzero(vectors.any(axis=-1)):
            with change(self.model, site, layer, vectors[i]):
                after = reading.log_probs()
            per_token = [
                (np.exp(b.astype(np.float64)) * (b - a)).sum(axis=-1)
                for b, a in zip(before, after, strict=True)
            ]
            found[i] = np.concatenate(per_token).mean()
        return found
