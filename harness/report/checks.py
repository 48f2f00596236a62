"""The checks as the page shows them: layer by layer, and like failures told once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.analysis.claims import OUTCOMES
from harness.analysis.findings import Findings
from harness.analysis.gate import same_direction, unchanged
from harness.analysis.judges import (
    CRITERIA,
    alike_pairs,
    beyond_base,
    beyond_words,
    crosses_categories,
    follows_behaviour,
    uses_direction,
)
from harness.analysis.layers import layer_id
from harness.analysis.verdict import Verdict
from harness.analysis.words import span
from harness.data.activations import LayerSite


@dataclass(frozen=True)
class Check:
    """One check of a layer.

    Attributes:
        name: the test's.
        judge: its verdict; None where it wasn't asked.
    """

    name: str
    judge: Callable[[Findings, LayerSite], Verdict | None]


@dataclass(frozen=True)
class Reported:
    """A check that pytest ran and that isn't one of ours.

    Attributes:
        name: the test's, with its parameters but for the layer.
        layer: id of the layer; empty where it was about none.
        outcome: pytest's: "passed", "failed" or "skipped".
        said: why it failed or was skipped.
    """

    name: str
    layer: str
    outcome: str
    said: str


@dataclass(frozen=True)
class Group:
    """The layers of one check that came out alike.

    Attributes:
        check, words: the check's name and what it found.
        outcome: the same as a symbol's name.
        layers: their ids.
        of: layers that were asked.
        span: the smallest and the largest d among them, in words; empty where d isn't theirs.
        explanation: of one of them, the first.
    """

    check: str
    words: str
    outcome: str
    layers: tuple[str, ...]
    of: int
    span: str
    explanation: str


def _criterion(name: str) -> Callable[[Findings, LayerSite], Verdict | None]:
    return lambda found, key: CRITERIA[name](found[key], found.criteria)


def _effect(number: int) -> Callable[[Findings, LayerSite], Verdict | None]:
    def judge(found: Findings, key: LayerSite) -> Verdict | None:
        effects = found.interventions.get(key)
        return effects and uses_direction(found[key], effects[number], found.criteria)

    return judge


def _compared(found: Findings, key: LayerSite) -> Verdict | None:
    return None if found.comparison is None else unchanged(found.comparison.layers[key])


def _direction(found: Findings, key: LayerSite) -> Verdict | None:
    layer = None if found.comparison is None else found.comparison.layers[key]
    return same_direction(layer) if layer and layer.separated else None


#: Those that come with the harness, and are about one layer.
CHECKS = (
    Check("test_effect_size", _criterion("d")),
    Check("test_accuracy", _criterion("accuracy")),
    Check("test_significance", _criterion("p")),
    Check(
        "test_alike_pairs",
        lambda found, key: alike_pairs(found[key], found.analysis, found.criteria),
    ),
    Check(
        "test_category_transfer", lambda found, key: crosses_categories(found[key], found.criteria)
    ),
    Check("test_same_words", lambda found, key: beyond_words(found[key], found.criteria)),
    Check(
        "test_beyond_base",
        lambda found, key: beyond_base(found[key]) if found[key].beyond_base else None,
    ),
    Check(
        "test_behaviour",
        lambda found, key: follows_behaviour(
            found[key], found.analysis.behaviour, found.criteria
        ),
    ),
    Check("test_addition", _effect(0)),
    Check("test_ablation", _effect(1)),
    Check("test_unchanged", _compared),
    Check("test_same_direction", _direction),
)  # fmt: skip


def outcomes(found: Findings) -> dict[str, dict[LayerSite, Verdict | None]]:
    """Each check that was asked anywhere, by its name, with its verdicts."""
    judged = {c.name: {key: c.judge(found, key) for key in found} for c in CHECKS}
    return {name: verdicts for name, verdicts in judged.items() if any(verdicts.values())}


def groups(found: Findings) -> list[Group]:
    """What each check found, the layers that came out alike together; those that hold come last."""
    grouped: list[Group] = []
    for name, verdicts in outcomes(found).items():
        asked = {key: verdict for key, verdict in verdicts.items() if verdict is not None}
        for outcome in ("failed", "inconclusive", "undecidable", "passed"):
            alike = {k: v for k, v in asked.items() if v.outcome == outcome}
            if alike:
                first = next(iter(alike.values()))
                grouped.append(
                    Group(
                        name,
                        words(first),
                        first.outcome,
                        tuple(layer_id(*key) for key in alike),
                        len(asked),
                        _decided(alike.values()),
                        first.explanation,
                    )
                )
    return sorted(grouped, key=lambda group: group.outcome == "passed")


def _decided(verdicts: Iterable[Verdict]) -> str:
    """The figures that decided, all of one name."""
    figures = [verdict.figure for verdict in verdicts if verdict.figure is not None]
    return span(figures[0][0], [value for _, value in figures]) if figures else ""


def groups_of(reported: Sequence[Reported]) -> list[Group]:
    """The same of checks that pytest ran, in its words."""
    grouped: dict[tuple[str, str], list[Reported]] = {}
    for report in reported:
        grouped.setdefault((report.name, report.outcome), []).append(report)
    count = {name: len(layers) for name, layers in by_layer(reported).items()}
    return [
        Group(
            name, outcome, outcome, tuple(r.layer for r in alike if r.layer), count[name], "",
            alike[0].said,
        )
        for (name, outcome), alike in grouped.items()
    ]  # fmt: skip


def by_layer(reported: Sequence[Reported]) -> Mapping[str, Mapping[str, Reported]]:
    """Checks that pytest ran, by name and layer."""
    found: dict[str, dict[str, Reported]] = {}
    for report in reported:
        found.setdefault(report.name, {})[report.layer] = report
    return found


def words(verdict: Verdict | None) -> str:
    """What a check found, in a word or two."""
    return OUTCOMES[None if verdict is None else verdict.outcome]
