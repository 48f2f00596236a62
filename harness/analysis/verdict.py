"""The criteria of the checks, and what to say about a layer that meets or misses one."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from harness.analysis.causality import Effect
from harness.analysis.comparison import LayerComparison
from harness.analysis.controls import TextBaseline
from harness.analysis.layers import LayerResult
from harness.analysis.words import decimal, error, interval, p_value
from harness.settings import Criteria
from harness.stats import Separation, pairs_to_decide

Outcome = Literal["passed", "failed", "inconclusive"]
CHANCE = 0.5
# Bias of d under shuffled labels that is put up with, beyond Monte Carlo error.
NULL_BIAS = 0.03
# Monte Carlo errors from a threshold within which another seed could decide otherwise.
CLOSE = 3
_SEED_MATTERS = (
    f"Within {CLOSE} Monte Carlo errors of the threshold: another seed of the resampling could "
    "give another verdict; more replicates settle it"
)


class CheckFailedError(AssertionError):
    """A layer missed a criterion; the message is for the person who reads the report."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of one criterion for one layer, and why.

    Attributes:
        outcome: "passed", "failed", or "inconclusive" where neither was shown.
        explanation: layer, estimate, interval, criterion and number of pairs, in words.
        margin: distance from the nearest threshold in Monte Carlo errors; infinite where
            nothing was drawn at random, or its error isn't known.
    """

    outcome: Outcome
    explanation: str
    margin: float = math.inf

    @property
    def close(self) -> bool:
        """Whether another seed could give another outcome."""
        return self.margin <= CLOSE

    def require(self) -> None:
        """Raise `CheckFailedError` with the explanation, unless passed."""
        if self.outcome != "passed":
            raise CheckFailedError(self.explanation)


@dataclass(frozen=True)
class _Claim:
    """That an interval lies above a threshold and, where there is one, a p-value below alpha.

    Attributes:
        found: what was measured, in words.
        ending: how the sentence goes on, by outcome.
        interval_se, p_se: Monte Carlo standard errors of each end of the interval and of p.
    """

    found: str
    interval: tuple[float, float]
    ending: Mapping[Outcome, str]
    threshold: float = 0.0
    interval_se: float = 0.0
    p: float = 0.0
    alpha: float = 1.0
    p_se: float = 0.0

    @property
    def outcome(self) -> Outcome:
        low, high = self.interval
        if low > self.threshold:
            return "passed" if self.p < self.alpha else "inconclusive"
        return "inconclusive" if high > self.threshold else "failed"

    @property
    def margin(self) -> float:
        """Monte Carlo errors from the nearest figures with which the outcome would be another."""
        low, high = (_errors(end - self.threshold, self.interval_se) for end in self.interval)
        significance = _errors(self.p - self.alpha, self.p_se)
        above = self.interval[0] > self.threshold
        if self.p < self.alpha:
            return min(low, significance) if above else min(low, high)
        if above:
            return significance
        # To pass, both would have to turn.
        return min(high, max(low, significance)) if self.outcome == "inconclusive" else high

    def judge(self, result: LayerResult) -> Verdict:
        outcome = self.outcome
        return _verdict(result, outcome, self.found + self.ending.get(outcome, ""), self.margin)


def _unless_passed(ending: str) -> dict[Outcome, str]:
    return {"inconclusive": ending, "failed": ending}


def effect_size(result: LayerResult, criteria: Criteria) -> Verdict:
    """Passed if the whole interval of d lies above the threshold."""
    s, threshold = result.separation, criteria.d_threshold
    if math.isnan(s.d):
        return _verdict(
            result, "failed", "d is not defined: both conditions have the same activations"
        )
    needed = pairs_to_decide(s, threshold)
    more = "" if math.isinf(needed) else f"; about {needed:.0f} pairs would decide it"
    return _Claim(
        _d_found(s),
        s.d_interval,
        {
            "passed": f" lies above {threshold:g}",
            "inconclusive": f" straddles the threshold {threshold:g}{more}",
            "failed": f" lies below the threshold {threshold:g}: on held-out pairs this layer "
            f"does not separate the two conditions that far. {_next(result)}",
        },
        threshold,
        s.d_interval_se,
    ).judge(result)


def above_chance(result: LayerResult, criteria: Criteria) -> Verdict:
    """Passed if the whole interval of the accuracy lies above one half."""
    s = result.separation
    return _Claim(
        f"accuracy = {s.accuracy:.2f} {interval(s.accuracy_interval)}",
        s.accuracy_interval,
        {
            "passed": " lies above chance",
            "inconclusive": f" includes chance, {CHANCE}: a linear boundary can't be told from a "
            f"coin. {_next(result)}",
            "failed": f" lies below chance. {_next(result)}",
        },
        CHANCE,
    ).judge(result)


def significant(result: LayerResult, criteria: Criteria) -> Verdict:
    """Passed if the family-wise p-value over the run's layers and sites is below alpha."""
    s = result.separation
    found = (
        f"family-wise p = {p_value(s.p_adjusted)}{error(s.p_adjusted_se)} "
        f"(this layer alone {p_value(s.p_value)}{error(s.p_se)})"
    )
    margin = _errors(s.p_adjusted - criteria.alpha, s.p_adjusted_se)
    if s.p_adjusted < criteria.alpha:
        return _verdict(result, "passed", f"{found} is below {criteria.alpha:g}", margin)
    return _verdict(
        result,
        "failed",
        f"{found} is not below {criteria.alpha:g}: with the labels of whole pairs flipped at "
        f"random, the most separated layer is this far apart just as easily. {_next(result)}",
        margin,
    )


def shuffled_labels(result: LayerResult) -> Verdict:
    """Passed if d averages 0 when the labels of whole pairs are flipped at random."""
    s = result.separation
    bound = NULL_BIAS + 4 * s.null_mean_se
    found = f"with shuffled labels d averages {s.null_mean:.3f} ± {s.null_mean_se:.3f}"
    margin = _errors(abs(s.null_mean) - bound, s.null_mean_se)
    if abs(s.null_mean) <= bound:
        return _verdict(result, "passed", found, margin)
    return _verdict(
        result,
        "failed",
        f"{found}, which is not within {bound:.3f} of 0: the estimate is biased on these pairs; "
        "look for pairs that share prompts or responses",
        margin,
    )


def crosses_categories(result: LayerResult) -> Verdict:
    """Passed if the direction that the other categories give separates each category: every
    interval of d above 0 (an intersection–union test, Berger 1982, needs no correction)."""
    if not result.transfer:
        return _verdict(result, "inconclusive", "no category has enough pairs to be left out")
    # A d that isn't defined is the worst: `min` alone would pass over a NaN.
    worst = min(
        result.transfer,
        key=lambda transfer: -math.inf if math.isnan(transfer.d) else transfer.d_interval[0],
    )
    return _Claim(
        f"weakest category {worst.category}: d = {decimal(worst.d)} {interval(worst.d_interval)} "
        f"on its {worst.n_pairs} pairs, along the direction of the other categories",
        worst.d_interval,
        _unless_passed(
            "; its interval is not above 0, so the direction is not shown to be one for all "
            "categories. Look next at the category × layer map in the report"
        ),
    ).judge(result)


def companion_separates(result: LayerResult, position: str, criteria: Criteria) -> Verdict:
    """Passed if d at other positions has its interval above 0 and family-wise p below alpha."""
    s = result.companions[position]
    return _Claim(
        f"at positions {position!r} {_d_found(s)}, family-wise "
        f"p = {p_value(s.p_adjusted)}{error(s.p_adjusted_se)}",
        s.d_interval,
        _unless_passed(
            ": with the words held constant nothing is shown to separate here, while d is "
            f"{decimal(result.separation.d)} where the words may differ"
        ),
        interval_se=s.d_interval_se,
        p=s.p_adjusted,
        alpha=criteria.alpha,
        p_se=s.p_adjusted_se,
    ).judge(result)


def beyond_text(result: LayerResult, name: str, texts: Sequence[TextBaseline]) -> Verdict:
    """Passed if the layer's d exceeds that of a text alone, with its whole interval."""
    text = next((text for text in texts if text.name == name), None)
    if text is None:
        return _verdict(result, "passed", f"{name} is the same in both conditions of every pair")
    change = text.beyond[result.layer, result.site]
    return _Claim(
        f"d = {decimal(change.d_b)} is {decimal(change.difference)} {interval(change.interval)} "
        f"beyond what {text.description} gives (d = {decimal(change.d_a)})",
        change.interval,
        _unless_passed(": the text alone may explain the separation"),
    ).judge(result)


def beyond_base(result: LayerResult) -> Verdict:
    """Passed if d is larger than the base model's, with the whole interval of the change.

    Raises:
        ValueError: the analysis was made without a base model.
    """
    change = result.beyond_base
    if change is None:
        raise ValueError("the analysis was made without a base model")
    return _Claim(
        f"d = {decimal(change.d_b)} is {decimal(change.difference)} {interval(change.interval)} "
        f"beyond the base model's {decimal(change.d_a)}",
        change.interval,
        _unless_passed(": training is not shown to have added to it"),
    ).judge(result)


def uses_direction(result: LayerResult, effect: Effect, criteria: Criteria) -> Verdict:
    """Passed if the intervention moves the model's preference between the two answers the way
    that the direction says, further than random directions do: with the whole interval over
    pairs, and by its rank among them below alpha. The interval alone says little where all pairs
    have like answers: any one direction then moves all of them the same way."""
    low, high = effect.shift_interval
    return _Claim(
        f"{_INTERVENTIONS[effect.kind]} changes log P(artifact answer) − log P(natural answer) by "
        f"{effect.own_shift:+.3f} nats per token, {effect.shift:+.3f} [{low:+.3f}, {high:+.3f}] "
        f"beyond {effect.n_random} random directions (rank p = {p_value(effect.p_value)})",
        # The direction says more of the artifact answer where it is added, less where ablated.
        (low, high) if effect.kind == "add" else (-high, -low),
        _unless_passed(": the model is not shown to use this direction here"),
        p=effect.p_value,
        alpha=criteria.alpha,
    ).judge(result)


_INTERVENTIONS = {
    "add": "adding the direction to natural prompts",
    "ablate": "ablating it from artifact prompts",
}


def unchanged(compared: LayerComparison) -> Verdict:
    """Passed if d is equivalent to the baseline's: its change lies within the margin."""
    change = compared.comparison
    found = (
        f"layer {compared.layer}, {compared.site}: d went from {decimal(change.d_a)} to "
        f"{decimal(change.d_b)}, a change of {change.difference:+.2f} {interval(change.interval)}"
    )
    if compared.drift is not None:
        found += f", direction cosine {decimal(compared.drift.cosine)}"
    pairs = f" (n = {change.n_pairs} pairs)"
    if change.verdict == "equivalent":
        within = "detectable, but within" if change.detectable else "within"
        return Verdict("passed", f"{found}: {within} ±{change.margin:g}{pairs}")
    if change.verdict == "changed":
        how = "stronger" if change.difference > 0 else "weaker"
        return Verdict("failed", f"{found}: the separation is {how} than in the baseline{pairs}")
    return Verdict(
        "inconclusive",
        f"{found}: neither within ±{change.margin:g} nor excluding 0; more pairs, or a wider "
        f"--artifact-margin if that is what matters, would decide it{pairs}",
    )


CRITERIA = {"d": effect_size, "accuracy": above_chance, "p": significant}


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """ "failed" before "inconclusive" before "passed"; at least one must be given."""
    return max(outcomes, key=("passed", "inconclusive", "failed").index)


def overall(result: LayerResult, criteria: Criteria) -> Outcome:
    """The worst outcome over all criteria."""
    return worst(judge(result, criteria).outcome for judge in CRITERIA.values())


def _d_found(s: Separation) -> str:
    ends = f" (ends{found})" if (found := error(s.d_interval_se)) else ""
    return f"d = {decimal(s.d)} {interval(s.d_interval)}{ends}"


def _errors(distance: float, se: float) -> float:
    """A distance in Monte Carlo errors; infinite where there is no error."""
    return abs(distance) / se if se > 0 else math.inf


def _verdict(
    result: LayerResult, outcome: Outcome, found: str, margin: float = math.inf
) -> Verdict:
    said = f"layer {result.layer}, {result.site}: {found} (n = {result.separation.n_pairs} pairs)"
    verdict = Verdict(outcome, said, margin)
    return replace(verdict, explanation=f"{said}. {_SEED_MATTERS}") if verdict.close else verdict


def _next(result: LayerResult) -> str:
    """What a person would look at next."""
    return (
        "Look next at the responses in the report: do the two conditions read differently at "
        f"all? (In-sample d = {decimal(result.in_sample.d)} here, which noise alone can give.)"
    )
