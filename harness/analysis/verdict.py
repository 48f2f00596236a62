"""The criteria of the checks, and what to say about a layer that meets or misses one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from harness.analysis.causality import Effect
from harness.analysis.comparison import LayerComparison
from harness.analysis.controls import TextBaseline
from harness.analysis.layers import LayerResult
from harness.settings import Criteria
from harness.stats import Separation, pairs_to_decide

Outcome = Literal["passed", "failed", "inconclusive"]
CHANCE = 0.5
# Bias of d under shuffled labels that is put up with, beyond Monte Carlo error.
NULL_BIAS = 0.03
# Monte Carlo errors from a threshold within which another seed could decide otherwise.
CLOSE = 3
_SEED_MATTERS = (
    f"Within {CLOSE} Monte Carlo errors of the threshold: another --stats-seed could give another "
    "verdict; more --replicates settle it"
)


class CheckFailedError(AssertionError):
    """A layer missed a criterion; the message is for the person who reads the report."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of one criterion for one layer, and why, with its numbers.

    `margin` is the distance from the nearest threshold in Monte Carlo errors; infinite where
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


def effect_size(result: LayerResult, criteria: Criteria) -> Verdict:
    """Passed if the whole interval of d lies above the threshold."""
    s, threshold = result.separation, criteria.d_threshold
    if math.isnan(s.d):
        return _verdict(
            result, "failed", "d is not defined: both conditions have the same activations"
        )
    found = _d_found(s)
    outcome = _against(s.d_interval, threshold)
    margin = _ends_margin(s, threshold)
    if outcome == "passed":
        return _verdict(result, outcome, f"{found} lies above {threshold:g}", margin)
    if outcome == "inconclusive":
        needed = pairs_to_decide(s, threshold)
        more = "" if math.isinf(needed) else f"; about {needed:.0f} pairs would decide it"
        return _verdict(
            result, outcome, f"{found} straddles the threshold {threshold:g}{more}", margin
        )
    return _verdict(
        result,
        outcome,
        f"{found} lies below the threshold {threshold:g}: on held-out pairs this layer does not "
        f"separate the two conditions that far. {_next(result)}",
        margin,
    )


def above_chance(result: LayerResult, criteria: Criteria) -> Verdict:
    """Passed if the whole interval of the accuracy lies above one half."""
    s = result.separation
    found = f"accuracy = {s.accuracy:.2f} {interval(s.accuracy_interval)}"
    outcome = _against(s.accuracy_interval, CHANCE)
    if outcome == "passed":
        return _verdict(result, outcome, f"{found} lies above chance")
    if outcome == "inconclusive":
        return _verdict(
            result,
            outcome,
            f"{found} includes chance, {CHANCE}: a linear boundary can't be told from a coin. "
            f"{_next(result)}",
        )
    return _verdict(result, outcome, f"{found} lies below chance. {_next(result)}")


def significant(result: LayerResult, criteria: Criteria) -> Verdict:
    """Passed if the family-wise p-value over the run's layers and sites is below alpha."""
    s = result.separation
    found = (
        f"family-wise p = {p_value(s.p_adjusted)}{error(s.p_adjusted_se)} "
        f"(this layer alone {p_value(s.p_value)}{error(s.p_se)})"
    )
    margin = _margin(s.p_adjusted - criteria.alpha, s.p_adjusted_se)
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
    margin = _margin(abs(s.null_mean) - bound, s.null_mean_se)
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
    found = (
        f"weakest category {worst.category}: d = {decimal(worst.d)} {interval(worst.d_interval)} "
        f"on its {worst.n_pairs} pairs, along the direction of the other categories"
    )
    outcome = _against(worst.d_interval, 0.0)
    if outcome == "passed":
        return _verdict(result, outcome, found)
    return _verdict(
        result,
        outcome,
        f"{found}; its interval is not above 0, so the direction is not shown to be one for all "
        "categories. Look next at the category × layer map in the report",
    )


def companion_separates(result: LayerResult, position: str, criteria: Criteria) -> Verdict:
    """Passed if d at other positions has its interval above 0 and family-wise p below alpha."""
    s = result.companions[position]
    found = (
        f"at positions {position!r} {_d_found(s)}, family-wise "
        f"p = {p_value(s.p_adjusted)}{error(s.p_adjusted_se)}"
    )
    outcome = _against(s.d_interval, 0.0)
    significance = _margin(s.p_adjusted - criteria.alpha, s.p_adjusted_se)
    lower, upper = (_margin(end, s.d_interval_se) for end in s.d_interval)
    # What could turn this outcome into another one.
    if outcome == "passed":
        margin = min(lower, significance) if s.p_adjusted < criteria.alpha else significance
    elif outcome == "inconclusive" and s.p_adjusted >= criteria.alpha:
        margin = min(upper, max(lower, significance))
    else:
        margin = min(lower, upper)
    if outcome == "passed" and s.p_adjusted < criteria.alpha:
        return _verdict(result, "passed", found, margin)
    return _verdict(
        result,
        "failed" if outcome == "failed" else "inconclusive",
        f"{found}: with the words held constant nothing is shown to separate here, while d is "
        f"{decimal(result.separation.d)} where the words may differ",
        margin,
    )


def beyond_text(result: LayerResult, name: str, texts: Sequence[TextBaseline]) -> Verdict:
    """Passed if the layer's d exceeds that of a text alone, with its whole interval."""
    text = next((text for text in texts if text.name == name), None)
    if text is None:
        return _verdict(result, "passed", f"{name} is the same in both conditions of every pair")
    change = text.beyond[result.layer, result.site]
    found = (
        f"d = {decimal(change.d_b)} is {decimal(change.difference)} {interval(change.interval)} "
        f"beyond what {text.description} gives (d = {decimal(change.d_a)})"
    )
    outcome = _against(change.interval, 0.0)
    if outcome == "passed":
        return _verdict(result, outcome, found)
    return _verdict(result, outcome, f"{found}: the text alone may explain the separation")


def beyond_base(result: LayerResult) -> Verdict:
    """Passed if d is larger than the base model's, with the whole interval of the change."""
    change = result.beyond_base
    if change is None:
        raise ValueError("the analysis was made without a base model")
    found = (
        f"d = {decimal(change.d_b)} is {decimal(change.difference)} {interval(change.interval)} "
        f"beyond the base model's {decimal(change.d_a)}"
    )
    outcome = _against(change.interval, 0.0)
    if outcome == "passed":
        return _verdict(result, outcome, found)
    return _verdict(result, outcome, f"{found}: training is not shown to have added to it")


def uses_direction(result: LayerResult, effect: Effect, criteria: Criteria) -> Verdict:
    """Passed if the intervention moves the model's preference between the two answers the way
    that the direction says, further than random directions do: with the whole interval over
    pairs, and by its rank among them below alpha. The interval alone says little where all pairs
    have like answers: any one direction then moves all of them the same way."""
    low, high = effect.shift_interval
    found = (
        f"{_INTERVENTIONS[effect.kind]} changes log P(artifact answer) − log P(natural answer) by "
        f"{effect.own_shift:+.3f} nats per token, {effect.shift:+.3f} [{low:+.3f}, {high:+.3f}] "
        f"beyond {effect.n_random} random directions (rank p = {p_value(effect.p_value)})"
    )
    sign = 1 if effect.kind == "add" else -1
    outcome = _against((min(sign * low, sign * high), max(sign * low, sign * high)), 0.0)
    if outcome == "passed" and effect.p_value < criteria.alpha:
        return _verdict(result, outcome, found)
    return _verdict(
        result,
        "failed" if outcome == "failed" else "inconclusive",
        f"{found}: the model is not shown to use this direction here",
    )


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


def overall(result: LayerResult, criteria: Criteria) -> Outcome:
    """The worst outcome over all criteria."""
    outcomes = [judge(result, criteria).outcome for judge in CRITERIA.values()]
    return max(outcomes, key=("passed", "inconclusive", "failed").index)


def interval(bounds: tuple[float, float]) -> str:
    return f"[{decimal(bounds[0])}, {decimal(bounds[1])}]"


def decimal(value: float) -> str:
    """Two decimals, and no "-0.00"."""
    return "0.00" if abs(value) < 0.005 else f"{value:.2f}"


def p_value(p: float) -> str:
    return f"{p:.4f}" if p >= 0.0001 else f"{p:.1e}"


def error(se: float) -> str:
    """A Monte Carlo error behind its figure; nothing where there is none or it isn't known."""
    return f" ± {se:.1g}" if se > 0 else ""


def _d_found(s: Separation) -> str:
    ends = f" (ends{found})" if (found := error(s.d_interval_se)) else ""
    return f"d = {decimal(s.d)} {interval(s.d_interval)}{ends}"


def _margin(distance: float, se: float) -> float:
    return abs(distance) / se if se > 0 else math.inf


def _ends_margin(s: Separation, threshold: float) -> float:
    """Of the nearer end of d's interval: either can decide between two outcomes."""
    return min(_margin(end - threshold, s.d_interval_se) for end in s.d_interval)


def _against(bounds: tuple[float, float], threshold: float) -> Outcome:
    if bounds[0] > threshold:
        return "passed"
    return "inconclusive" if bounds[1] > threshold else "failed"


def _verdict(
    result: LayerResult, outcome: Outcome, found: str, margin: float = math.inf
) -> Verdict:
    said = f"layer {result.layer}, {result.site}: {found} (n = {result.separation.n_pairs} pairs)"
    verdict = Verdict(outcome, said, margin)
    return replace(verdict, explanation=f"{said}. {_SEED_MATTERS}") if verdict.close else verdict


def _next(result: LayerResult) -> str:
    """What a person would look at next."""
    seed = result.in_sample
    return (
        "Look next at the responses in the report: do the two conditions read differently at "
        f"all? (In-sample d = {decimal(seed.d)} here, which noise alone can give.)"
    )
