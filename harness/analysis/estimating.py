"""From a collected run to an `Analysis`: every figure of every layer and site."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from harness.analysis.behaviour import Behaviour, PairResponses, compare_openings, judge
from harness.analysis.controls import (
    alike,
    category_folds,
    category_transfer,
    step_curves,
    taken_together,
    text_baselines,
)
from harness.analysis.layers import Analysis, LayerResult, layer_id
from harness.analysis.tokens import measure_tokens
from harness.data.activations import (
    AnalysisError,
    Dropped,
    PairActivations,
    Run,
    read_activations,
    token_arms,
    unequal_lengths,
)
from harness.data.behaviours import Behaviours
from harness.data.clusters import find_clusters
from harness.data.pairs import Pair, PromptPairs
from harness.defaults import MARGIN
from harness.settings import AnalysisSettings
from harness.stats import (
    Comparison,
    Following,
    Separation,
    TooFewError,
    compare,
    following,
    in_sample_separation,
    pair_quality,
    separation,
)


def analyze(
    run: Run,
    pairs: PromptPairs,
    *,
    layers: Sequence[int],
    sites: Sequence[str],
    settings: AnalysisSettings | None = None,
    companions: Mapping[str, Run] | None = None,
    base: Run | None = None,
    base_same_words: Run | None = None,
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
        base_same_words: the base model's, where it reads what the model's companion "forced" reads.
        noise: the same collection once more, in other batches.
        behaviours: patterns that say which responses evade.
        openings: log-odds of evasive openings against plain ones after each prompt, by group.
        embeddings: the same responses, represented at site "resid_pre" of layer 0.
        decode: the text of a token id, so that single tokens can be shown.
        progress: wraps the iteration over layers and sites, for example `tqdm`.

    Raises:
        AnalysisError: too few pairs are left, or too many had to be dropped.
        KeyError: `base_same_words` without the companion "forced".
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
    read_beside: dict[str, PairActivations] = {}
    scored_beside: dict[str, tuple[Pair, ...]] = {}
    dropped_beside: dict[str, tuple[Dropped, ...]] = {}
    for name, other in (companions or {}).items():
        found, dropped_beside[f"at positions {name}"] = read_activations(
            other, pairs, layers, sites
        )
        read_beside[name] = found
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
    beyond_base_same_words: Sequence[Comparison | None] = [None] * len(measured.keys)
    if base_same_words is not None:
        found, dropped_beside["in the base model, reading the same words"] = read_activations(
            base_same_words, pairs, layers, sites
        )
        beyond_base_same_words = compare_runs(found, read_beside["forced"], settings)
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
            beyond_base_same_words=beyond_base_same_words[i],
            beyond_embeddings=beyond_embeddings[i],
            noise=repeated[i],
            follows=follows[i],
            written=any(r.written for r in written),
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
