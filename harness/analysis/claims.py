"""The ladder of claims: what may be said of a layer, and what it rules out.

A rung holds only where its check passed and the layer separates: the others are about what does.
One whose input wasn't given is *not asked*, and one that can't be decided for want of input is
*undecidable*; neither is ever a pass, or a miss.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from harness.analysis.causality import Effect
from harness.analysis.judges import (
    CRITERIA,
    alike_pairs,
    beyond_base,
    beyond_words,
    crosses_categories,
    follows_behaviour,
    uses_direction,
)
from harness.analysis.layers import Analysis, LayerResult
from harness.analysis.verdict import Outcome, Verdict, worst
from harness.settings import Criteria

Claim = Literal[
    "separates", "across_categories", "beyond_words", "beyond_base", "follows_behaviour", "used"
]

#: Each claim in a word, in a few, and what it rules out.
CLAIMS: Mapping[Claim, tuple[str, str, str]] = {
    "separates": (
        "separates",
        "separate",
        "noise, picking the best of many layers, and a few requests in many wordings",
    ),
    "across_categories": (
        "categories", "across the categories", "a different direction in each category"
    ),
    "beyond_words": ("words", "beyond the words", "that only the written words differ"),
    "beyond_base": (
        "base", "beyond the base model", "that the topics differ, whatever the training"
    ),
    "follows_behaviour": (
        "behaviour", "where the model evades", "a signature where the model doesn't evade"
    ),
    "used": ("used", "used by the model", "a trace that the model doesn't read"),
}  # fmt: skip
#: How a verdict is marked; None stands for a claim that wasn't asked.
MARKS: Mapping[Outcome | None, str] = {
    "passed": "✓",
    "failed": "✗",
    "inconclusive": "?",
    "undecidable": "·",
    None: "–",
}

#: What was found, in words: whether it is good news is the reader's.
OUTCOMES: Mapping[Outcome | None, str] = {
    "passed": "holds",
    "failed": "doesn't",
    "inconclusive": "inconclusive",
    "undecidable": "can't be decided",
    None: "not asked",
}


def said(claim: Claim, outcome: Outcome | None) -> str:
    """What was found of a claim, in a word or two."""
    return "separates" if (claim, outcome) == ("separates", "passed") else OUTCOMES[outcome]


#: All of these have to hold before a layer is said to carry an alignment artifact.
NEEDED: tuple[Claim, ...] = ("separates", "across_categories", "beyond_words", "beyond_base")


@dataclass(frozen=True)
class Ladder:
    """A layer's claims with their verdicts; None where a claim wasn't asked."""

    verdicts: Mapping[Claim, Verdict | None]

    @property
    def outcome(self) -> Outcome:
        """Whether an alignment artifact was shown: "passed" where every claim that is needed holds
        and none that was asked misses, "failed" where one fails, else "inconclusive"."""
        decided = {c: v.outcome for c, v in self.verdicts.items() if v and v.decidable}
        complete = decided.keys() >= set(NEEDED)
        return worst([*decided.values(), "passed" if complete else "inconclusive"])

    def holds(self, claim: Claim) -> bool:
        verdict = self.verdicts[claim]
        return verdict is not None and verdict.outcome == "passed"


def ladder(
    result: LayerResult,
    criteria: Criteria,
    interventions: Iterable[Effect] = (),
    analysis: Analysis | None = None,
) -> Ladder:
    """What may be said of a layer.

    Args:
        interventions: addition and ablation there, where they were measured.
        analysis: the run's, for which pairs read alike and which responses evade.
    """
    separates = [judge(result, criteria) for judge in CRITERIA.values()]
    if analysis is not None:
        separates.append(alike_pairs(result, analysis, criteria))
    first = _worst(separates)
    used = [uses_direction(result, effect, criteria) for effect in interventions]
    others: Mapping[Claim, Verdict | None] = {
        "across_categories": crosses_categories(result, criteria),
        "beyond_words": beyond_words(result, criteria),
        "beyond_base": None if result.beyond_base is None else beyond_base(result),
        "follows_behaviour": follows_behaviour(
            result, None if analysis is None else analysis.behaviour, criteria
        ),
        "used": _worst(used) if used else None,
    }
    return Ladder({"separates": first, **{c: _above(first, v) for c, v in others.items()}})


def _above(first: Verdict, verdict: Verdict | None) -> Verdict | None:
    """A rung's verdict, given that of the first one: it can't be better."""
    if verdict is None or not verdict.decidable:
        return verdict
    if worst([first.outcome, verdict.outcome]) == verdict.outcome:
        return verdict
    return replace(
        verdict,
        outcome=first.outcome,
        explanation=f"{verdict.explanation}; but the layer is not shown to separate",
    )


def _worst(verdicts: list[Verdict]) -> Verdict:
    outcome = worst(verdict.outcome for verdict in verdicts)
    return next(verdict for verdict in verdicts if verdict.outcome == outcome)
