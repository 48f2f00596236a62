"""From a collected run to one `LayerResult` per layer and site."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from harness.analysis.behaviour import (
    Behaviour,
    Openings,
    PairResponses,
    compare_openings,
    judge,
)
from harness.analysis.controls import (
    TextBaseline,
    alike,
    category_folds,
    category_transfer,
    step_curves,
    taken_together,
    text_baselines,
)
from harness.analysis.tokens import TokenScores, measure_tokens
from harness.analysis.words import decimal
from harness.data.activations import (
    AnalysisError,
    Dropped,
    LayerSite,
    PairActivations,
    Run,
    read_activations,
    token_arms,
    unequal_lengths,
)
from harness.data.behaviours import Behaviours
from harness.data.clusters import Link, find_clusters
from harness.data.pairs import Pair, PromptPairs
from harness.defaults import MARGIN
from harness.settings import AnalysisSettings
from harness.stats import (
    CategoryTransfer,
    Comparison,
    Following,
    InSampleSeparation,
    PairQuality,
    Separation,
    StepSeparation,
    TooFewError,
    compare,
    following,
    in_sample_separation,
    pair_quality,
    separation,
)

# Layers that a message names before it says "…".
_MOST_NAMED = 8


@dataclass(frozen=True)
class LayerResult:
    """One layer at one site.

    Attributes:
        separation: the held-out figures that the criteria are about.
        in_sample: the original project's figures, scored on the very vectors that the direction
            was learnt from; for comparison.
        companions: the same estimate at other positions, by their name ("forced": the same
            words after both prompts; "prompt_last": nothing written yet).
        alike: the same estimate where pairs that read alike count as one unit, too; None where no
            more pairs do, or too few units are left.
        across: the same estimate along directions that have not seen a pair's category; None where
            there are too few categories.
        transfer: each category along the direction of the others.
        steps: the separation token by token.
        quality: how well the pairs agree on a direction, and whether single dimensions rule it.
        beyond_base: change of d from the base model's; None where none was given.
        noise: change of d to a second run of the same model in other batches; None where there was
            none.
        follows: the held-out scores of artifact prompts, where nothing is written yet, against
            whether the responses evade; None where that wasn't asked or can't be decided.
        beyond_embeddings: change of d from that of the written tokens' own input embeddings; None
            where these weren't given.
    """

    layer: int
    site: str
    separation: Separation
    in_sample: InSampleSeparation
    companions: Mapping[str, Separation] = field(default_factory=dict)
    alike: Separation | None = None
    across: Separation | None = None
    transfer: tuple[CategoryTransfer, ...] = ()
    steps: tuple[StepSeparation, ...] = ()
    quality: PairQuality | None = None
    beyond_base: Comparison | None = None
    beyond_embeddings: Comparison | None = None
    noise: Comparison | None = None
    follows: Following | None = None

    @property
    def id(self) -> str:
        """As the checks, reports and files call it; see `layer_id`."""
        return layer_id(self.layer, self.site)


@dataclass(frozen=True, repr=False)
class Analysis(Mapping[LayerSite, LayerResult]):
    """Results by (layer, site), and what they were computed from.

    Attributes:
        results: the mapping itself.
        activations: the token means that were compared; none where the analysis was read from a
            results file.
        scored: the pairs behind `separation.scores_*`, in that order.
        responses: what was written for every pair of the run.
        dropped: pairs that were left out, and why.
        merged: how many pairs were averaged into another one with the same two prompts, or had
            the same activations as another one.
        settings: how it was estimated.
        cut: pairs whose longer response counts only as far as the shorter one goes.
        dropped_beside: pairs that only the runs beside this one (other positions, the base model)
            lack; the reason names the run.
        links: pairs that count as one unit, and why.
        alike: pairs of different units that read alike: two of their prompts have half of their
            words in common, or more.
        alike_undecided: why the estimate with those as one unit can't be made; None where it was,
            or there are none.
        text: what words and lengths alone give.
        openings: how likely evasive openings are; None where that wasn't asked.
        behaviour: which responses evade; None where nothing was written, or nobody asked.
        provenance: model, pairs, settings, versions and machine.
        tokens: the scores token by token; None where they weren't kept with the results.
    """

    results: Mapping[LayerSite, LayerResult]
    activations: PairActivations
    scored: tuple[Pair, ...]
    responses: tuple[PairResponses, ...]
    dropped: tuple[Dropped, ...]
    merged: int
    settings: AnalysisSettings
    cut: tuple[Pair, ...] = ()
    dropped_beside: tuple[Dropped, ...] = ()
    links: tuple[Link, ...] = ()
    alike: tuple[Link, ...] = ()
    alike_undecided: str | None = None
    text: tuple[TextBaseline, ...] = ()
    behaviour: Behaviour | None = None
    openings: Openings | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    tokens: TokenScores | None = field(default=None, compare=False)

    def __getitem__(self, key: LayerSite) -> LayerResult:
        if key not in self.results:
            known = ", ".join(map(str, list(self.results)[:_MOST_NAMED]))
            more = ", …" if len(self.results) > _MOST_NAMED else ""
            raise KeyError(f"{key!r}: ask for (layer, site), one of {known}{more}")
        return self.results[key]

    def __iter__(self) -> Iterator[LayerSite]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __repr__(self) -> str:
        found = [r.separation.d for r in self.values() if not math.isnan(r.separation.d)]
        span = f", d {decimal(min(found))} to {decimal(max(found))}" if found else ""
        many = "layer and site" if len(self) == 1 else "layers and sites"
        return f"Analysis({len(self)} {many}, {len(self.scored)} pairs{span})"


def layer_id(layer: int, site: str) -> str:
    """A layer and site in one word, e.g. `layer_6-mlp_out`."""
    return f"layer_{layer}-{site}"


def analyze(
    run: Run,
    pairs: PromptPairs,
    *,
    layers: Sequence[int],
    sites: Sequence[str],
    settings: AnalysisSettings | None = None,
    companions: Mapping[str, Run] | None = None,
    base: Run | None = None,
    embeddings: Run | None = None,
    noise: Run | None = None,
    behaviours: Behaviours | None = None,
    openings: Mapping[str, float] | None = None,
    decode: Callable[[int], str] | None = None,
    provenance: Mapping[str, Any] | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Analysis:
    """Estimate the separation in every layer at every site of a collected run.

    The family of the family-wise p-values is all of `layers` × `sites`.

    Args:
        run: a complete run that captured `sites` at `layers`, and perhaps others.
        pairs: the pairs that it collected.
        companions: runs of the same model and pairs at other positions, by name.
        base: the same collection from the model's base model.
        noise: the same collection once more, in other batches.
        behaviours: patterns that say which responses evade.
        openings: log-odds of evasive openings against plain ones after each prompt, by group.
        embeddings: the same responses, represented at site "resid_pre" of layer 0.
        decode: the text of a token id, so that single tokens can be shown.
        progress: wraps the iteration over layers and sites, for example `tqdm`.

    Raises:
        AnalysisError: too few pairs are left, or too many had to be dropped.
    """
    settings = settings or AnalysisSettings()
    responses = run.responses()
    measured, dropped = read_activations(run, pairs, layers, sites)
    separations = _separations(measured, pairs, settings, progress)
    read_alike = alike(measured, pairs)
    together: Sequence[Separation | None] = [None] * len(measured.keys)
    alike_undecided = None
    if read_alike:
        try:
            together = _separations(taken_together(measured, pairs), pairs, settings, iter)
        except AnalysisError as error:
            alike_undecided = str(error)
    folds = category_folds(measured.pairs, measured.clusters)
    across: Sequence[Separation | None] = [None] * len(measured.keys)
    if folds is not None:
        across = _separations(measured, pairs, settings, iter, folds)
    beside = {}
    scored_beside: dict[str, tuple[Pair, ...]] = {}
    dropped_beside: dict[str, tuple[Dropped, ...]] = {}
    for name, other in (companions or {}).items():
        found, dropped_beside[f"at positions {name}"] = read_activations(
            other, pairs, layers, sites
        )
        beside[name] = _separations(found, pairs, settings, iter)
        scored_beside[name] = tuple(found.pairs[i] for i in beside[name][0].pairs)
    in_sample = [
        in_sample_separation(*token_arms(run, measured.pairs, site, layer))
        for layer, site in measured.keys
    ]
    transfer = category_transfer(measured, settings)
    steps = step_curves(run, measured, settings)
    quality = pair_quality(
        measured.artifact,
        measured.natural,
        scale=settings.scale,
        clusters=measured.clusters,
    )
    beyond_base: Sequence[Comparison | None] = [None] * len(measured.keys)
    if base is not None:
        found, dropped_beside["in the base model"] = read_activations(base, pairs, layers, sites)
        beyond_base = compare_runs(found, measured, settings)
    repeated: Sequence[Comparison | None] = [None] * len(measured.keys)
    if noise is not None:
        found, dropped_beside["in the second run"] = read_activations(noise, pairs, layers, sites)
        repeated = compare_runs(found, measured, settings)
    beyond_embeddings: Sequence[Comparison | None] = [None] * len(measured.keys)
    if embeddings is not None:
        found, _ = read_activations(embeddings, pairs, [0], ["resid_pre"])
        beyond_embeddings = _compare(
            found.select(measured.pairs, found.keys), measured, settings, MARGIN
        )
    written = tuple(
        PairResponses(pair, responses[pair.group("natural")], responses[pair.group("artifact")])
        for pair in pairs
    )
    behaviour = judge(written, behaviours, level=settings.level) if behaviours else None
    follows: Sequence[Following | None] = [None] * len(measured.keys)
    if behaviour is not None and "prompt_last" in beside:
        try:
            follows = _following(
                behaviour, beside["prompt_last"], scored_beside["prompt_last"], pairs, settings
            )
        except TooFewError as error:
            behaviour = replace(behaviour, undecided=str(error))
    results = {
        key: LayerResult(
            *key,
            separation=separations[i],
            in_sample=in_sample[i],
            companions={name: separation[i] for name, separation in beside.items()},
            alike=together[i],
            across=across[i],
            transfer=transfer[key],
            steps=steps[key],
            quality=quality[i],
            beyond_base=beyond_base[i],
            beyond_embeddings=beyond_embeddings[i],
            noise=repeated[i],
            follows=follows[i],
        )
        for i, key in enumerate(measured.keys)
    }
    used = separations[0].pairs
    scored = tuple(measured.pairs[i] for i in used)
    return Analysis(
        results=results,
        activations=measured,
        scored=scored,
        responses=written,
        dropped=dropped,
        merged=len(pairs) - len(dropped) - len(used),
        settings=settings,
        cut=unequal_lengths(run, measured.pairs, sites[0], layers[0]),
        dropped_beside=tuple(
            Dropped(d.pair, f"{where}: {d.reason}")
            for where, lacking in dropped_beside.items()
            for d in lacking
            if d.pair not in {d.pair for d in dropped}
        ),
        links=find_clusters(pairs.pairs).links,
        alike=read_alike,
        alike_undecided=alike_undecided,
        text=text_baselines(measured, responses, settings),
        behaviour=behaviour,
        openings=compare_openings(openings, pairs.pairs, level=settings.level)
        if openings
        else None,
        provenance=dict(provenance or {}),
        tokens=measure_tokens(
            run,
            scored,
            [measured.clusters[i] for i in used],
            measured.keys,
            responses,
            settings,
            decode,
        ),
    )


def _following(
    behaviour: Behaviour,
    separations: Sequence[Separation],
    scored: Sequence[Pair],
    pairs: PromptPairs,
    settings: AnalysisSettings,
) -> list[Following]:
    cluster_of = dict(zip(pairs, find_clusters(pairs.pairs).labels, strict=True))
    return following(
        [np.array(separation.scores_artifact) for separation in separations],
        [behaviour.evaded(pair, "artifact") for pair in scored],
        [pair.category for pair in scored],
        clusters=[cluster_of[pair] for pair in scored],
        permutations=settings.replicates,
        bootstrap=settings.replicates,
        level=settings.level,
        seed=settings.seed,
    )


def compare_runs(
    a: PairActivations,
    b: PairActivations,
    settings: AnalysisSettings,
    *,
    margin: float = MARGIN,
) -> list[Comparison]:
    """Change of d from `a` to `b` at each (layer, site) of `b`, on the pairs that both have.

    Raises:
        AnalysisError: `a` lacks a key of `b`, or too few pairs are in both.
    """
    absent = [layer_id(*key) for key in b.keys if key not in a.keys]
    if absent:
        raise AnalysisError(f"the other run has no {', '.join(absent)}")
    return _compare(*a.matched(b), settings, margin)


def _compare(
    one: PairActivations, other: PairActivations, settings: AnalysisSettings, margin: float
) -> list[Comparison]:
    try:
        return compare(
            one.artifact,
            one.natural,
            other.artifact,
            other.natural,
            margin=margin,
            level=settings.level,
            scale=settings.scale,
            direction=settings.direction,
            clusters=other.clusters,
        )
    except ValueError as error:
        raise AnalysisError(str(error)) from error


def _separations(
    measured: PairActivations,
    pairs: PromptPairs,
    settings: AnalysisSettings,
    progress: Callable[[Iterable[int]], Iterable[int]],
    folds: Sequence[int] | None = None,
) -> list[Separation]:
    try:
        return separation(
            measured.artifact,
            measured.natural,
            scale=settings.scale,
            direction=settings.direction,
            permutations=settings.replicates,
            bootstrap=settings.replicates,
            level=settings.level,
            seed=settings.seed,
            clusters=measured.clusters,
            folds=folds,
            progress=progress,
        )
    except ValueError as error:
        raise AnalysisError(f"{pairs.source}: {error}") from error
