"""Figures of several saved runs: d over relative depth, and how alike their layers are."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from matplotlib.figure import Figure

from harness.analysis.comparison import SavedRun
from harness.data.activations import AnalysisError, LayerSite, PairActivations
from harness.report.plots import COLOURS, GREY, drawing, intervals
from harness.stats import MIN_PAIRS, debiased_cka


def common_pairs(runs: Sequence[SavedRun]) -> list[PairActivations]:
    """Each run's activations on the pairs that all of them have.

    Raises:
        AnalysisError: fewer than 8 pairs are in all of them.
    """
    first, *others = [run.analysis.activations for run in runs]
    shared = set(first.pairs).intersection(*(other.pairs for other in others))
    pairs = [pair for pair in first.pairs if pair in shared]
    if len(pairs) < MIN_PAIRS:
        raise AnalysisError(
            f"only {len(pairs)} pairs are in all of the runs; {MIN_PAIRS} are needed"
        )
    return [found.select(pairs, found.keys) for found in (first, *others)]


def depth_figure(runs: Sequence[SavedRun]) -> Figure:
    """d with its interval over relative depth, one curve per run and site."""
    with drawing(9, 4) as (figure, axes):
        curves = [
            (run, site) for run in runs for site in dict.fromkeys(site for _, site in run.analysis)
        ]
        for number, (run, site) in enumerate(curves):
            layers = [result for result in run.analysis.values() if result.site == site]
            x = np.array([depth_of(run, layer.layer) for layer in layers])
            x += 0.004 * number
            colour = COLOURS[number % len(COLOURS)]
            intervals(axes, x, [layer.separation.d_interval for layer in layers], colour)
            axes.plot(x, [layer.separation.d for layer in layers], "o-", color=colour, markersize=4,
                      linewidth=1, label=f"{run.name}, {site}")  # fmt: skip
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.set_xlabel("relative depth (0 first layer, 1 last)")
        axes.set_ylabel("d (standard deviations)")
        axes.set_title("Effect size by relative depth, with intervals")
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def likeness_figure(runs: Sequence[SavedRun], activations: Sequence[PairActivations]) -> Figure:
    """Debiased linear CKA between the layers of every two runs, over all prompts."""
    prompts = [all_prompts(found) for found in activations]
    duos = list(combinations(range(len(runs)), 2))
    with drawing(4.6 * len(duos), 4.2, ncols=len(duos), squeeze=False) as (figure, grid):
        for axes, (one, other) in zip(grid[0], duos, strict=True):
            image = axes.imshow(
                debiased_cka(prompts[one], prompts[other]).T,
                # Without its bias the index can fall below 0; diverging, safe for the colour-blind.
                cmap="PuOr_r",
                vmin=-1,
                vmax=1,
                origin="lower",
                aspect="auto",
            )
            axes.grid(visible=False)
            axes.set_xlabel(f"layer of {runs[one].name}")
            axes.set_ylabel(f"layer of {runs[other].name}")
            axes.set_xticks(*_ticks(activations[one].keys))
            axes.set_yticks(*_ticks(activations[other].keys))
        figure.colorbar(image, ax=grid, label="debiased linear CKA")
    return figure


def _ticks(keys: Sequence[LayerSite], most: int = 8) -> tuple[list[int], list[str]]:
    """Where some of the layers and sites are, evenly, and what they are called."""
    several = len({site for _, site in keys}) > 1
    places = list(range(0, len(keys), -(-len(keys) // most)))
    names = [f"{keys[i][0]}, {keys[i][1]}" if several else str(keys[i][0]) for i in places]
    return places, names


def all_prompts(found: PairActivations) -> list[np.ndarray]:
    """All prompts of each layer and site, of both conditions."""
    return [np.concatenate(arms) for arms in zip(found.artifact, found.natural, strict=True)]


def depth_of(run: SavedRun, layer: int) -> float:
    """0 for the first layer, 1 for the last."""
    return layer / max(1, run.layer_count - 1)
