"""A run's activations as the statistics take them: one vector per prompt, pair by pair."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, Protocol

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


#: Bytes of activations that are kept once they were read; what doesn't fit is read again.
KEPT = 2**30

Arms = tuple[np.ndarray, np.ndarray]


class OnDemand(Sequence[np.ndarray]):
    """Arrays that are made when they are asked for."""

    def __init__(self, count: int, make: Callable[[int], np.ndarray]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return self._make(range(self._count)[index])

    def __reduce__(self) -> Any:
        return tuple, (list(self),)  # pickled for another process, they are all made


@dataclass(frozen=True)
class PairActivations:
    """Token means of both arms.

    Attributes:
        pairs: row i of every array is `pairs[i]`.
        keys: the (layer, site) of each array.
        artifact, natural: one float64 array (pairs, width) per key; those of a run are read when
            they are asked for (see `read_activations`).
        clusters: a label of each pair; those with equal ones are one unit of the statistics.
    """

    pairs: tuple[Pair, ...]
    keys: tuple[LayerSite, ...]
    artifact: Sequence[np.ndarray]
    natural: Sequence[np.ndarray]
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
            OnDemand(len(keys), lambda i: self.artifact[columns[i]][rows]),
            OnDemand(len(keys), lambda i: self.natural[columns[i]][rows]),
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

    One layer and site is read at a time, and read again whenever it is asked for, unless all that
    was asked for last fits into `KEPT` bytes.

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
    keys = tuple((layer, site) for site in sites for layer in layers)
    means = _Means(run, kept, keys)
    try:
        finite = finite_pairs(*means.arms)
    except ValueError as error:
        raise AnalysisError(f"{pairs.source}: {error}") from error
    usable, infinite = list(compress(kept, finite)), compress(kept, ~finite)
    cluster_of = dict(zip(pairs, find_clusters(pairs.pairs).labels, strict=True))
    labels = [(folded(pair.natural), folded(pair.artifact)) for pair in usable]
    first: dict[tuple[str, str], Pair] = {}
    for label, pair in zip(labels, usable, strict=True):
        first.setdefault(label, pair)

    def distinct(arm: OnDemand) -> OnDemand:
        return OnDemand(len(keys), lambda i: average_duplicates(arm[i][finite], labels))

    artifact, natural = map(distinct, means.arms)
    return (
        PairActivations(
            tuple(first.values()),
            keys,
            artifact,
            natural,
            tuple(cluster_of[pair] for pair in first.values()),
        ),
        (
            *(Dropped(pair, "a response without tokens") for pair in compress(pairs, ~spoken)),
            *(Dropped(pair, "NaN or infinity in its activations") for pair in infinite),
        ),
    )


class _Means:
    """Token means of a run's pairs by layer and site, both arms read together."""

    def __init__(self, run: Run, pairs: Sequence[Pair], keys: Sequence[LayerSite]) -> None:
        self._run, self._pairs, self._keys = run, pairs, keys
        self._kept: OrderedDict[int, Arms] = OrderedDict()
        self.arms = (
            OnDemand(len(keys), lambda i: self._read(i)[0]),
            OnDemand(len(keys), lambda i: self._read(i)[1]),
        )

    def _read(self, index: int) -> Arms:
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        layer, site = self._keys[index]
        arms = token_arms(self._run, self._pairs, site, layer)
        means = pair_means(*arms)
        for arm, averaged in zip(arms, means, strict=True):
            # Also where the other arm is shorter, so that the mean doesn't see it.
            averaged[[not np.isfinite(tokens).all() for tokens in arm]] = np.nan
        self._kept[index] = means
        # The layer that was read last stays, so that its other arm needn't be read once more.
        while len(self._kept) > 1 and self._bytes() > KEPT:
            self._kept.popitem(last=False)
        return means

    def _bytes(self) -> int:
        return sum(arm.nbytes for arms in self._kept.values() for arm in arms)
