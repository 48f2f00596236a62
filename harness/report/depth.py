"""Several saved runs side by side: d over relative depth, how alike their layers are, and what can
be said of models of different kind, whose layers don't correspond."""

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from matplotlib.figure import Figure

from harness.analysis.claims import CLAIMS
from harness.analysis.comparison import SavedRun, of_one_kind
from harness.analysis.layers import LayerResult
from harness.analysis.words import decimal, interval
from harness.data.activations import AnalysisError, LayerSite, PairActivations
from harness.data.pairs import CONDITIONS
from harness.report.plots import COLOURS, GREY, drawing, intervals
from harness.report.sentences import model_name
from harness.report.tables import aligned, claim_count
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
            x = np.array([_depth(run, layer.layer) for layer in layers])
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
    prompts = [_prompts(found) for found in activations]
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
        figure.colorbar(image, ax=grid, label="debiased linear CKA")
    return figure


def side_by_side(runs: Sequence[SavedRun], activations: Sequence[PairActivations]) -> list[str]:
    """A column per run, a row per thing that is said of each, those after the first held against
    the first. Nothing of it asks for the same layers, widths or tokens."""
    columns = [_column(run) for run in runs]
    for run, column, own in zip(runs, columns, activations, strict=True):
        column |= _against(runs[0], run, activations[0], own)
    rows = [[title, *(column[title] for column in columns)] for title in columns[0]]
    return aligned([["", *(run.name for run in runs)], *rows], left=set(range(len(runs) + 1)))


def _column(run: SavedRun) -> dict[str, str]:
    results, ladders = run.analysis.values(), list(run.ladders.values())
    largest = max(
        results, key=lambda r: -math.inf if math.isnan(r.separation.d) else r.separation.d
    )
    shown = sum(each.outcome == "passed" for each in ladders)
    behaviour = run.analysis.behaviour
    widths = " to ".join(map(str, dict.fromkeys((run.widths[0], run.widths[-1]))))
    return {
        "model": model_name(run.analysis),
        "layers, width": f"{run.layer_count}, {widths}",
        "largest d": f"{decimal(largest.separation.d)} {interval(largest.separation.d_interval)} "
        f"at depth {decimal(_depth(run, largest.layer))}",
        **{words: claim_count(ladders, claim)[0] for claim, (_, words, _) in CLAIMS.items()},
        "alignment artifact": f"{shown} of {len(ladders)}",
        **{
            f"{condition} prompts evaded": "–"
            if behaviour is None
            else f"{(rate := behaviour.rate(condition)).evaded:.0%} "
            f"[{rate.interval[0]:.0%}, {rate.interval[1]:.0%}]"
            for condition in CONDITIONS
        },
    }


def _against(
    first: SavedRun, run: SavedRun, firsts: PairActivations, own: PairActivations
) -> dict[str, str]:
    """How alike the layers of a run are to those of the first at the same relative depth, and why
    their directions have no cosine."""
    titles = f"CKA with {first.name} at equal depth", f"cosine with {first.name}'s direction"
    if run is first:
        return dict.fromkeys(titles, "–")
    likeness = debiased_cka(_prompts(firsts), _prompts(own))
    found = [
        likeness[_nearest(first, firsts.keys, site, _depth(run, layer)), column]
        for column, (layer, site) in enumerate(own.keys)
        if any(site == other for _, other in firsts.keys)
    ]
    alike = f"{decimal(min(found))} to {decimal(max(found))}" if found else "no site in common"
    cosine = "layer by layer, above"
    if first.widths != run.widths:
        cosine = "can't be compared: other widths"
    elif not of_one_kind(first, run):
        cosine = "can't be compared: other layers"
    return dict(zip(titles, (alike, cosine), strict=True))


def _nearest(run: SavedRun, keys: Sequence[LayerSite], site: str, depth: float) -> int:
    """Which of the keys is that of the site nearest to this relative depth."""
    there = [number for number, (_, other) in enumerate(keys) if other == site]
    return min(there, key=lambda number: abs(_depth(run, keys[number][0]) - depth))


def _prompts(found: PairActivations) -> list[np.ndarray]:
    """All prompts of each layer and site, of both conditions."""
    return [np.concatenate(arms) for arms in zip(found.artifact, found.natural, strict=True)]


def _known_d(result: LayerResult) -> float:
    return -math.inf if math.isnan(result.separation.d) else result.separation.d


def _depth(run: SavedRun, layer: int) -> float:
    """0 for the first layer, 1 for the last."""
    return layer / max(1, run.layer_count - 1)
