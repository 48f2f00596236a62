"""From a collected run to one `LayerResult` per layer and site."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.pairs import CONDITIONS, Pair, PromptPairs
from harness.stats import (
    InSampleSeparation,
    Separation,
    average_duplicates,
    finite_pairs,
    in_sample_separation,
    pair_means,
    separation,
)
from harness.stats.kernels import Scale
from harness.store import Response, RunStore

LayerSite = tuple[int, str]


class AnalysisError(ValueError):
    """A run whose activations can't be analysed; the message says why."""


@dataclass(frozen=True)
class AnalysisSettings:
    """How to estimate; see `harness.stats.separation`."""

    scale: Scale = "sd"
    replicates: int = 10_000
    level: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class Dropped:
    """A pair that was left out, and why."""

    pair: Pair
    reason: str


@dataclass(frozen=True)
class PairResponses:
    """What was written for one pair."""

    pair: Pair
    natural: Response
    artifact: Response


@dataclass(frozen=True)
class LayerResult:
    """One layer at one site: the held-out separation, and the in-sample figures beside it."""

    layer: int
    site: str
    separation: Separation
    in_sample: InSampleSeparation

    @property
    def id(self) -> str:
        """As in the checks' names, e.g. `layer_6-mlp_out`."""
        return layer_id(self.layer, self.site)


@dataclass(frozen=True)
class Analysis(Mapping[LayerSite, LayerResult]):
    """Results by (layer, site), and what they were computed from.

    `scored` are the pairs behind `separation.scores_*`, in that order; `responses` covers every
    pair of the run; `provenance` says which model, pairs, settings and machine it was.
    """

    results: Mapping[LayerSite, LayerResult]
    scored: tuple[Pair, ...]
    responses: tuple[PairResponses, ...]
    dropped: tuple[Dropped, ...]
    merged: int
    settings: AnalysisSettings
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, key: LayerSite) -> LayerResult:
        return self.results[key]

    def __iter__(self) -> Iterator[LayerSite]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)


def layer_id(layer: int, site: str) -> str:
    return f"layer_{layer}-{site}"


def analyze(
    run: RunStore,
    pairs: PromptPairs,
    *,
    layers: Sequence[int],
    sites: Sequence[str],
    settings: AnalysisSettings | None = None,
    provenance: Mapping[str, Any] | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Analysis:
    """Estimate the separation in every layer at every site of a collected run.

    The family of the family-wise p-values is all of `layers` × `sites`.

    Args:
        run: a complete run that captured `sites` at `layers`, in this order.
        pairs: the pairs that it collected.
        progress: wraps the iteration over layers and sites, for example `tqdm`.

    Raises:
        AnalysisError: too few pairs are left, or too many had to be dropped.
    """
    settings = settings or AnalysisSettings()
    responses = run.responses()
    captured = [(index, layer, site) for site in sites for index, layer in enumerate(layers)]
    kept, without_tokens = _with_tokens(run, pairs, sites[0])
    artifact, natural = [], []
    for index, _, site in captured:
        means = pair_means(*_arms(run, kept, site, index))
        artifact.append(means[0])
        natural.append(means[1])
    try:
        finite = finite_pairs(artifact, natural)
        kept, not_finite = (
            [pair for pair, is_finite in zip(kept, finite, strict=True) if is_finite == wanted]
            for wanted in (True, False)
        )
        labels = [_folded(pair) for pair in kept]
        separations = separation(
            [average_duplicates(layer[finite], labels) for layer in artifact],
            [average_duplicates(layer[finite], labels) for layer in natural],
            scale=settings.scale,
            permutations=settings.replicates,
            bootstrap=settings.replicates,
            level=settings.level,
            seed=settings.seed,
            progress=progress,
        )
    except ValueError as error:
        raise AnalysisError(f"{pairs.source}: {error}") from error
    in_sample = [
        in_sample_separation(*_arms(run, kept, site, index)) for index, _, site in captured
    ]
    first_of = dict(reversed(list(zip(labels, kept, strict=True))))
    distinct = [first_of[label] for label in dict.fromkeys(labels)]
    return Analysis(
        results={
            (layer, site): LayerResult(layer, site, estimated, pooled)
            for (_, layer, site), estimated, pooled in zip(
                captured, separations, in_sample, strict=True
            )
        },
        scored=tuple(distinct[i] for i in separations[0].pairs),
        responses=tuple(
            PairResponses(pair, responses[pair.group("natural")], responses[pair.group("artifact")])
            for pair in pairs
        ),
        dropped=(
            *(Dropped(pair, "a response without tokens") for pair in without_tokens),
            *(Dropped(pair, "NaN or infinity in its activations") for pair in not_finite),
        ),
        merged=len(kept) - separations[0].n_pairs,
        settings=settings,
        provenance=dict(provenance or {}),
    )


def _arms(
    run: RunStore, pairs: Sequence[Pair], site: str, index: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Token activations of the artifact and of the natural prompts, (steps, width) each."""
    tokens = run.tokens(site, index)
    return (
        [tokens[pair.group("artifact")] for pair in pairs],
        [tokens[pair.group("natural")] for pair in pairs],
    )


def _with_tokens(run: RunStore, pairs: PromptPairs, site: str) -> tuple[list[Pair], list[Pair]]:
    """Pairs with captured tokens in both arms, and the others."""
    steps = {group: len(array) for group, array in run.tokens(site, 0).items()}
    kept: list[Pair] = []
    without: list[Pair] = []
    for pair in pairs:
        both = all(steps[pair.group(condition)] for condition in CONDITIONS)
        (kept if both else without).append(pair)
    if not kept:
        raise AnalysisError(f"{pairs.source}: no pair has a response with tokens in both arms")
    return kept, without


def _folded(pair: Pair) -> tuple[str, str]:
    """Pairs with equal labels are the same observation twice."""
    return " ".join(pair.natural.split()).casefold(), " ".join(pair.artifact.split()).casefold()
