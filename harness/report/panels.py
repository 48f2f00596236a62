"""Figures of the controls: positions, categories, steps, versions."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.analysis.comparison import LayerComparison, VersionComparison
from harness.analysis.layers import Analysis, LayerResult
from harness.report.plots import COLOURS, GREY, drawing, intervals, layer_ticks, line_at

# Diverging, safe for the colour-blind, white at 0.
_MAP = "PuOr_r"


def positions_figure(analysis: Analysis) -> Figure:
    """d by layer at the run's own positions and at those that hold the words constant."""
    headline = analysis.provenance.get("collection", {}).get("positions", "this run")
    results = list(analysis.values())
    curves = {headline: [r.separation for r in results]}
    for name in results[0].companions:
        curves[name] = [r.companions[name] for r in results]
    x = np.arange(len(results))
    with drawing(9, 3.8) as (figure, axes):
        offsets = np.linspace(-0.15, 0.15, len(curves))
        for (name, found), offset, colour in zip(curves.items(), offsets, COLOURS, strict=False):
            intervals(axes, x + offset, [s.d_interval for s in found], colour)
            axes.plot(
                x + offset, [s.d for s in found], "o-", color=colour, markersize=5, linewidth=1,
                label=_POSITIONS.get(name, name),
            )  # fmt: skip
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.set_title("Is it the words? d where the words may differ, and where they can't")
        axes.set_ylabel("d (standard deviations)")
        layer_ticks(axes, results)
        figure.legend(loc="outside lower center", ncols=3)
    return figure


_POSITIONS = {
    "generated": "generated: each prompt's own answer",
    "forced": "forced: the natural answer after both prompts",
    "prompt_last": "prompt_last: nothing written yet",
}


def category_figure(analysis: Analysis) -> Figure:
    """Category × layer: d of each category along the direction of the other categories."""
    results = [result for result in analysis.values() if result.transfer]
    categories = [str(transfer.category) for transfer in results[0].transfer]
    values = np.array([[t.d for t in result.transfer] for result in results]).T
    title = "Does the direction of the other categories hold on each?"
    return _by_category(values, categories, results, "d (standard deviations)", title)


def step_figure(analysis: Analysis, alpha: float) -> Figure:
    """Layer × step: d token by token; dots where it is significant over the layer's steps."""
    results = [result for result in analysis.values() if result.steps]
    steps = max(len(result.steps) for result in results)
    values = np.full((steps, len(results)), np.nan)
    marks = []
    for column, result in enumerate(results):
        for step in result.steps:
            values[step.step, column] = step.d
            if step.p_adjusted < alpha:
                marks.append((column, step.step))
    with drawing(9, 1.8 + 0.16 * steps) as (figure, axes):
        _heat_map(figure, axes, values, "d (standard deviations)", annotate=False)
        if marks:
            axes.plot(*zip(*marks, strict=True), ".", color="#000000", markersize=3)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("generated token")
        axes.set_title(f"At which token? Dots: family-wise p < {alpha:g} over the layer's tokens")
        layer_ticks(axes, results)
    return figure


def behaviour_figure(results: Sequence[LayerResult]) -> Figure:
    """By layer: AUROC of the scores against behaviour, and the scores of the artifact prompts that
    were evaded and of those that were answered. Layers without `follows` are left out."""
    results = [result for result in results if result.follows is not None]
    found = [result.follows for result in results if result.follows is not None]
    x = np.arange(len(found))
    with drawing(9, 5.2, nrows=2, sharex=True) as (figure, (above, below)):
        above.plot(x, [f.auroc for f in found], "o-", color=COLOURS[1], label="AUROC")
        above.vlines(x, [f.lower for f in found], [f.auroc for f in found], color=COLOURS[1])
        line_at(above, 0.5, "chance")
        above.set_ylim(min(0.4, *(f.lower for f in found), *(f.auroc for f in found)) - 0.03, 1.03)
        above.set_ylabel("AUROC")
        above.set_title("Do the scores go with what the model does? Lines reach to the lower bound")
        for kind, colour, side in (("answered", COLOURS[0], -0.15), ("evaded", COLOURS[1], 0.15)):
            label: str | None = kind
            for at, f in zip(x, found, strict=True):
                spread = np.std([*f.scores_evaded, *f.scores_answered]) or 1.0
                points = np.array(getattr(f, f"scores_{kind}")) / spread
                where = np.full(len(points), at + side)
                below.plot(where, points, "o", ms=3, alpha=0.6, color=colour, label=label)
                label = None
        below.set_ylabel("score, in its SD")
        layer_ticks(below, results)
        figure.legend(loc="outside lower center", ncols=4)
    return figure


def comparison_figure(compared: VersionComparison) -> Figure:
    """Change of d by layer with its interval, against the margin."""
    layers, margin = list(compared.layers.values()), compared.margin
    x = np.arange(len(layers))
    colours = {"equivalent": COLOURS[0], "changed": COLOURS[1], "inconclusive": GREY}
    with drawing(9, 3.4) as (figure, axes):
        label = f"margin ±{margin:g}"
        axes.axhspan(-margin, margin, color="#000000", alpha=0.08, lw=0, label=label)
        for verdict, colour in colours.items():
            chosen = [i for i, c in enumerate(layers) if c.comparison.verdict == verdict]
            if not chosen:
                continue
            found = [layers[i].comparison for i in chosen]
            intervals(axes, x[chosen], [c.interval for c in found], colour)
            axes.plot(x[chosen], [c.difference for c in found], "o", color=colour, label=verdict)
        line_at(axes, 0, "no change")
        axes.set_title(f"Change of d from {compared.a}")
        axes.set_ylabel("change of d")
        layer_ticks(axes, layers)
        figure.legend(loc="outside lower center", ncols=4)
    return figure


def category_change_figure(compared: VersionComparison) -> Figure:
    """Category × layer: change of each category's d along the direction of the others."""
    layers = list(compared.layers.values())
    values = np.array(
        [
            [changes.get(layer.id, np.nan) for layer in layers]
            for changes in compared.categories.values()
        ]
    )
    title = f"Which categories changed from {compared.a}?"
    return _by_category(values, list(compared.categories), layers, "change of d", title)


def _by_category(
    values: np.ndarray,
    categories: Sequence[str],
    layers: Sequence[LayerResult | LayerComparison],
    label: str,
    title: str,
) -> Figure:
    """Values (categories, layers) as colours, and as numbers where there is room."""
    with drawing(9, 1.6 + 0.45 * len(categories)) as (figure, axes):
        _heat_map(figure, axes, values, label, annotate=len(layers) <= 12)
        axes.set_yticks(range(len(categories)), categories)
        axes.set_title(title)
        layer_ticks(axes, layers)
    return figure


def _heat_map(
    figure: Figure, axes: Axes, values: np.ndarray, label: str, *, annotate: bool
) -> None:
    bound = float(np.abs(values[np.isfinite(values)]).max(initial=1.0))
    image = axes.imshow(values, cmap=_MAP, vmin=-bound, vmax=bound, aspect="auto")
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, label=label)
    if annotate:
        for (row, column), value in np.ndenumerate(values):
            shown = "–" if np.isnan(value) else f"{0.0 if abs(value) < 0.05 else value:.1f}"
            colour = "#FFFFFF" if abs(value) > 0.65 * bound else "#000000"
            axes.text(column, row, shown, ha="center", va="center", fontsize=8, color=colour)
