"""The report: one HTML page that holds all it needs, to decide from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.causality import Effect
from harness.analysis.claims import CLAIMS, OUTCOMES, said
from harness.analysis.findings import Findings
from harness.analysis.history import OverTime
from harness.analysis.judges import sample_size, uses_direction
from harness.analysis.layers import layer_id
from harness.analysis.verdict import Outcome
from harness.data.store import FORCED
from harness.report import checks, sentences
from harness.report.content import MOST_PAIRS, as_script, page_content
from harness.report.history import history_section
from harness.report.tables import COLUMNS, Column
from harness.report.templating import rendered

_TABLE = (
    "d", "accuracy", "p", "same_words", "beyond_base", "beyond_base_same_words", "agreement",
    "in_sample_d", "in_sample_accuracy", "seed_ratio",
)  # fmt: skip
#: How an outcome is drawn; pytest's own for checks that aren't ours, too. None of it says that one
#: of them is good.
SYMBOLS: Mapping[str | None, str] = {
    "passed": "●", "failed": "○", "inconclusive": "◐", "undecidable": "·", "skipped": "·",
    None: "–",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """What was found of one layer: an outcome and the words for it."""

    outcome: str | None
    words: str


@dataclass(frozen=True)
class Row:
    """A line of a matrix over layers: `cells` by layer id; `about` is shown when pointed at."""

    title: str
    about: str
    cells: Mapping[str, Cell]


def page_html(
    found: Findings,
    reported: Sequence[checks.Reported] = (),
    over_time: OverTime | None = None,
) -> str:
    """The report as a page of its own; every text in it is escaped.

    Args:
        reported: checks that pytest ran and that aren't the harness' own.
        over_time: saved runs up to this one, for a section of their own.
    """
    analysis, compared = found.analysis, found.comparison
    effects = _effects(found)
    by_site: dict[str, list[tuple[int, str]]] = {}
    for layer, site in found:
        by_site.setdefault(site, []).append((layer, layer_id(layer, site)))
    return rendered(
        "page.html",
        name=sentences.model_name(analysis),
        facts=list(_facts(found)),
        headline=sentences.headline(found),
        not_asked=sentences.not_asked_sentence(found),
        sites=by_site,
        ladder=_ladder(found),
        matrix_of_checks=[*_matrix(found), *_reported(reported)],
        groups=[*checks.groups(found), *checks.groups_of(reported)],
        symbols=SYMBOLS,
        outcomes=OUTCOMES,
        text=sentences.text_sentence(found),
        noise=sentences.noise_sentence(found),
        power=sentences.power_sentence(found),
        close=sentences.close_sentence(found),
        figures=list(_figures(found)),
        causal=effects,
        causal_headline=_causal_headline(effects),
        compared=compared,
        comparison=compared and sentences.comparison_headline(compared),
        over_time=over_time and history_section(over_time),
        behaviour_sentence=sentences.behaviour_sentence(found),
        openings_sentence=sentences.openings_sentence(found),
        columns=_columns(found),
        claims=CLAIMS,
        said={key: list(found.ladder(key).verdicts.items()) for key in found},
        word=said,
        most_pairs=MOST_PAIRS,
        content=as_script(page_content(found)),
        analysis=analysis,
        forced=any(r.artifact.finish_reason == FORCED for r in analysis.responses),
        criteria=found.criteria,
        provenance=_flat(analysis.provenance),
    )


def _facts(found: Findings) -> Iterator[tuple[str, str]]:
    """What was run, in a few words: label and value."""
    facts = found.analysis.provenance
    first = next(iter(found.values())).separation

    def known(name: str, fingerprint: str) -> str:
        mark = facts.get(fingerprint)
        return f"{facts[name]} ({str(mark)[:8]})" if mark else str(facts[name])

    for label, name, fingerprint in (
        ("model", "model", "model_fingerprint"),
        ("revision", "revision", ""),
        ("adapter", "adapter", "adapter_fingerprint"),
        ("base model", "base_model", "base_fingerprint"),
        ("activations", "activations", ""),
        ("pairs", "pairs_file", "pairs_fingerprint"),
    ):
        if facts.get(name):
            size = f", {sample_size(first)}" if label == "pairs" else ""
            yield label, known(name, fingerprint) + size
    if "model" in facts and not facts.get("base_model"):
        yield "base model", "none was asked"
    collection = facts.get("collection", {})
    if "positions" in collection:
        tokens = collection.get("max_tokens")
        yield "positions", f"{collection['positions']}, {tokens} tokens at most"
    if facts.get("date"):
        yield "date", str(facts["date"]).replace("T", " ").replace("+00:00", " UTC")


def _ladder(found: Findings) -> list[Row]:
    return [
        Row(
            word if claim == "separates" else words,
            f"rules out {rules_out}",
            {
                layer_id(*key): Cell(
                    verdict.outcome if (verdict := found.ladder(key).verdicts[claim]) else None,
                    said(claim, verdict.outcome if verdict else None),
                )
                for key in found
            },
        )
        for claim, (word, words, rules_out) in CLAIMS.items()
    ]


def _matrix(found: Findings) -> list[Row]:
    """The harness' own checks, layer by layer."""
    return [
        Row(
            name,
            "",
            {
                layer_id(*key): Cell(verdict.outcome if verdict else None, checks.words(verdict))
                for key, verdict in verdicts.items()
            },
        )
        for name, verdicts in checks.outcomes(found).items()
    ]


def _reported(reported: Sequence[checks.Reported]) -> list[Row]:
    """Others that pytest ran, in its words."""
    return [
        Row(name, "", {layer: Cell(r.outcome, r.outcome) for layer, r in by_layer.items()})
        for name, by_layer in checks.by_layer(reported).items()
        if set(by_layer) != {""}
    ]


def _effects(found: Findings) -> list[tuple[str, Effect, Outcome]]:
    """Interventions with the id of their layer and their verdict."""
    return [
        (layer_id(*key), effect, uses_direction(found[key], effect, found.criteria).outcome)
        for key, effects in found.interventions.items()
        for effect in effects
    ]


def _causal_headline(effects: Sequence[tuple[str, Effect, Outcome]]) -> str:
    shown = [f"{id} ({effect.kind})" for id, effect, outcome in effects if outcome == "passed"]
    if shown:
        return f"The model uses the direction at {', '.join(shown)}."
    return "The model is not shown to use the direction where it was tried."


def _columns(found: Findings) -> list[Column]:
    """The table's columns: all but those that nothing was measured for."""
    return [
        COLUMNS[name]
        for name in _TABLE
        if any(COLUMNS[name].value(result) is not None for result in found.values())
    ]


def _figures(found: Findings) -> Iterator[tuple[str, str, str]]:
    """Figures over all layers: name, title, and the sentence that says what is shown."""
    results = list(found.values())
    level = f"{found.analysis.settings.level:.0%}"
    yield (
        "effect",
        "Effect size",
        f"Held-out d with {level} intervals; filled where the layer separates. Grey: shuffled "
        "labels; crosses: in-sample, for comparison.",
    )
    yield (
        "accuracy",
        "Accuracy of a linear boundary",
        f"Share of prompts on their side, with {level} intervals; filled where the layer "
        "separates.",
    )
    if any(result.companions for result in results):
        yield (
            "positions",
            "Is it the words, or the model?",
            "Where each prompt has its own answer, the tokens that are read are other ones, and "
            "can separate the conditions by themselves. The other curves hold them constant."
            f"{sentences.same_words_sentence(found)}",
        )
    if any(result.transfer for result in results):
        yield (
            "categories",
            "One direction for all categories?",
            "Each category is scored along the direction that the other categories give."
            f"{sentences.weakest_category_sentence(found)}",
        )
    if any(result.steps for result in results):
        yield (
            "steps",
            "At which token?",
            "Each token is scored along the direction of whole responses, refitted without its own "
            f"pair. Dots: family-wise p < {found.criteria.alpha:g} over the layer's tokens.",
        )
    if any(result.follows for result in results):
        yield (
            "behaviour",
            "Do the scores go with what the model does?",
            "The prompt's last token, before anything is written: AUROC is the probability that "
            "artifact prompts that were then evaded lie further along the direction than "
            "answered ones of the same category. Lines reach to the lower bound; filled where it "
            "holds; 0.5 is no more than chance.",
        )


def _flat(facts: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as rows of a dotted name and a value."""
    if not isinstance(facts, dict):
        return [(prefix, "–" if facts is None else str(facts))]
    return [
        row
        for key, value in facts.items()
        for row in _flat(value, f"{prefix}.{key}" if prefix else str(key))
    ]
