"""Tables by layer: which figures there are, and how the terminal shows them."""

import math
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

from harness.analysis.claims import CLAIMS, MARKS, Claim, Ladder
from harness.analysis.comparison import VersionComparison
from harness.analysis.findings import Findings
from harness.analysis.layers import LayerResult, layer_id
from harness.analysis.verdict import Outcome, worst
from harness.analysis.words import decimal, error, interval, p_value
from harness.data.activations import LayerSite
from harness.settings import TableSettings
from harness.stats import Comparison


@dataclass(frozen=True)
class Column:
    """A figure of a layer: `value` is None where it wasn't measured."""

    title: str
    about: str
    value: Callable[[LayerResult], float | None]
    interval: Callable[[LayerResult], tuple[float, float] | None] | None = None
    text: Callable[[float], str] = decimal
    #: Monte Carlo error of the figure, or of each end of its interval.
    error: Callable[[LayerResult], float] | None = None
    #: What comes first when rows are sorted by it.
    largest_first: bool = True

    def cells(self, result: LayerResult) -> tuple[str, ...]:
        """The figure as text, and its interval where it has one."""
        value = self.value(result)
        figure = "–" if value is None else self.text(value)
        if self.interval is None:
            return (figure,)
        bounds = self.interval(result)
        return figure, "" if bounds is None else interval(bounds)

    def error_of(self, result: LayerResult) -> str:
        """The Monte Carlo error as text; empty where there is none or it isn't known."""
        return "" if self.error is None else error(self.error(result)).strip()

    @property
    def titles(self) -> tuple[str, ...]:
        return (self.title,) if self.interval is None else (self.title, "interval")


def _small(value: float) -> str:
    return f"{value:.1g}"


def _change(title: str, about: str, of: Callable[[LayerResult], Comparison | None]) -> Column:
    """How much larger d is than another one."""
    return Column(
        title,
        about,
        lambda r: change.difference if (change := of(r)) else None,
        lambda r: change.interval if (change := of(r)) else None,
        text=lambda value: f"{value:+.2f}",
    )


#: What each column shows.
COLUMNS = {
    "d": Column(
        "d",
        "held-out effect size",
        lambda r: r.separation.d,
        lambda r: r.separation.d_interval,
        error=lambda r: r.separation.d_interval_se,
    ),
    "accuracy": Column(
        "accuracy",
        "held-out accuracy of a linear boundary",
        lambda r: r.separation.accuracy,
        lambda r: r.separation.accuracy_interval,
    ),
    "p": Column(
        "p (family)",
        "p-value over all layers and sites of the run",
        lambda r: r.separation.p_adjusted,
        text=p_value,
        error=lambda r: r.separation.p_adjusted_se,
        largest_first=False,
    ),
    "p_layer": Column(
        "p (layer)",
        "p-value of the layer alone",
        lambda r: r.separation.p_value,
        text=p_value,
        error=lambda r: r.separation.p_se,
        largest_first=False,
    ),
    "d_error": Column(
        "± (d)",
        "Monte Carlo error of each end of the interval of d",
        lambda r: r.separation.d_interval_se,
        text=_small,
    ),
    "p_error": Column(
        "± (p)",
        "Monte Carlo error of the family-wise p",
        lambda r: r.separation.p_adjusted_se,
        text=_small,
    ),
    "same_words": Column(
        "d, same words",
        "d with the natural answer forced after both prompts",
        lambda r: r.companions["forced"].d if "forced" in r.companions else None,
    ),
    "beyond_base": _change("beyond base", "d beyond the base model's", lambda r: r.beyond_base),
    "beyond_base_same_words": _change(
        "beyond base, same words",
        "d beyond the base model's, both with this model's natural answer after both prompts",
        lambda r: r.beyond_base_same_words,
    ),
    "agreement": Column(
        "agreement",
        "mean cosine of a pair's difference with the direction of all others",
        lambda r: r.quality.mean_cosine if r.quality else None,
    ),
    "d_z": Column("d_z", "effect size of the paired difference", lambda r: r.separation.d_z),
    "auroc": Column("AUROC", "area under the ROC curve", lambda r: r.separation.auroc),
    "paired_accuracy": Column(
        "paired",
        "share of pairs whose members lie the right way round",
        lambda r: r.separation.paired_accuracy,
    ),
    "in_sample_d": Column(
        "d, in-sample", "d of the vectors the direction was learnt from", lambda r: r.in_sample.d
    ),
    "in_sample_accuracy": Column(
        "accuracy, in-sample",
        "accuracy on the vectors the boundary was learnt from",
        lambda r: r.in_sample.accuracy,
    ),
    "seed_ratio": Column(
        "seed ratio",
        "distance of means over the root of the mean deviation; depends on the activations' scale",
        lambda r: r.in_sample.seed_ratio,
    ),
}


_CLAIMS = tuple(word for word, _, _ in CLAIMS.values())


def terminal_table(
    found: Findings, shown: TableSettings | None = None
) -> list[tuple[str, Outcome]]:
    """One line per layer and site, with its outcome; the first line is the header."""
    shown = shown or TableSettings()
    header, *rows = layer_rows(found, shown)
    left = {0} | {i for i, title in enumerate(header) if title == "interval" or title in _CLAIMS}
    lines = aligned([["" if title == "interval" else title for title in header], *rows], left)
    judged = [found.outcome(key) for key in _ordered(found, shown.sort)]
    return list(zip(lines, ["passed", *judged], strict=True))


def layer_rows(found: Findings, shown: TableSettings | None = None) -> list[list[str]]:
    """The table's cells: a header, then one row per layer and site."""
    shown = shown or TableSettings()
    chosen = [COLUMNS[name] for name in shown.columns]
    return [
        ["", *(title for column in chosen for title in column.titles), *_CLAIMS],
        *(
            [
                layer_id(*key),
                *(cell for column in chosen for cell in column.cells(found[key])),
                *(MARKS[v.outcome if v else None] for v in found.ladder(key).verdicts.values()),
            ]
            for key in _ordered(found, shown.sort)
        ),
    ]


def ladder_table(found: Findings) -> list[tuple[str, Outcome | None]]:
    """One line per claim with the number of layers and sites that it holds in, and its worst
    outcome; None where it wasn't asked."""
    ladders = [found.ladder(key) for key in found]
    rows, judged = [], []
    for claim, (_, words, rules_out) in CLAIMS.items():
        said, outcomes = claim_count(ladders, claim)
        outcome = worst(outcomes) if outcomes else None
        judged.append(outcome)
        rows.append((MARKS[outcome], words, said, f"rules out {rules_out}"))
    return list(zip(aligned(rows, left={0, 1, 2, 3}), judged, strict=True))


def claim_count(ladders: Sequence[Ladder], claim: Claim) -> tuple[str, list[Outcome]]:
    """In how many layers and sites a claim holds, in words, and its outcomes where it was asked."""
    outcomes = [verdict.outcome for each in ladders if (verdict := each.verdicts[claim])]
    decided = [outcome for outcome in outcomes if outcome != "undecidable"]
    if not outcomes:
        return "not asked", outcomes
    if not decided:
        return "can't be decided", outcomes
    undecided = decided.count("inconclusive")
    said = f"{decided.count('passed')} of {len(ladders)}"
    return said + (f", {undecided} inconclusive" if undecided else ""), outcomes


def _ordered(found: Findings, by: str) -> list[LayerSite]:
    """Layers and sites by a column, undefined ones last; "layer" leaves them as they are."""
    if by == "layer":
        return list(found)
    column = COLUMNS[by]

    def place(key: LayerSite) -> float:
        value = column.value(found[key])
        if value is None or math.isnan(value):
            return math.inf
        return -value if column.largest_first else value

    return sorted(found, key=place)


def comparison_table(compared: VersionComparison) -> list[str]:
    """One line per layer and site of a version comparison, behind a header."""
    rows = [("", "d then", "d now", "change", "", "d", "cosine", "direction")]
    for layer in compared.layers.values():
        c = layer.comparison
        rows.append(
            (
                layer.id,
                decimal(c.d_a),
                decimal(c.d_b),
                f"{c.difference:+.2f}",
                interval(c.interval),
                c.verdict,
                "–" if layer.drift is None else decimal(layer.drift.cosine),
                layer.drift.verdict if layer.drift and layer.separated else "–",
            )
        )
    return aligned(rows, left={0, 4, 5, 7})


def aligned(rows: Sequence[Sequence[str]], left: Set[int]) -> list[str]:
    """Rows as lines of columns; those in `left` are flush left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
