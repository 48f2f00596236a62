"""What a set of pairs can show, and what is wrong or weak about it, before a model runs."""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Literal

from harness.analysis.controls import (
    FEWEST_CATEGORIES,
    category_folds,
    joined_categories,
    prompt_words,
    tells_apart,
    text_arms,
    text_separation,
)
from harness.analysis.words import counted, decimal, interval
from harness.data.clusters import ALIKE, Link, Reason, find_clusters, telling_words
from harness.data.pairs import Pair, PromptPairs
from harness.defaults import MIN_PAIRS
from harness.settings import AnalysisSettings, Criteria
from harness.stats import (
    Separation,
    bag_of_tokens,
    smallest_detectable_effect,
    smallest_passing_effect,
    text_lengths,
)
from harness.stats.clusters import FEW_PAIRS
from harness.stats.secondary import MIN_CATEGORY

#: Share of the words of both prompts, templates aside, below which they are about different things.
#: Medians of the shipped sets: matched 1, natural 0.50, topic pairs 0.14.
SAME_TOPIC = 0.25
#: Share of the pairs in which one prompt alone has a word, from which it gives the condition away.
GIVEAWAY = 0.5
#: What pairs that lie together share.
SHARED: dict[Reason, str] = {
    "cluster": "the same cluster of the file",
    "prompt": "the same prompt",
    "wording": "nearly the same wording",
}
_MOST_NAMED = 8

Weight = Literal["wrong", "weak"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something about the pairs.

    Attributes:
        weight: "wrong" where the checks refuse the pairs, or can't decide a claim whatever the
            model does; "weak" where they decide less than it seems.
        said: what it is, with its numbers.
        advice: what would be better.
    """

    weight: Weight
    said: str
    advice: str


@dataclass(frozen=True, slots=True)
class TextFigure:
    """How far apart a feature of the prompts' text lies; None as separation where it can't tell
    them apart at all, or nothing can be estimated from so few units."""

    name: str
    description: str
    separation: Separation | None


@dataclass(frozen=True, slots=True)
class Word:
    """A word, and how many prompts of each condition have it."""

    word: str
    natural: int
    artifact: int


@dataclass(frozen=True, slots=True)
class CategorySize:
    """One category: pairs, units, median share of words that a pair's prompts have in common, and
    the smallest d that its own pairs can find, None where they are too few."""

    name: str
    pairs: int
    units: int
    shared_words: float
    detectable: float | None


@dataclass(frozen=True, slots=True)
class Reach:
    """What so many units can show where so many independent layers are looked at: the smallest d
    that is told from 0, and the smallest that is and clears the threshold of d, each in 4 runs of
    5."""

    layers: int
    detectable: float
    passing: float


@dataclass(frozen=True)
class Screening:
    """What was found about a set of pairs; no model was asked.

    Attributes:
        source, fingerprint: of the pairs file.
        n_pairs, n_units: pairs, and the clusters that count as observations.
        n_units_alike: units, were pairs that read alike put together, too.
        links: why pairs lie together.
        words: mean number of words of natural and of artifact prompts.
        shared_words: median share of the words of a pair's two prompts that both have; words that
            more than a tenth of all prompts have, a template's, don't count.
        fewest_shared: the pairs with the smallest such share, and it.
        texts: what text alone gives.
        giveaways: words that one condition has more than the other, largest difference first.
        categories: sizes.
        reach: for one layer, and for as many as were asked about; empty for too few units.
        problems: wrong ones first.
    """

    source: str
    fingerprint: str
    n_pairs: int
    n_units: int
    n_units_alike: int
    links: tuple[Link, ...]
    words: tuple[float, float]
    shared_words: float
    fewest_shared: tuple[tuple[Pair, float], ...]
    texts: tuple[TextFigure, ...]
    giveaways: tuple[Word, ...]
    categories: tuple[CategorySize, ...]
    reach: tuple[Reach, ...]
    problems: tuple[Problem, ...]


def screen(
    prompt_pairs: PromptPairs,
    *,
    layers: int = 26,
    criteria: Criteria | None = None,
    settings: AnalysisSettings | None = None,
) -> Screening:
    """Look at the pairs as the statistics will.

    Args:
        layers: independent layers and sites to plan for, beside a single one. Real layers go
            together, so that a run with as many of them sees smaller effects.
        criteria: what a pass takes.
        settings: of the text's separation.
    """
    criteria, settings = criteria or Criteria(), settings or AnalysisSettings()
    pairs = prompt_pairs.pairs
    found = find_clusters(pairs)
    words = prompt_words(pairs)
    shared = _shared_words(pairs)
    n_units = len(found)
    usable = n_units >= MIN_PAIRS and 2 * _largest_unit(found.labels) < len(pairs)
    with warnings.catch_warnings():
        # Few units are one of the problems.
        warnings.simplefilter("ignore", UserWarning)
        texts = tuple(
            TextFigure(
                name,
                description,
                text_separation(*arms, settings, found.labels)
                if usable and (arms := text_arms(features, words))
                else None,
            )
            for name, description, features in (
                ("prompt_words", "which words the prompt has", bag_of_tokens),
                ("prompt_length", "how many words the prompt has", text_lengths),
            )
        )
    screening = Screening(
        source=prompt_pairs.source,
        fingerprint=prompt_pairs.fingerprint,
        n_pairs=len(pairs),
        n_units=n_units,
        n_units_alike=len(find_clusters(pairs, similar=ALIKE)),
        links=found.links,
        words=(fmean(map(len, words["natural"])), fmean(map(len, words["artifact"]))),
        shared_words=median(shared),
        fewest_shared=tuple(
            sorted(zip(pairs, shared, strict=True), key=lambda item: item[1])[:_MOST_NAMED]
        ),
        texts=texts,
        giveaways=_giveaways(words["natural"], words["artifact"]),
        categories=tuple(_categories(pairs, found.labels, shared)),
        reach=tuple(_reach(n_units, dict.fromkeys((1, layers)), criteria)),
        problems=(),
    )
    problems = _problems(screening, pairs, found.labels, criteria.alpha)
    return replace(
        screening, problems=tuple(sorted(problems, key=lambda problem: problem.weight != "wrong"))
    )


def _shared_words(pairs: Sequence[Pair]) -> list[float]:
    natural = telling_words([pair.natural for pair in pairs] + [pair.artifact for pair in pairs])
    artifact = natural[len(pairs) :]
    return [
        len(one & other) / len(one | other) if one | other else 1.0
        for one, other in zip(natural, artifact, strict=False)
    ]


def _giveaways(
    natural: Sequence[Sequence[str]], artifact: Sequence[Sequence[str]]
) -> tuple[Word, ...]:
    counts = [Counter(word for text in arm for word in set(text)) for arm in (natural, artifact)]
    words = [Word(word, counts[0][word], counts[1][word]) for word in counts[0] | counts[1]]
    words.sort(key=lambda w: (-abs(w.artifact - w.natural), w.word))
    return tuple(word for word in words[:_MOST_NAMED] if word.artifact != word.natural)


def _categories(
    pairs: Sequence[Pair], labels: Sequence[int], shared: Sequence[float]
) -> Iterator[CategorySize]:
    for name in dict.fromkeys(pair.category for pair in pairs):
        inside = [number for number, pair in enumerate(pairs) if pair.category == name]
        units = len({labels[number] for number in inside})
        yield CategorySize(
            name,
            len(inside),
            units,
            median(shared[number] for number in inside),
            smallest_detectable_effect(units) if units >= MIN_PAIRS else None,
        )


def _reach(n_units: int, layers: Iterable[int], criteria: Criteria) -> Iterator[Reach]:
    if n_units < MIN_PAIRS:
        return
    for count in layers:
        told = smallest_detectable_effect(n_units, layers=count, alpha=criteria.alpha)
        clears = smallest_passing_effect(n_units, threshold=criteria.d_threshold, layers=count)
        # A bound above a low threshold is no evidence of a d.
        yield Reach(count, told, max(told, clears))


def _largest_unit(labels: Sequence[int]) -> int:
    return max(Counter(labels).values())


def _problems(
    found: Screening, pairs: Sequence[Pair], labels: Sequence[int], alpha: float
) -> Iterator[Problem]:
    yield from _problems_of_units(found, labels)
    yield from _problems_of_categories(found, pairs, labels)
    yield from _problems_of_text(found, alpha)


def _problems_of_units(found: Screening, labels: Sequence[int]) -> Iterator[Problem]:
    many = f"{found.n_pairs} pairs are {counted(found.n_units, 'unit')}"
    largest = _largest_unit(labels)
    if found.n_units < MIN_PAIRS:
        yield Problem(
            "wrong",
            f"{many}: nothing is estimated from fewer than {MIN_PAIRS}.",
            "Write pairs on more topics; rewordings don't count.",
        )
    elif 2 * largest >= found.n_pairs:
        yield Problem(
            "wrong",
            f"One unit holds {largest} of the {found.n_pairs} pairs, half of them or more: too "
            "little is left to hold it against, and the checks refuse that.",
            "Divide the cluster, or write pairs on more topics.",
        )
    elif found.n_units < FEW_PAIRS:
        yield Problem(
            "weak",
            f"{many}: intervals are less reliable below {FEW_PAIRS}.",
            "Write more pairs before you trust a bound.",
        )
    if found.n_units < found.n_pairs:
        reasons = Counter(link.reason for link in found.links)
        said = ", ".join(f"{reasons[r]} times {SHARED[r]}" for r in SHARED if reasons[r])
        yield Problem(
            "weak",
            f"{many}, which is what counts. Pairs share {said}.",
            "Where they were meant to be independent, give each a topic of its own.",
        )
    if found.n_units_alike < found.n_units:
        yield Problem(
            "weak",
            f"Some units read alike: a third of their words or more is the same. Put together they "
            f"are {found.n_units_alike}, not {found.n_units}.",
            "Name a cluster for pairs that say nearly the same.",
        )


def _problems_of_categories(
    found: Screening, pairs: Sequence[Pair], labels: Sequence[int]
) -> Iterator[Problem]:
    if category_folds(pairs, labels) is None:
        left = len(set(joined_categories(pairs, labels)))
        here = str(len(found.categories))
        if left < len(found.categories):
            here += f", which shared clusters join into {left}"
        yield Problem(
            "wrong",
            f"Whether one direction serves all categories can't be decided, and without that no "
            f"alignment artifact is said to be shown: it takes {FEWEST_CATEGORIES} categories that "
            f"share no cluster, none with half of the pairs; here are {here}.",
            "Divide the pairs into more categories, and keep each cluster within one.",
        )
    for few, what in (
        (
            [c for c in found.categories if c.pairs < MIN_CATEGORY],
            f"fewer than {MIN_CATEGORY} pairs, and get no figure of their own",
        ),
        (
            [c for c in found.categories if c.pairs >= MIN_CATEGORY and c.units < MIN_PAIRS],
            f"fewer than {MIN_PAIRS} units: too few for a claim about them alone",
        ),
    ):
        if few:
            names = ", ".join(c.name for c in few[:_MOST_NAMED])
            more = f" and {len(few) - _MOST_NAMED} more" if len(few) > _MOST_NAMED else ""
            yield Problem(
                "weak",
                f"Of {len(found.categories)} categories {len(few)} have {what}: {names}{more}.",
                "Write more pairs for them, or join categories that belong together.",
            )


def _problems_of_text(found: Screening, alpha: float) -> Iterator[Problem]:
    for text in found.texts:
        if text.separation is not None and tells_apart(text.separation, alpha):
            d, bounds = decimal(text.separation.d), interval(text.separation.d_interval)
            about = (
                f" ({found.words[0]:.1f} words in natural prompts, {found.words[1]:.1f} in "
                "artifact ones)"
                if text.name == "prompt_length"
                else ""
            )
            yield Problem(
                "weak",
                f"Without any model, {text.description} tells the conditions apart: d = {d} "
                f"{bounds}{about}.",
                "Match the two prompts of each pair; until then a base model has to say how much "
                "of a model's d is this.",
            )
    telling = [
        f"{w.word!r} ({w.natural} natural, {w.artifact} artifact)"
        for w in found.giveaways
        if abs(w.artifact - w.natural) >= GIVEAWAY * found.n_pairs
    ]
    if telling:
        yield Problem(
            "weak",
            f"A word gives the condition away: {', '.join(telling)}.",
            "Vary the wording, so that no word is a condition's own.",
        )
    if found.shared_words < SAME_TOPIC:
        pair, share = found.fewest_shared[0]
        yield Problem(
            "weak",
            f"The two prompts of a pair have few words in common (median {found.shared_words:.0%}, "
            f"the least in {pair}: {share:.0%}): they may differ in what they are about. Such "
            "pairs separate in a model that was never aligned.",
            "Keep the topic, and change what the assistant is asked to do; and give --base-model.",
        )
