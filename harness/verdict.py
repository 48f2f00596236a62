"""The criteria of the checks, and what to say about a layer that meets or misses one."""

import math
from dataclasses import dataclass
from typing import Literal

from harness.analysis import LayerResult
from harness.stats import pairs_to_decide

Outcome = Literal["passed", "failed", "inconclusive"]
CHANCE = 0.5


@dataclass(frozen=True)
class Criteria:
    """What a layer has to meet: d's interval above `d_threshold`, accuracy's interval above
    chance, family-wise p below `alpha`."""

    d_threshold: float = 0.8
    alpha: float = 0.05


class CheckFailedError(AssertionError):
    """A layer missed a criterion; the message is for the person who reads the report."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of one criterion for one layer, and why, with its numbers."""

    outcome: Outcome
    explanation: str

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
    found = f"d = {decimal(s.d)} {interval(s.d_interval)}"
    outcome = _against(s.d_interval, threshold)
    if outcome == "passed":
        return _verdict(result, outcome, f"{found} lies above {threshold:g}")
    if outcome == "inconclusive":
        needed = pairs_to_decide(s, threshold)
        more = "" if math.isinf(needed) else f"; about {needed:.0f} pairs would decide it"
        return _verdict(result, outcome, f"{found} straddles the threshold {threshold:g}{more}")
    return _verdict(
        result,
        outcome,
        f"{found} lies below the threshold {threshold:g}: on held-out pairs this layer does not "
        f"separate the two conditions that far. {_next(result)}",
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
    found = f"family-wise p = {p_value(s.p_adjusted)} (this layer alone {p_value(s.p_value)})"
    if s.p_adjusted < criteria.alpha:
        return _verdict(result, "passed", f"{found} is below {criteria.alpha:g}")
    return _verdict(
        result,
        "failed",
        f"{found} is not below {criteria.alpha:g}: with the labels of whole pairs flipped at "
        f"random, the most separated layer is this far apart just as easily. {_next(result)}",
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
    return f"{value + 0.0:.2f}" if abs(value) >= 0.005 else "0.00"


def p_value(p: float) -> str:
    return f"{p:.4f}" if p >= 0.0001 else f"{p:.1e}"


def _against(bounds: tuple[float, float], threshold: float) -> Outcome:
    if bounds[0] > threshold:
        return "passed"
    return "inconclusive" if bounds[1] > threshold else "failed"


def _verdict(result: LayerResult, outcome: Outcome, found: str) -> Verdict:
    place = f"layer {result.layer}, {result.site}"
    return Verdict(outcome, f"{place}: {found} (n = {result.separation.n_pairs} pairs)")


def _next(result: LayerResult) -> str:
    """What a person would look at next."""
    seed = result.in_sample
    return (
        "Look next at the responses in the report: do the two conditions read differently at "
        f"all? (In-sample d = {decimal(seed.d)} here, which noise alone can give.)"
    )
