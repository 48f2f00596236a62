"""Figures: intervals are always drawn, colours are told apart by the colour-blind."""

import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.findings import Findings
from harness.analysis.judges import CHANCE
from harness.analysis.layers import LayerResult
from harness.report.sentences import model_name

# Okabe & Ito 2008, https://jfly.uni-koeln.de/color/
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SAME_WORDS = "#009E73"
GREY = "#767676"
_MOST_TICKS = 40
# Characters below a figure before a line is broken.
_LINE = 90
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "path",
    # Names are names: a $ in one is no formula.
    "text.parse_math": False,
    # Element ids of the SVG: the same picture gives the same bytes.
    "svg.hashsalt": "artifact-harness",
}


def separation_figure(found: Findings) -> Figure:
    """d and accuracy by layer, one curve per site, with intervals, thresholds and chance.

    Filled markers meet every criterion. Stars along the upper edge mark layers that separate
    significantly over the whole family (p_adjusted < alpha). Diamonds are d with the same words
    after both prompts. Grey crosses are the in-sample figures: the same activations, scored along
    a direction that was learnt from the very vectors that are scored.
    """
    criteria = found.criteria
    with drawing(9, 7, nrows=2, sharex=True) as (figure, (top, bottom)):
        sites = list(dict.fromkeys(site for _, site in found))
        offsets = np.linspace(-0.15, 0.15, len(sites)) if len(sites) > 1 else [0.0]
        for number, site in enumerate(sites):
            results = [result for result in found.values() if result.site == site]
            passed = [found.ladder((r.layer, r.site)).holds("separates") for r in results]
            x = np.array([result.layer for result in results]) + offsets[number]
            colour = COLOURS[number % len(COLOURS)]
            label = f"{site}, held out"
            parts = [result.separation for result in results]
            intervals(top, x, [s.d_interval for s in parts], colour)
            intervals(bottom, x, [s.accuracy_interval for s in parts], colour)
            _curve(top, x, [s.d for s in parts], passed, colour, label)
            _curve(bottom, x, [s.accuracy for s in parts], passed, colour, label)
            significant = np.array([s.p_adjusted < criteria.alpha for s in parts])
            if significant.any():
                top.plot(
                    x[significant], np.ones(significant.sum()), "*", color=colour, markersize=6,
                    transform=top.get_xaxis_transform(), clip_on=False,
                    label=f"{site}, family-wise p < {criteria.alpha:g}",
                )  # fmt: skip
            if all("forced" in result.companions for result in results):
                same = [result.companions["forced"] for result in results]
                # Beside the headline's dots, which they would cover where all answers are alike.
                beside = x + 0.12
                intervals(top, beside, [other.d_interval for other in same], SAME_WORDS)
                name = "same words after both prompts" if number == 0 else None
                d_same = [other.d for other in same]
                top.plot(beside, d_same, "D", color=SAME_WORDS, markersize=4.5, label=name)
            ghost = {"color": GREY, "marker": "x", "linestyle": "none", "markersize": 5}
            name = "in-sample, for comparison" if number == 0 else None
            top.plot(x, [r.in_sample.d for r in results], label=name, **ghost)
            bottom.plot(x, [r.in_sample.accuracy for r in results], label=name, **ghost)
        null = [result.separation.null_quantile_95 for result in found.values()]
        if np.isfinite(null).all():
            band = "95% of runs with shuffled labels"
            top.axhspan(0, max(null), color="#000000", alpha=0.08, lw=0, label=band)
        line_at(top, criteria.d_threshold, f"threshold {criteria.d_threshold:g}")
        line_at(bottom, CHANCE, "chance")
        top.axhline(0, color=GREY, linewidth=0.8)
        level = f"{found.analysis.settings.level:.0%}"
        top.set_title(f"Effect size, with {level} intervals")
        top.set_ylabel("d (standard deviations)")
        bottom.set_title(f"Accuracy of a linear boundary, with {level} intervals")
        bottom.set_ylabel("share of prompts on their side")
        bottom.set_ylim(min(0.35, *bottom.get_ylim()), 1.02)
        bottom.set_xlabel("layer")
        layers = sorted({layer for layer, _ in found})
        bottom.set_xticks(layers[:: math.ceil(len(layers) / _MOST_TICKS)])
        figure.legend(
            *top.get_legend_handles_labels(),
            loc="outside lower center",
            ncols=2,
            title=textwrap.fill(model_name(found.analysis), _LINE),
            title_fontsize="small",
        )
    return figure


def standardized_scores(result: LayerResult) -> tuple[np.ndarray, np.ndarray]:
    """Held-out scores of natural and artifact prompts in pooled standard deviations, 0 at the
    boundary; all 0 where they don't vary."""
    natural = np.array(result.separation.scores_natural)
    artifact = np.array(result.separation.scores_artifact)
    spread = np.sqrt((natural.var(ddof=1) + artifact.var(ddof=1)) / 2)
    return (natural / spread, artifact / spread) if spread > 0 else (natural * 0, artifact * 0)


def to_bytes(figure: Figure, kind: str) -> bytes:
    """The figure as "svg" or "png"."""
    stream = io.BytesIO()
    with mpl.rc_context(_STYLE):
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(stream, format=kind, dpi=150, metadata=metadata)
    return stream.getvalue()


@contextmanager
def drawing(width: float, height: float, **grid: Any) -> Iterator[tuple[Figure, Any]]:
    """A new figure of so many inches with its axes, in the look of the project.

    Args:
        grid: rows and columns, as `Figure.subplots` takes them.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(**grid)


def intervals(axes: Axes, x: np.ndarray, ends: Sequence[tuple[float, float]], colour: str) -> None:
    """A line from end to end of each interval."""
    low, high = np.array(ends).T
    axes.vlines(x, low, high, color=colour, linewidth=1.6)


def _curve(
    axes: Axes,
    x: np.ndarray,
    estimates: Sequence[float],
    passed: Sequence[bool],
    colour: str,
    label: str,
) -> None:
    """A dot for each estimate, filled where it passed, and a thin line through them."""
    values = np.array(estimates)
    axes.plot(x, values, color=colour, linewidth=1, alpha=0.45)
    for met, face in ((True, colour), (False, "white")):
        chosen = [i for i, p in enumerate(passed) if p == met]
        name = f"{label}, {'separates' if met else 'not shown to'}"
        if chosen:
            axes.plot(
                x[chosen],
                values[chosen],
                "o",
                markersize=6,
                markerfacecolor=face,
                markeredgecolor=colour,
                label=name,
            )


def line_at(axes: Axes, y: float, label: str) -> None:
    """A dashed line to hold estimates against, labelled outside at the right, where no data are."""
    axes.axhline(y, color="#000000", linewidth=0.9, linestyle=(0, (4, 3)))
    axes.annotate(
        label,
        (1.01, y),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=8,
        annotation_clip=False,
    )
