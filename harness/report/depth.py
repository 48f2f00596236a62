"""Several saved runs side by side: d over relative depth, and how alike their layers are."""

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from matplotlib.figure import Figure

from harness.analysis.comparison import Version
from harness.data.activations import AnalysisError, PairActivations
from harness.report.plots import COLOURS, GREY, style
from harness.stats import debiased_cka


def common_pairs(versions: Sequence[Version]) -> list[PairActivations]:
    """Each version's activations on the pairs that all of them have.

    Raises:
        AnalysisError: fewer than 8 pairs are in all of them.
    """
    shared = set(versions[0].activations.pairs).intersection(
        *(version.activations.pairs for version in versions[1:])
    )
    pairs = [pair for pair in versions[0].activations.pairs if pair in shared]
    if len(pairs) < 8:
        raise AnalysisError(f"only {len(pairs)} pairs are in all of the runs; 8 are needed")
    return [v.activations.select(pairs, v.activations.keys) for v in versions]


def depth_figure(versions: Sequence[Version]) -> Figure:
    """d with its interval over relative depth, one curve per version and site."""
    with style():
        figure = Figure(figsize=(9, 4), layout="constrained")
        axes = figure.subplots()
        curves = [
            (version, site)
            for version in versions
            for site in dict.fromkeys(site for _, site in version.activations.keys)
        ]
        for number, (version, site) in enumerate(curves):
            layers = [entry for entry in version.results["layers"] if entry["site"] == site]
            depth = version.layer_count
            x = np.array([entry["layer"] / max(1, depth - 1) for entry in layers])
            d = [_number(entry["held_out"]["d"]) for entry in layers]
            low, high = np.array(
                [[_number(end) for end in entry["held_out"]["d_interval"]] for entry in layers]
            ).T
            colour = COLOURS[number % len(COLOURS)]
            axes.vlines(x + 0.004 * number, low, high, color=colour, linewidth=1.4)
            axes.plot(x + 0.004 * number, d, "o-", color=colour, markersize=4, linewidth=1,
                      label=f"{version.name}, {site}")  # fmt: skip
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.set_xlabel("relative depth (0 first layer, 1 last)")
        axes.set_ylabel("d (standard deviations)")
        axes.set_title("Effect size by relative depth, with intervals")
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def _number(value: float | str | None) -> float:
    """A figure of a results file, which has null for NaN and "inf" for infinity."""
    return math.nan if value is None else float(value)


def likeness_figure(versions: Sequence[Version], activations: Sequence[PairActivations]) -> Figure:
    """Debiased linear CKA between the layers of every two versions, over all prompts."""
    prompts = [
        [np.concatenate(arms) for arms in zip(found.artifact, found.natural, strict=True)]
        for found in activations
    ]
    duos = list(combinations(range(len(versions)), 2))
    with style():
        figure = Figure(figsize=(4.6 * len(duos), 4.2), layout="constrained")
        grid = figure.subplots(1, len(duos), squeeze=False)[0]
        for axes, (one, other) in zip(grid, duos, strict=True):
            image = axes.imshow(
                debiased_cka(prompts[one], prompts[other]).T,
                cmap="cividis",
                vmin=0,
                vmax=1,
                origin="lower",
                aspect="auto",
            )
            axes.grid(visible=False)
            axes.set_xlabel(f"layer of {versions[one].name}")
            axes.set_ylabel(f"layer of {versions[other].name}")
        figure.colorbar(image, ax=grid, label="debiased linear CKA")
    return figure
