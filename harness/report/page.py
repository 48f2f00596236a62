"""What a person reads: the verdict in a sentence and the HTML summary."""

import base64
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from harness.analysis.behaviour import PairResponses
from harness.analysis.causality import Effect
from harness.analysis.claims import CLAIMS, MARKS
from harness.analysis.comparison import VersionComparison
from harness.analysis.findings import Findings
from harness.analysis.gate import gate
from harness.analysis.layers import layer_id
from harness.analysis.verdict import Outcome, uses_direction, worst
from harness.analysis.words import decimal, interval
from harness.report import panels, plots, sentences
from harness.report.tables import COLUMNS, Column

_TABLE = (
    "d", "accuracy", "p", "same_words", "beyond_base", "agreement", "in_sample_d",
    "in_sample_accuracy", "seed_ratio",
)  # fmt: skip


def summary_html(found: Findings, *, checks: bool = True) -> str:
    """The HTML that stands above the list of checks; every text in it is escaped.

    Without `checks` no such list follows.
    """
    environment = Environment(
        loader=PackageLoader("harness.report"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters.update(decimal=decimal, interval=interval)
    template = environment.get_template("summary.html")
    analysis, compared = found.analysis, found.comparison
    controls = list(_panels(found))
    effects = _effects(found)
    return template.render(
        headline=sentences.headline(found),
        verdict=worst(map(found.outcome, found)),
        claims=CLAIMS,
        marks=MARKS,
        ladders={key: found.ladder(key) for key in found},
        not_asked=sentences.not_asked_sentence(found),
        text=sentences.text_sentence(found),
        noise=sentences.noise_sentence(found),
        checks=checks,
        power=sentences.power_sentence(found),
        close=sentences.close_sentence(found),
        plot=_picture(plots.separation_figure(found)),
        panels=controls,
        causal=effects,
        causal_headline=_causal_headline(effects),
        compared=compared,
        comparison=list(_comparison_panels(compared)) if compared else [],
        comparison_verdict=compared and gate(compared, found.criteria),
        behaviour_sentence=sentences.behaviour_sentence(found),
        openings_sentence=sentences.openings_sentence(found),
        behaviour_picture=_behaviour_picture(found),
        columns=_columns(found),
        responses=_worst_first(found),
        analysis=analysis,
        criteria=found.criteria,
        provenance=_flat(analysis.provenance),
    )


def page_html(found: Findings) -> str:
    """The report as a page of its own, without pytest's checks."""
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        "<title>Alignment artifacts</title></head>\n<body>\n<h1>Alignment artifacts</h1>\n"
        f"{summary_html(found, checks=False)}</body>\n</html>\n"
    )


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


@dataclass(frozen=True)
class _Panel:
    """A figure of the report with the sentence that says what it shows."""

    id: str
    title: str
    text: str
    picture: str


def _picture(figure: Figure) -> str:
    """The figure as the address of an inline SVG image."""
    content = base64.b64encode(plots.to_bytes(figure, "svg")).decode()
    return f"data:image/svg+xml;base64,{content}"


def _behaviour_picture(found: Findings) -> str | None:
    """Scores against what the model did; None where that can't be told."""
    if not all(result.follows for result in found.values()):
        return None
    return _picture(panels.behaviour_figure(list(found.values())))


def _panels(found: Findings) -> Iterator[_Panel]:
    """Controls, as far as the analysis has them."""
    results = list(found.values())
    yield _Panel(
        "scores",
        "Where the prompts lie",
        "Held-out scores of all prompts, in standard deviations from the boundary. d is the "
        "distance between the two clouds of a layer.",
        _picture(plots.distribution_figure(found.analysis)),
    )
    if any(result.companions for result in results):
        forced = [r.companions["forced"].d for r in results if "forced" in r.companions]
        defined = [d for d in forced if not math.isnan(d)]
        same = (
            f" With the same words after both prompts, d is at most {decimal(max(defined))}."
            if defined
            else ""
        )
        yield _Panel(
            "words",
            "Is it the words, or the model?",
            "Where each prompt has its own answer, the tokens that are read are other ones, and "
            "can separate the conditions by themselves. The other curves hold them constant."
            f"{same}",
            _picture(panels.positions_figure(found.analysis)),
        )
    if all(result.transfer for result in results):
        weakest = min(
            (t for r in results for t in r.transfer),
            key=lambda t: -math.inf if math.isnan(t.d) else t.d,
        )
        yield _Panel(
            "categories",
            "One direction for all categories?",
            "Each category is scored along the direction that the other categories give. The "
            f"weakest is {weakest.category} with d = {decimal(weakest.d)} "
            f"{interval(weakest.d_interval)}.",
            _picture(panels.category_figure(found.analysis)),
        )
    if any(result.steps for result in results):
        yield _Panel(
            "tokens",
            "At which token?",
            "Each token is scored along the direction of whole responses, refitted without its "
            "own pair.",
            _picture(panels.step_figure(found.analysis, found.criteria.alpha)),
        )


def _comparison_panels(compared: VersionComparison) -> Iterator[_Panel]:
    yield _Panel(
        "baseline",
        "Against the baseline",
        sentences.comparison_headline(compared),
        _picture(panels.comparison_figure(compared)),
    )
    if compared.categories:
        yield _Panel(
            "baseline-categories",
            "Against the baseline, by category",
            "Change of each category's d along the direction of the other categories.",
            _picture(panels.category_change_figure(compared)),
        )


def _worst_first(found: Findings) -> list[tuple[PairResponses, str]]:
    """Responses with how far their pair is separated: the held-out score difference in standard
    deviations, averaged over layers and sites; pairs that weren't scored come last."""
    scores = map(plots.standardized_scores, found.values())
    gaps = [artifact - natural for natural, artifact in scores]
    mean = dict(zip(found.analysis.scored, np.mean(gaps, axis=0), strict=True))
    ordered = sorted(found.analysis.responses, key=lambda r: mean.get(r.pair, np.inf))
    return [(r, decimal(mean[r.pair]) if r.pair in mean else "–") for r in ordered]


def _flat(facts: object, prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as rows of a dotted name and a value."""
    if not isinstance(facts, dict):
        return [(prefix, "–" if facts is None else str(facts))]
    return [
        row
        for key, value in facts.items()
        for row in _flat(value, f"{prefix}.{key}" if prefix else str(key))
    ]
