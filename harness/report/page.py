"""What a person reads: the verdict in a sentence and the HTML summary."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from harness.analysis.causality import Effect
from harness.analysis.comparison import VersionComparison
from harness.analysis.layers import Analysis, PairResponses, layer_id
from harness.analysis.verdict import (
    CLOSE,
    CRITERIA,
    Outcome,
    overall,
    uses_direction,
)
from harness.analysis.words import decimal, interval
from harness.data.activations import LayerSite
from harness.report import panels, plots
from harness.report.tables import COLUMNS, Column
from harness.settings import Criteria
from harness.stats import smallest_detectable_effect

_TABLE = (
    "d", "accuracy", "p", "same_words", "beyond_base", "agreement", "in_sample_d",
    "in_sample_accuracy", "seed_ratio",
)  # fmt: skip

_MOST_NAMED = 8


def headline(analysis: Analysis, criteria: Criteria) -> str:
    """The run's verdict in one sentence with its numbers."""
    total = len(analysis)
    outcomes = [overall(result, criteria) for result in analysis.values()]
    passed = outcomes.count("passed")
    ds = [result.separation.d for result in analysis.values()]
    defined = [d for d in ds if not np.isnan(d)]
    if not defined:
        span = "is not defined"
    elif total == 1:
        span = f"is {decimal(defined[0])}"
    else:
        span = f"runs from {decimal(min(defined))} to {decimal(max(defined))}"
    pairs = next(iter(analysis.values())).separation.n_pairs
    what = "layer" if len({site for _, site in analysis}) == 1 else "layer and site"
    undecided = outcomes.count("inconclusive")
    tail = f", {undecided} inconclusive" if undecided else ""
    return (
        f"{passed} of {total} {what}{'s separate' if total > 1 else ' separates'} artifact from "
        "natural prompts beyond "
        f"d = {criteria.d_threshold:g}{tail}; held-out d {span} on {pairs} pairs."
    )


def power_sentence(analysis: Analysis, criteria: Criteria) -> str:
    """What this run could have seen, had it been there."""
    first = next(iter(analysis.values())).separation
    layers = first.effective_layers if math.isfinite(first.effective_layers) else len(analysis)
    found = smallest_detectable_effect(first.n_pairs, layers=layers, alpha=criteria.alpha)
    return (
        f"With {first.n_pairs} pairs and these layers, a true d of {decimal(found)} or more is "
        "told from 0 in 4 runs of 5."
    )


def close_sentence(analysis: Analysis, criteria: Criteria) -> str:
    """Which verdicts another seed could turn, in one sentence; empty if none."""
    close = [
        f"{result.id} ({', '.join(names)})"
        for result in analysis.values()
        if (names := [n for n, judge in CRITERIA.items() if judge(result, criteria).close])
    ]
    if not close:
        return ""
    shown = ", ".join(close[:_MOST_NAMED]) + (", …" if len(close) > _MOST_NAMED else "")
    return (
        f"Within {CLOSE} Monte Carlo errors of a threshold: {shown}. Another --stats-seed could "
        "give another verdict there; more --replicates settle it."
    )


def comparison_headline(compared: VersionComparison) -> str:
    """What changed from the baseline, in one sentence."""
    found = [layer.comparison for layer in compared.layers.values()]
    counts = [
        f"{sum(c.verdict == verdict for c in found)} {verdict}"
        for verdict in ("equivalent", "changed", "inconclusive")
    ]
    largest = max(found, key=lambda c: -1 if math.isnan(c.difference) else abs(c.difference))
    sets = "".join(
        f" {word}: {', '.join(ids)}."
        for word, ids in (("Pass now", compared.gained), ("Pass no more", compared.lost))
        if ids
    )
    return (
        f"Against {compared.a}, of {len(found)} layers {', '.join(counts)} within "
        f"±{compared.margin:g}; largest change of d {largest.difference:+.2f} "
        f"{interval(largest.interval)}.{sets}{_category_sentence(compared)}"
    )


def _category_sentence(compared: VersionComparison) -> str:
    """The category that changed most, if there are several."""
    mean = {
        category: float(np.mean(list(changes.values())))
        for category, changes in compared.categories.items()
        if changes
    }
    if len(mean) < 2:
        return ""
    most = max(mean, key=lambda category: abs(mean[category]))
    return f" Of the categories, {most} changed most: {mean[most]:+.2f} on average over layers."


def summary_html(
    analysis: Analysis,
    criteria: Criteria,
    compared: VersionComparison | None = None,
    causal: Mapping[LayerSite, tuple[Effect, Effect]] | None = None,
    *,
    checks: bool = True,
) -> str:
    """The HTML that stands above the list of checks; every text in it is escaped.

    Without `checks` no such list follows.
    """
    environment = Environment(
        loader=PackageLoader("harness.report"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters.update(decimal=decimal, interval=interval)
    template = environment.get_template("summary.html")
    panels = _panels(analysis, criteria)
    effects = _effects(analysis, criteria, causal or {})
    sections = [
        ("layers", "By layer"),
        *([("baseline", "Against the baseline")] if compared else []),
        *((panel.id, panel.title) for panel in panels),
        *([("cause", "Does the model use the direction?")] if effects else []),
        *([("text", "What the text alone gives")] if analysis.text else []),
        ("responses", "Responses"),
        ("provenance", "Provenance"),
        *([("checks", "Checks")] if checks else []),
    ]
    return template.render(
        headline=headline(analysis, criteria),
        verdict=max((overall(result, criteria) for result in analysis.values()), key=_worse),
        sections=sections,
        checks=checks,
        missed=lambda result: [
            name for name, judge in CRITERIA.items() if judge(result, criteria).outcome != "passed"
        ],
        power=power_sentence(analysis, criteria),
        close=close_sentence(analysis, criteria),
        plot=_picture(plots.separation_figure(analysis, criteria)),
        panels=panels,
        causal=effects,
        causal_headline=_causal_headline(effects),
        compared=compared,
        comparison=_comparison_panels(compared),
        comparison_verdict=_comparison_verdict(compared),
        columns=_columns(analysis),
        outcome=lambda result: overall(result, criteria),
        responses=_worst_first(analysis),
        analysis=analysis,
        criteria=criteria,
        provenance=_flat(analysis.provenance),
    )


def page_html(
    analysis: Analysis,
    criteria: Criteria,
    compared: VersionComparison | None = None,
    causal: Mapping[LayerSite, tuple[Effect, Effect]] | None = None,
) -> str:
    """The report as a page of its own, without pytest's checks."""
    body = summary_html(analysis, criteria, compared, causal, checks=False)
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>Alignment artifacts</title></head>\n<body>\n<h1>Alignment artifacts</h1>\n{body}"
        "</body>\n</html>\n"
    )


_worse = ("passed", "inconclusive", "failed").index


def _effects(
    analysis: Analysis, criteria: Criteria, causal: Mapping[LayerSite, tuple[Effect, Effect]]
) -> list[tuple[str, Effect, Outcome]]:
    """Interventions with the id of their layer and their verdict."""
    return [
        (layer_id(*key), effect, uses_direction(analysis[key], effect, criteria).outcome)
        for key, effects in causal.items()
        for effect in effects
    ]


def _causal_headline(effects: Sequence[tuple[str, Effect, Outcome]]) -> str:
    shown = [f"{id} ({effect.kind})" for id, effect, outcome in effects if outcome == "passed"]
    if shown:
        return f"The model uses the direction at {', '.join(shown)}."
    return "The model is not shown to use the direction where it was tried."


def _comparison_verdict(compared: VersionComparison | None) -> Outcome:
    if compared is None:
        return "passed"
    found = {layer.comparison.verdict for layer in compared.layers.values()}
    return (
        "failed" if "changed" in found else "inconclusive" if "inconclusive" in found else "passed"
    )


def _columns(analysis: Analysis) -> list[Column]:
    """The table's columns: all but those that nothing was measured for."""
    return [
        COLUMNS[name]
        for name in _TABLE
        if any(COLUMNS[name].value(result) is not None for result in analysis.values())
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


def _panels(analysis: Analysis, criteria: Criteria) -> list[_Panel]:
    """Controls, as far as the analysis has them."""
    results = list(analysis.values())
    found = [
        _Panel(
            "scores",
            "Where the prompts lie",
            "Held-out scores of all prompts, in standard deviations from the boundary. d is the "
            "distance between the two clouds of a layer.",
            _picture(plots.distribution_figure(analysis)),
        )
    ]
    if any(result.companions for result in results):
        forced = [r.companions["forced"].d for r in results if "forced" in r.companions]
        defined = [d for d in forced if not math.isnan(d)]
        same = (
            f" With the same words after both prompts, d is at most {decimal(max(defined))}."
            if defined
            else ""
        )
        found.append(
            _Panel(
                "words",
                "Is it the words, or the model?",
                "Where each prompt has its own answer, the words that were written separate the "
                f"conditions even at layer 0. The other curves hold the words constant.{same}",
                _picture(panels.positions_figure(analysis)),
            )
        )
    if all(result.transfer for result in results):
        worst = min(
            (t for r in results for t in r.transfer),
            key=lambda t: -math.inf if math.isnan(t.d) else t.d,
        )
        found.append(
            _Panel(
                "categories",
                "One direction for all categories?",
                "Each category is scored along the direction that the other categories give. The "
                f"weakest is {worst.category} with d = {decimal(worst.d)} "
                f"{interval(worst.d_interval)}.",
                _picture(panels.category_figure(analysis)),
            )
        )
    if any(result.steps for result in results):
        found.append(
            _Panel(
                "tokens",
                "At which token?",
                "Each token is scored along the direction of whole responses, refitted without "
                "its own pair.",
                _picture(panels.step_figure(analysis, criteria.alpha)),
            )
        )
    return found


def _comparison_panels(compared: VersionComparison | None) -> list[_Panel]:
    if compared is None:
        return []
    title = f"Change of d from {compared.a}"
    found = [
        _Panel(
            "baseline",
            "Against the baseline",
            comparison_headline(compared),
            _picture(panels.comparison_figure(compared.layers, compared.margin, title)),
        )
    ]
    if compared.categories:
        found.append(
            _Panel(
                "baseline-categories",
                "Against the baseline, by category",
                "Change of each category's d along the direction of the other categories.",
                _picture(panels.category_change_figure(compared)),
            )
        )
    return found


def _worst_first(analysis: Analysis) -> list[tuple[PairResponses, str]]:
    """Responses with how far their pair is separated: the held-out score difference in standard
    deviations, averaged over layers and sites; pairs that weren't scored come last."""
    scores = map(plots.standardized_scores, analysis.values())
    gaps = [artifact - natural for natural, artifact in scores]
    mean = dict(zip(analysis.scored, np.mean(gaps, axis=0), strict=True))
    ordered = sorted(analysis.responses, key=lambda r: mean.get(r.pair, np.inf))
    return [(r, decimal(mean[r.pair]) if r.pair in mean else "–") for r in ordered]


def _flat(facts: object, prefix: str = "") -> list[tuple[str, str]]:
    """Nested provenance as rows of name and value."""
    if not isinstance(facts, dict):
        return [(prefix, "–" if facts is None else str(facts))]
    return [
        row
        for key, value in facts.items()
        for row in _flat(value, f"{prefix}.{key}" if prefix else str(key))
    ]
