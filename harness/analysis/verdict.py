"""The outcome of a criterion, and why."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from harness.defaults import UNSAVED

Outcome = Literal["passed", "failed", "inconclusive", "undecidable"]
# Monte Carlo errors from a threshold within which another seed could decide otherwise.
CLOSE = 3


class CheckFailedError(AssertionError):
    """A layer missed a criterion; the message is for the person who reads the report.

    Attributes:
        verdict: the verdict, which wasn't "passed".
    """

    def __init__(self, verdict: "Verdict"):
        super().__init__(verdict.explanation)
        self.verdict = verdict


@dataclass(frozen=True)
class Verdict:
    """The outcome of one criterion for one layer, and why.

    Attributes:
        outcome: "passed", "failed", "inconclusive" where neither was shown, or "undecidable" where
            what would decide it isn't there.
        explanation: layer, estimate, interval, criterion and number of pairs, in words.
        distance: from the nearest threshold, in Monte Carlo errors; infinite where nothing was
            drawn at random, or its error isn't known.
        figure: what decides, by name; not in the results file, which has every figure.
        missed: what it would have had to be, in a few words; empty where passed.
    """

    outcome: Outcome
    explanation: str
    distance: float = math.inf
    figure: tuple[str, float] | None = field(default=None, metadata=UNSAVED)
    missed: str = field(default="", metadata=UNSAVED)

    @property
    def decidable(self) -> bool:
        return self.outcome != "undecidable"

    @property
    def close(self) -> bool:
        """Whether another seed could give another outcome."""
        return self.distance <= CLOSE

    def require(self) -> None:
        """Raise `CheckFailedError`, unless passed."""
        if self.outcome != "passed":
            raise CheckFailedError(self)


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """ "failed" before "inconclusive" before "undecidable" before "passed"; at least one must be
    given."""
    return max(outcomes, key=("passed", "undecidable", "inconclusive", "failed").index)
