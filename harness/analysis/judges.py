"""The criteria of the checks, and what to say about a layer that meets or misses one.

A layer's lower bounds hold in all layers of the run together, so that no layer passes for being the
best of many. The intervals that stand beside them in figures and tables are each layer's own.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from harness.analysis.behaviour import Behaviour
from harness.analysis.causality import Effect
from harness.analysis.controls import FEWEST_CATEGORIES
from harness.analysis.layers import Analysis, LayerResult
from harness.analysis.verdict import CLOSE, Outcome, Verdict, worst
from harness.analysis.words import decimal, error, interval, p_value
from harness.settings import Criteria
from harness.stats import Comparison, Separation, pairs_to_decide

CHANCE = 0.5
_SEED_MATTERS = (
    f"Within {CLOSE} Monte Carlo errors of the threshold: another seed of the resampling could "
    "give another verdict; more replicates settle it (of interventions: more random directions)"
)


@dataclass(frozen=True)
class _Claim:
    """That a lower bound lies above a threshold and, where there is one, a p-value below alpha.

    Attributes:
        found: what was measured, in words.
        figure: the name and the value of what decides.
        lower, upper: of the figure that the threshold is about; it is shown to lie below where even
            the upper end does.
        ending: how the sentence goes on, by outcome.
        lower_se, p_se: Monte Carlo standard errors of the lower bound and of p.
    """

    found: str
    figure: tuple[str, float]
    lower: float
    upper: float
    ending: Mapping[Outcome, str]
    threshold: float = 0.0
    lower_se: float = 0.0
    p: float = 0.0
    alpha: float = 1.0
    p_se: float = 0.0

    def judge(self, result: LayerResult) -> Verdict:
        above, significant = self.lower > self.threshold, self.p < self.alpha
        outcome: Outcome = "inconclusive" if self.upper > self.threshold else "failed"
        distances = [
            _errors(self.lower - self.threshold, self.lower_se),
            _errors(self.p - self.alpha, self.p_se),
        ]
        if above and significant:
            outcome = "passed"
            distance = min(distances)
        else:
            # To pass, all that miss would have to turn.
            missed = zip(distances, (above, significant), strict=True)
            distance = max(far for far, met in missed if not met)
        verdict = _verdict(result, outcome, self.found + self.ending.get(outcome, ""), distance)
        return replace(verdict, figure=self.figure, missed=", ".join(self._missed(outcome)))

    def _missed(self, outcome: Outcome) -> list[str]:
        said = []
        if not self.lower > self.threshold:
            how = "not above" if outcome == "failed" else "not shown to be above"
            said.append(f"{how} {self.threshold:g}")
        if not self.p < self.alpha:
            said.append(f"p {p_value(self.p)}, not below {self.alpha:g}")
        return said


def _unless_passed(ending: str) -> dict[Outcome, str]:
    return {"inconclusive": ending, "failed": ending}


def effect_size(result: LayerResult, criteria: Criteria) -> Verdict:
    """Passed if the lower bound of d lies above the threshold."""
    s, threshold = result.separation, criteria.d_threshold
    if math.isnan(s.d):
        return _verdict(
            result, "failed", "d is not defined: both conditions have the same activations"
        )
    return _Claim(
        f"{_d_found(s)}, at least {decimal(s.d_lower)}{error(s.d_lower_se)} with all layers taken "
        "together",
        ("d", s.d),
        s.d_lower,
        s.d_interval[1],
        {
            "passed": f": above {threshold:g}",
            "inconclusive": f"; the threshold {threshold:g} lies between the bound and the "
            f"interval's end{_pairs_sentence(s, threshold)}",
            "failed": f", and lies below the threshold {threshold:g}: on held-out pairs this layer "
            f"does not separate the two conditions that far. {_next(result)}",
        },
        threshold,
        s.d_lower_se,
    ).judge(result)


def _pairs_sentence(s: Separation, threshold: float) -> str:
    needed = pairs_to_decide(s, threshold)
    if math.isinf(needed):
        return "; d lies at the threshold, so that no number of pairs would decide it"
    return f"; if d stayed where it is, about {needed:.0f} pairs would decide it in 4 runs of 5"


def above_chance(result: LayerResult, criteria: Criteria) -> Verdict:
    """Passed if the lower bound of the accuracy lies above one half."""
    s = result.separation
    return _Claim(
        f"accuracy = {s.accuracy:.2f} {interval(s.accuracy_interval)}, at least "
        f"{decimal(s.accuracy_lower)}{error(s.accuracy_lower_se)} with all layers taken together",
        ("accuracy", s.accuracy),
        s.accuracy_lower,
        s.accuracy_interval[1],
        {
            "passed": ": above chance",
            "inconclusive": f"; chance, {CHANCE}, is not excluded: a linear boundary can't be told "
            f"from a coin. {_next(result)}",
            "failed": f", and lies below chance. {_next(result)}",
        },
        CHANCE,
        s.accuracy_lower_se,
    ).judge(result)


def significant(result: LayerResult, criteria: Criteria) -> Verdict:
    """Passed if the family-wise p-value over the run's layers and sites is below alpha."""
    s = result.separation
    found = (
        f"family-wise p = {p_value(s.p_adjusted)}{error(s.p_adjusted_se)} "
        f"(this layer alone {p_value(s.p_value)}{error(s.p_se)})"
    )
    distance = _errors(s.p_adjusted - criteria.alpha, s.p_adjusted_se)
    if s.p_adjusted < criteria.alpha:
        return _verdict(result, "passed", f"{found} is below {criteria.alpha:g}", distance)
    verdict = _verdict(
        result,
        "failed",
        f"{found} is not below {criteria.alpha:g}: with the labels of whole units flipped at "
        f"random, the most separated layer is this far apart just as easily. {_next(result)}",
        distance,
    )
    return replace(verdict, figure=("p", s.p_adjusted), missed=f"not below {criteria.alpha:g}")


def alike_pairs(result: LayerResult, analysis: Analysis, criteria: Criteria) -> Verdict:
    """Passed if the layer separates as far, and as significantly, where pairs that read alike count
    as one unit, or where none do."""
    links = analysis.alike
    if not links:
        return _verdict(result, "passed", "no pairs of different units read alike")
    more = f", and {len(links) - 1} more" if len(links) > 1 else ""
    which = f"{links[0].a} and {links[0].b}{more}"
    s = result.alike
    if s is None:
        return _verdict(
            result,
            "undecidable",
            f"whether the layer separates if pairs that read alike ({which}) count as one unit "
            f"can't be told: {analysis.alike_undecided}",
        )
    return _Claim(
        f"with pairs that read alike ({which}) as one unit, {s.n_units} in all, {_d_found(s)}, at "
        f"least {decimal(s.d_lower)}, family-wise p = {p_value(s.p_adjusted)}"
        f"{error(s.p_adjusted_se)}",
        ("d", s.d),
        s.d_lower,
        s.d_interval[1],
        _unless_passed(
            f", which does not show d above {criteria.d_threshold:g}. If it does with each pair as "
            "a unit, the separation may come of pairs that say the same thing: give those that do "
            'a common "cluster" in the pairs file'
        ),
        criteria.d_threshold,
        s.d_lower_se,
        s.p_adjusted,
        criteria.alpha,
        s.p_adjusted_se,
    ).judge(result)


def crosses_categories(result: LayerResult, criteria: Criteria) -> Verdict:
    """Passed if directions that have not seen a pair's category separate it: d's lower bound above
    0, family-wise p below alpha, and no swapping of whole categories that gives as much."""
    s = result.across
    if s is None or s.p_folds is None:
        return _verdict(
            result,
            "undecidable",
            f"one direction for all categories can't be decided: that takes {FEWEST_CATEGORIES} "
            "categories or more that share no prompts, none with half of the pairs",
        )
    weakest = ""
    if result.transfer:
        least = min(result.transfer, key=lambda t: -math.inf if math.isnan(t.d) else t.d)
        weakest = (
            f"; weakest category {least.category}, d = {decimal(least.d)}, p = "
            f"{p_value(least.p_adjusted)} adjusted over the categories"
        )
    ending = _unless_passed(
        "; the direction is not shown to be one for all categories. Look next at the category × "
        "layer map in the report"
    )
    claim = _Claim(
        f"along directions that have not seen the category {_d_found(s)}, at least "
        f"{decimal(s.d_lower)}, family-wise p = {p_value(s.p_adjusted)}{error(s.p_adjusted_se)}, "
        f"by swapping whole categories {p_value(s.p_folds)}{weakest}",
        ("d", s.d),
        s.d_lower,
        s.d_interval[1],
        ending,
        lower_se=s.d_lower_se,
        p=s.p_adjusted,
        alpha=criteria.alpha,
        p_se=s.p_adjusted_se,
    )
    verdict = claim.judge(result)
    # Effects that differ from category to category look like one direction in 1 of 16 runs.
    if verdict.outcome == "passed" and not s.p_folds <= 2.0 ** (1 - FEWEST_CATEGORIES):
        swapped = _verdict(result, "inconclusive", claim.found + ending["inconclusive"])
        missed = f"p {p_value(s.p_folds)} by swapping categories"
        return replace(swapped, figure=claim.figure, missed=missed)
    return verdict


def companion_separates(result: LayerResult, position: str, criteria: Criteria) -> Verdict:
    """Passed if at other positions d's lower bound lies above 0 and its family-wise p below
    alpha."""
    s = result.companions[position]
    return _Claim(
        f"at positions {position!r} {_d_found(s)}, at least {decimal(s.d_lower)} with all layers "
        f"taken together, family-wise p = {p_value(s.p_adjusted)}{error(s.p_adjusted_se)}",
        ("d", s.d),
        s.d_lower,
        s.d_interval[1],
        _unless_passed(
            ": with the words held constant nothing is shown to separate here, while d is "
            f"{decimal(result.separation.d)} where the words may differ"
        ),
        lower_se=s.d_lower_se,
        p=s.p_adjusted,
        alpha=criteria.alpha,
        p_se=s.p_adjusted_se,
    ).judge(result)


def same_words(result: LayerResult, criteria: Criteria) -> Verdict:
    """Passed if the layer separates with the same words after both prompts."""
    return companion_separates(result, "forced", criteria)


def beyond_words(result: LayerResult, criteria: Criteria) -> Verdict | None:
    """`same_words`. Where those weren't read, `beyond_embeddings` can refute it but never shows it:
    a layer that knows single tokens alone, yet not linearly, lies beyond them, too. None where
    neither was asked."""
    if "forced" in result.companions:
        return same_words(result, criteria)
    if result.beyond_embeddings is None:
        return None
    verdict = beyond_embeddings(result)
    if verdict.outcome != "passed":
        return verdict
    return replace(
        verdict,
        outcome="undecidable",
        explanation=f"{verdict.explanation}; whether that is more than which words were written is "
        "told by the same words after both prompts (positions forced)",
    )


def beyond_base(result: LayerResult) -> Verdict:
    """Passed if d is larger than the base model's: the lower bound of the change above 0. Where
    each model writes its own words, it has to be larger with the same words, too: else the topic
    may tell the prompts apart in both, and the trained model's words be all that comes to it.

    Raises:
        ValueError: the analysis was made without a base model.
    """
    change, same = result.beyond_base, result.beyond_base_same_words
    if change is None:
        raise ValueError("the analysis was made without a base model")
    missed = ": training is not shown to have added to it"
    found = _further(change, "the base model")
    if same is None:
        return _beyond(change, found, missed).judge(result)
    read = f"with the same words after both prompts {_further(same, 'the base model')}"
    verdicts = [
        _beyond(change, f"{found}; {read}", missed).judge(result),
        _beyond(same, f"{read}; where each writes its own, {found}", missed).judge(result),
    ]
    outcome = worst(verdict.outcome for verdict in verdicts)
    nearest = min if outcome == "passed" else max
    return nearest((v for v in verdicts if v.outcome == outcome), key=lambda v: v.distance)


def beyond_embeddings(result: LayerResult) -> Verdict:
    """Passed if d is larger than that of the written tokens' own input embeddings: the lower bound
    of the change above 0.

    Raises:
        ValueError: the analysis was made without embeddings.
    """
    change = result.beyond_embeddings
    if change is None:
        raise ValueError("the analysis was made without the written tokens' input embeddings")
    found = _further(change, "the written tokens' input embeddings")
    missed = ": the layer is not shown to hold more than which words were written"
    return _beyond(change, found, missed).judge(result)


def _further(change: Comparison, other: str) -> str:
    return (
        f"d = {decimal(change.d_b)} is {decimal(change.difference)} {interval(change.interval)} "
        f"beyond that of {other}, {decimal(change.d_a)}, at least {decimal(change.lower)} with all "
        "layers taken together"
    )


def _beyond(change: Comparison, found: str, missed: str) -> _Claim:
    return _Claim(
        found,
        ("d beyond it", change.difference),
        change.lower,
        change.interval[1],
        _unless_passed(missed),
        lower_se=change.lower_se,
    )


def follows_behaviour(
    result: LayerResult, behaviour: Behaviour | None, criteria: Criteria
) -> Verdict | None:
    """Passed if, before anything is written, prompts that the model goes on to evade lie further
    along the direction than others of their category: AUROC's lower bound above one half and its
    family-wise p below alpha. None where it wasn't asked."""
    found = result.follows
    if found is None:
        if behaviour is None or behaviour.undecided is None:
            return None
        return _verdict(
            result,
            "undecidable",
            f"whether the scores go with what the model does can't be told: {behaviour.undecided}",
        )
    return _Claim(
        "at the last prompt token, artifact prompts that were evaded outscore those of their "
        f"category that were answered with AUROC = {found.auroc:.2f}, at least "
        f"{decimal(found.lower)}{error(found.lower_se)} with all layers taken together, "
        f"family-wise p = {p_value(found.p_adjusted)}{error(found.p_se)} ({found.n_evaded} evaded, "
        f"{found.n_answered} answered in {found.n_categories} categories)",
        ("AUROC", found.auroc),
        found.lower,
        found.auroc,
        _unless_passed(": the direction is not shown to go with evading, apart from what is asked"),
        CHANCE,
        found.lower_se,
        found.p_adjusted,
        criteria.alpha,
        found.p_se,
    ).judge(result)


def uses_direction(result: LayerResult, effect: Effect, criteria: Criteria) -> Verdict:
    """Passed if the intervention moves the model's preference between the two answers the way
    that the direction says, further than random directions do: with the whole interval over
    pairs, and by its family-wise rank among them below alpha. The interval alone says little where
    all pairs have like answers: any one direction then moves all of them the same way."""
    low, high = effect.shift_interval
    p_se = math.sqrt(effect.p_adjusted * (1 - effect.p_adjusted) / (1 + effect.n_random))
    return _Claim(
        f"{_INTERVENTIONS[effect.kind]} changes log P(artifact answer) − log P(natural answer) by "
        f"{effect.own_shift:+.3f} nats per token, {effect.shift:+.3f} [{low:+.3f}, {high:+.3f}] "
        f"beyond {effect.n_random} random directions, on {effect.n_pairs} pairs (family-wise rank "
        f"p = {p_value(effect.p_adjusted)}{error(p_se)}, by itself {p_value(effect.p_value)})",
        ("shift", effect.shift),
        # The direction says more of the artifact answer where it is added, less where ablated.
        *((low, high) if effect.kind == "add" else (-high, -low)),
        _unless_passed(": the model is not shown to use this direction here"),
        p=effect.p_adjusted,
        alpha=criteria.alpha,
        p_se=p_se,
    ).judge(result)


_INTERVENTIONS = {
    "add": "adding the direction to natural prompts",
    "ablate": "ablating it from artifact prompts",
}


CRITERIA = {"d": effect_size, "accuracy": above_chance, "p": significant}


def sample_size(s: Separation) -> str:
    """Pairs, and the units that they form where these are fewer."""
    units = "" if s.n_units == s.n_pairs else f" in {s.n_units} units"
    return f"n = {s.n_pairs} pairs{units}"


def _d_found(s: Separation) -> str:
    ends = f" (ends{found})" if (found := error(s.d_interval_se)) else ""
    return f"d = {decimal(s.d)} {interval(s.d_interval)}{ends}"


def _errors(distance: float, se: float) -> float:
    """A distance in Monte Carlo errors; infinite where there is no error."""
    return abs(distance) / se if se > 0 else math.inf


def _verdict(
    result: LayerResult, outcome: Outcome, found: str, distance: float = math.inf
) -> Verdict:
    said = f"layer {result.layer}, {result.site}: {found} ({sample_size(result.separation)})"
    verdict = Verdict(outcome, said, distance)
    return replace(verdict, explanation=f"{said}. {_SEED_MATTERS}") if verdict.close else verdict


def _next(result: LayerResult) -> str:
    """What a person would look at next, where the conditions can read differently."""
    found = f"(In-sample d = {decimal(result.in_sample.d)} here, which noise alone can give.)"
    if not result.written:
        return found
    return (
        "Look next at the responses in the report: do the two conditions read differently at "
        f"all? {found}"
    )
