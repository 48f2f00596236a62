"""What a person reads: the verdict in a sentence, the terminal table, the HTML summary."""

import base64
from dataclasses import dataclass

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from harness import plots
from harness.analysis import Analysis, LayerResult, PairResponses
from harness.verdict import Criteria, Outcome, decimal, interval, overall, p_value


def headline(analysis: Analysis, criteria: Criteria) -> str:
    """The run's verdict in one sentence with its numbers."""
    total = len(analysis)
    outcomes = [overall(result, criteria) for result in analysis.values()]
    passed = outcomes.count("passed")
    ds = [result.separation.d for result in analysis.values()]
    pairs = next(iter(analysis.values())).separation.n_pairs
    what = "layer" if len({site for _, site in analysis}) == 1 else "layer and site"
    undecided = outcomes.count("inconclusive")
    tail = f", {undecided} inconclusive" if undecided else ""
    return (
        f"{passed} of {total} {what}s separate artifact from natural prompts beyond "
        f"d = {criteria.d_threshold:g}{tail}; held-out d runs from {decimal(np.nanmin(ds))} to "
        f"{decimal(np.nanmax(ds))} on {pairs} pairs."
    )


def terminal_table(analysis: Analysis, criteria: Criteria) -> list[tuple[str, Outcome]]:
    """One line per layer and site, with its outcome; the first line is the header."""
    rows = [("", "d", "", "accuracy", "", "p (family)", "verdict")]
    outcomes: list[Outcome] = ["passed"]
    for result in analysis.values():
        s = result.separation
        outcomes.append(overall(result, criteria))
        rows.append(
            (
                result.id,
                decimal(s.d),
                interval(s.d_interval),
                decimal(s.accuracy),
                interval(s.accuracy_interval),
                p_value(s.p_adjusted),
                outcomes[-1],
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    left = {0, 2, 4, 6}
    return [
        (
            "  ".join(
                cell.ljust(w) if i in left else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip(),
            outcome,
        )
        for row, outcome in zip(rows, outcomes, strict=True)
    ]


def summary_html(analysis: Analysis, criteria: Criteria) -> str:
    """The HTML that stands above the list of checks; every text in it is escaped."""
    environment = Environment(
        loader=PackageLoader("harness"), autoescape=True, undefined=StrictUndefined
    )
    template = environment.get_template("summary.html")
    figure = plots.to_bytes(plots.separation_figure(analysis, criteria), "svg")
    return template.render(
        headline=headline(analysis, criteria),
        plot=data_uri(figure, "image/svg+xml"),
        rows=[_LayerRow.of(result, criteria) for result in analysis.values()],
        responses=_worst_first(analysis),
        analysis=analysis,
        criteria=criteria,
        provenance=_flat(analysis.provenance),
    )


def data_uri(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


@dataclass(frozen=True)
class _LayerRow:
    """One line of the table, as texts."""

    id: str
    outcome: Outcome
    d: str
    d_interval: str
    accuracy: str
    accuracy_interval: str
    p: str
    in_sample_d: str
    in_sample_accuracy: str

    @classmethod
    def of(cls, result: LayerResult, criteria: Criteria) -> "_LayerRow":
        s = result.separation
        return cls(
            result.id,
            overall(result, criteria),
            decimal(s.d),
            interval(s.d_interval),
            decimal(s.accuracy),
            interval(s.accuracy_interval),
            p_value(s.p_adjusted),
            decimal(result.in_sample.d),
            decimal(result.in_sample.accuracy),
        )


def _worst_first(analysis: Analysis) -> list[tuple[PairResponses, str]]:
    """Responses with how far their pair is separated: the held-out score difference in standard
    deviations, averaged over layers and sites; pairs that weren't scored come last."""
    gaps = []
    for result in analysis.values():
        s = result.separation
        artifact, natural = np.array(s.scores_artifact), np.array(s.scores_natural)
        spread = np.sqrt((artifact.var(ddof=1) + natural.var(ddof=1)) / 2)
        gaps.append((artifact - natural) / spread if spread > 0 else np.zeros(len(artifact)))
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
