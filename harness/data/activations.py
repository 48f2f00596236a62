"""A run's activations as the statistics take them: one vector per prompt, pair by pair."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Protocol

import numpy as np

from gemma_mlx.errors import UserError
from harness.data.clusters import find_clusters
from harness.data.pairs import Pair, PromptPairs, folded
from harness.data.store import Response
from harness.stats import average_duplicates, finite_pairs, pair_means

LayerSite = tuple[int, str]


class Run(Protocol):
    """What a model gave for every prompt: a complete `harness.data.store.RunStore`, or a
    `harness.data.npz_run.NpzRun`."""

    def tokens(self, site: str, layer: int) -> dict[str, np.ndarray]:
        """Activations (steps, width), float32, by group, at one site of the model's layer number
        `layer`.

        Raises:
            harness.data.store.StoreError: the layer wasn't captured; those that were are named.
        """

    def responses(self) -> Mapping[str, Response]:
        """What was written for each prompt, by group."""


class AnalysisError(UserError):
    """A run whose activations can't be analysed; the message says why."""


@dataclass(frozen=True)
class Dropped:
    """A pair that was left out, and why."""

    pair: Pair
    reason: str


@dataclass(frozen=True)
class PairActivations:
    """Token means of both arms.

    Attributes:
        pairs: row i of every array is `pairs[i]`.
        keys: the (layer, site) of each array.
        artifact, natural: one float64 array (pairs, width) per key.
        clusters: a label of each pair; those with equal ones are one unit of the statistics.
    """

    pairs: tuple[Pair, ...]
    keys: tuple[LayerSite, ...]
    artifact: tuple[np.ndarray, ...]
    natural: tuple[np.ndarray, ...]
    clusters: tuple[int, ...]

    def select(self, pairs: Sequence[Pair], keys: Sequence[LayerSite]) -> "PairActivations":
        """These pairs and keys alone, in this order.

        Raises:
            KeyError, ValueError: one of them isn't there.
        """
        row = {pair: number for number, pair in enumerate(self.pairs)}
        rows = [row[pair] for pair in pairs]
        columns = [self.keys.index(key) for key in keys]
        return PairActivations(
            tuple(pairs),
            tuple(keys),
            tuple(self.artifact[i][rows] for i in columns),
            tuple(self.natural[i][rows] for i in columns),
            tuple(self.clusters[row] for row in rows),
        )

    def matched(self, other: "PairActivations") -> tuple["PairActivations", "PairActivations"]:
        """This and the other, both at the other's keys and on the pairs that both have.

        Raises:
            ValueError: a key of the other isn't here.
        """
        here = set(self.pairs)
        common = [pair for pair in other.pairs if pair in here]
        return self.select(common, other.keys), other.select(common, other.keys)


def token_arms(
    run: Run, pairs: Sequence[Pair], site: str, layer: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Activations of every token, (steps, width) per pair: the artifact prompts', the natural
    ones'."""
    tokens = run.tokens(site, layer)
    return (
        [tokens[pair.group("artifact")] for pair in pairs],
        [tokens[pair.group("natural")] for pair in pairs],
    )


def unequal_lengths(run: Run, pairs: Sequence[Pair], site: str, layer: int) -> tuple[Pair, ...]:
    """Pairs whose arms have different numbers of tokens, so that the longer one is cut.

    They are counted at any site and layer that the run captured: all have the same tokens.
    """
    arms = zip(pairs, *token_arms(run, pairs, site, layer), strict=True)
    return tuple(pair for pair, artifact, natural in arms if len(artifact) != len(natural))


def read_activations(
    run: Run, pairs: PromptPairs, layers: Sequence[int], sites: Sequence[str]
) -> tuple[PairActivations, tuple[Dropped, ...]]:
    """Average each pair over the tokens that both of its arms have; returns what was dropped, too.

    Pairs without tokens in an arm, and pairs with NaN or infinity anywhere, are dropped; pairs
    of the same two prompts are averaged into one, which stands where the first of them did.

    Args:
        run: a complete run that captured `sites` at `layers`, and perhaps others.

    Raises:
        AnalysisError: no pair is left, or more than a tenth are not finite.
    """
    arms = token_arms(run, pairs.pairs, sites[0], layers[0])
    spoken = np.array([len(one) > 0 and len(other) > 0 for one, other in zip(*arms, strict=True)])
    kept = list(compress(pairs, spoken))
    if not kept:
        raise AnalysisError(f"{pairs.source}: no pair has a response with tokens in both arms")
    keys, artifact, natural = [], [], []
    for site in sites:
        for layer in layers:
            arms = token_arms(run, kept, site, layer)
            means = pair_means(*arms)
            for arm, averaged in zip(arms, means, strict=True):
                # Also where the other arm is shorter, so that the mean doesn't see it.
                averaged[[not np.isfinite(tokens).all() for tokens in arm]] = np.nan
            keys.append((layer, site))
            artifact.append(means[0])
            natural.append(means[1])
    try:
        finite = finite_pairs(artifact, natural)
    except ValueError as error:
        raise AnalysisError(f"{pairs.source}: {error}") from error
    usable, infinite = list(compress(kept, finite)), compress(kept, ~finite)
    cluster_of = dict(zip(pairs, find_clusters(pairs.pairs).labels, strict=True))
    labels = [(folded(pair.natural), folded(pair.artifact)) for pair in usable]
    first: dict[tuple[str, str], Pair] = {}
    for label, pair in zip(labels, usable, strict=True):
        first.setdefault(label, pair)
    return (
        PairActivations(
            tuple(first.values()),
            tuple(keys),
            tuple(average_duplicates(layer[finite], labels) for layer in artifact),
            tuple(average_duplicates(layer[finite], labels) for layer in natural),
            tuple(cluster_of[pair] for pair in first.values()),
        ),
        (
            *(Dropped(pair, "a response without tokens") for pair in compress(pairs, ~spoken)),
            *(Dropped(pair, "NaN or infinity in its activations") for pair in infinite),
        ),
    )
