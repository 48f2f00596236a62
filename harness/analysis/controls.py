"""Other explanations of a separation: the words alone, one category alone, single tokens."""

import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.data.activations import LayerSite, PairActivations, Run, token_arms
from harness.data.clusters import ALIKE, Link, find_clusters
from harness.data.pairs import CONDITIONS, Condition, Pair, PromptPairs
from harness.data.store import Response
from harness.settings import AnalysisSettings
from harness.stats import (
    CategoryTransfer,
    Comparison,
    Separation,
    StepSeparation,
    bag_of_tokens,
    compare,
    leave_one_category_out,
    separation,
    step_curve,
    text_lengths,
)
from harness.stats.arrays import FloatArray
from harness.stats.text import Texts

#: Categories whose swapping, all at once, gives a p of at most 1/16.
FEWEST_CATEGORIES = 5

# A curve is one more look at a layer that was tested already: its p needn't be that fine.
_STEP_REPLICATES = 1000


@dataclass(frozen=True)
class TextBaseline:
    """What a text alone gives, and each layer's d beyond it (`compare`, model minus text)."""

    name: str
    description: str
    separation: Separation
    beyond: Mapping[LayerSite, Comparison]


def prompt_words(pairs: Sequence[Pair]) -> dict[Condition, list[list[str]]]:
    """The words of each condition's prompts, in lower case."""
    return {c: [re.findall(r"\w+", pair.prompt(c).lower()) for pair in pairs] for c in CONDITIONS}


def text_arms(
    features: Callable[[Texts, Texts], tuple[FloatArray, FloatArray]],
    texts: Mapping[Condition, Texts],
) -> tuple[FloatArray, FloatArray] | None:
    """Features of artifact and of natural texts; None where these can't tell the arms apart."""
    if not any(map(len, (*texts["artifact"], *texts["natural"]))):
        return None
    artifact, natural = features(texts["artifact"], texts["natural"])
    return None if (artifact == natural).all() else (artifact, natural)


def text_separation(
    artifact: FloatArray,
    natural: FloatArray,
    settings: AnalysisSettings,
    clusters: Sequence[Hashable],
) -> Separation:
    """How far apart features of texts lie, one layer of them."""
    # Two pairs may well have equal answers, or lengths, without being one observation twice.
    (text,) = separation(
        artifact,
        natural,
        direction=settings.direction,
        permutations=settings.replicates,
        bootstrap=settings.replicates,
        seed=settings.seed,
        collapse_duplicates=False,
        clusters=clusters,
    )
    return text


def tells_apart(text: Separation, alpha: float) -> bool:
    """Whether a text is shown to tell the conditions apart: d's interval lies above 0 and p, if
    there is one, below alpha."""
    return text.d_interval[0] > 0 and not text.p_value >= alpha


def text_baselines(
    activations: PairActivations, responses: Mapping[str, Response], settings: AnalysisSettings
) -> tuple[TextBaseline, ...]:
    """Separation by words and lengths, without the model's activations.

    Responses are cut to the tokens that the activations were averaged over, so that model and
    text see the same ones. A text that can't tell the arms apart at all (all lengths equal, say,
    or nothing written) is left out.
    """
    pairs = activations.pairs
    words = prompt_words(pairs)
    full = {c: [responses[pair.group(c)].token_ids for pair in pairs] for c in CONDITIONS}
    shared = [min(map(len, answers)) for answers in zip(*full.values(), strict=True)]
    tokens = {c: [ids[:n] for ids, n in zip(full[c], shared, strict=True)] for c in CONDITIONS}
    made = (
        ("prompt_words", "which words the prompt has", bag_of_tokens, words),
        ("prompt_length", "how many words the prompt has", text_lengths, words),
        ("response_words", "which tokens the response has", bag_of_tokens, tokens),
        ("response_length", "how many tokens the response has", text_lengths, full),
    )
    found = []
    for name, description, features, texts in made:
        arms = text_arms(features, texts)
        if arms is None:
            continue
        artifact, natural = arms
        text = text_separation(artifact, natural, settings, activations.clusters)
        compared = compare(
            artifact,
            natural,
            activations.artifact,
            activations.natural,
            direction=settings.direction,
            clusters=activations.clusters,
        )
        beyond = dict(zip(activations.keys, compared, strict=True))
        found.append(TextBaseline(name, description, text, beyond))
    return tuple(found)


def alike(activations: PairActivations, pairs: PromptPairs) -> tuple[Link, ...]:
    """The pairs of different units that read alike: two of their prompts have half of their words
    in common, or more."""
    unit = dict(zip(activations.pairs, activations.clusters, strict=True))
    return tuple(
        link
        for link in find_clusters(pairs.pairs, similar=ALIKE).links
        if link.a in unit and link.b in unit and unit[link.a] != unit[link.b]
    )


def taken_together(activations: PairActivations, pairs: PromptPairs) -> PairActivations:
    """The same activations, where pairs that read alike are one unit."""
    labels = find_clusters(pairs.pairs, similar=ALIKE).labels
    unit = dict(zip(pairs, labels, strict=True))
    return replace(activations, clusters=tuple(unit[pair] for pair in activations.pairs))


def category_folds(pairs: Sequence[Pair], clusters: Sequence[int]) -> tuple[int, ...] | None:
    """A label of each pair's category, the same for categories that a cluster joins.

    None where fewer than `FEWEST_CATEGORIES` are left, or one holds half of the pairs.
    """
    labels = joined_categories(pairs, clusters)
    counts = Counter(labels)
    if len(counts) < FEWEST_CATEGORIES or 2 * max(counts.values()) >= len(labels):
        return None
    number = {label: i for i, label in enumerate(counts)}
    return tuple(number[label] for label in labels)


def joined_categories(pairs: Sequence[Pair], clusters: Sequence[int]) -> list[str]:
    """Each pair's category, that of the first one for categories that a cluster joins."""
    names = [pair.category for pair in pairs]
    first: dict[int, str] = {}
    joined: dict[str, str] = {name: name for name in names}
    for name, cluster in zip(names, clusters, strict=True):
        other = joined[first.setdefault(cluster, name)]
        joined = {k: other if v == joined[name] else v for k, v in joined.items()}
    return [joined[name] for name in names]


def category_transfer(
    activations: PairActivations, settings: AnalysisSettings
) -> dict[LayerSite, tuple[CategoryTransfer, ...]]:
    """Each category scored along the direction of the others, by layer and site."""
    categories = [pair.category for pair in activations.pairs]
    transfers = leave_one_category_out(
        activations.artifact,
        activations.natural,
        categories,
        scale=settings.scale,
        direction=settings.direction,
        permutations=settings.replicates,
        level=settings.level,
        seed=settings.seed,
        clusters=activations.clusters,
    )
    return {key: tuple(transfer) for key, transfer in zip(activations.keys, transfers, strict=True)}


def step_curves(
    run: Run, activations: PairActivations, settings: AnalysisSettings
) -> dict[LayerSite, tuple[StepSeparation, ...]]:
    """Separation token by token, by layer and site."""
    return {
        (layer, site): tuple(
            step_curve(
                *token_arms(run, activations.pairs, site, layer),
                scale=settings.scale,
                direction=settings.direction,
                permutations=min(settings.replicates, _STEP_REPLICATES),
                seed=settings.seed,
                clusters=activations.clusters,
            )
        )
        for layer, site in activations.keys
    }
