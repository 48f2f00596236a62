"""The page on calibration and its figures."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.calibration.experiments import pooled_scores
from benchmarks.calibration.figures import Table
from benchmarks.calibration.populations import ar_tokens
from benchmarks.calibration.tables import COVERAGE, SIZE
from benchmarks.page import machine
from harness.stats import in_sample_separation, pair_means, separation

#: The page's last section, which `benchmarks.flakiness` measures.
OTHER_SEEDS = "Other seeds, other verdicts?"


def report(tables: list[Table], runs: int, seconds: float) -> str:
    """The page without its last section."""
    required = [f for table in tables for _, f in table.figures() if f.required is not None]
    reached = sum(f.reached() for f in required)
    head = f"""# Calibration

How often the verdicts are wrong, measured. Written by `python -m benchmarks.calibration`, the last
section by `python -m benchmarks.flakiness`; do not edit by hand. What the methods are is told in
[statistics.md](statistics.md).

{reached} of {len(required)} required figures are reached; a miss is explained at its table. Each
figure is a mean over {runs} simulated runs, {4 * runs} where the requirement lies close to the
nominal value; ± is one Monte Carlo standard error. Measured in {seconds / 60:.0f} minutes of
processor time on {machine("NumPy", "SciPy")}.

![Type-I error and coverage](img/calibration.svg)
"""
    return "\n".join([head, *(table.markdown() for table in tables)])


@contextmanager
def picture(path: Path, size: tuple[float, float]) -> Iterator[Any]:
    """Two axes beside each other, `size` inches together, written to an SVG file at the end."""
    import matplotlib.pyplot as plt

    style: dict[Any, Any] = {
        # The same picture gives the same bytes.
        "svg.hashsalt": "calibration",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with plt.rc_context(style):
        figure, axes = plt.subplots(1, 2, figsize=size, layout="constrained")
        yield axes
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def draw(tables: list[Table], path: Path) -> None:
    """Type-I errors and coverages, ours and the usual way's, against what is required."""
    by_title = {table.title: table.rows for table in tables}
    panels = (
        ("One layer under the null", "type-I error", "pooled t-test rejects", SIZE),
        ("Coverage of 95% intervals", "d", "percentile bootstrap", COVERAGE),
    )
    with picture(path, (12, 9)) as axes:
        for axis, (title, ours, usual, required) in zip(axes, panels, strict=True):
            # Settings that begin with an ellipsis show what goes wrong without a safeguard.
            rows = {name: row for name, row in by_title[title].items() if not name.startswith("…")}
            axis.axvspan(required.low, required.high, color="#009e73", alpha=0.2, label="required")
            for name, colour, marker in ((ours, "#0072b2", "o"), (usual, "#d55e00", "x")):
                shown = [(k, row[name]) for k, row in enumerate(rows.values()) if name in row]
                axis.errorbar(
                    [f.value for _, f in shown],
                    [k for k, _ in shown],
                    xerr=[2 * f.error for _, f in shown],
                    fmt=marker,
                    color=colour,
                    label="ours" if name == ours else name,
                )
            axis.set_yticks(range(len(rows)), list(rows), fontsize=7)
            axis.invert_yaxis()
            axis.set_title(title, pad=30)
            axis.legend(
                loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8, frameon=False
            )
        axes[0].set_xlabel("rejections at α = 0.05 (± 2 Monte Carlo errors)")
        axes[1].set_xlabel("coverage of d (± 2 Monte Carlo errors)")


def draw_noise(path: Path) -> None:
    """One data set without any effect, as the usual way and as held-out scores show it."""
    artifact, natural = ar_tokens(np.random.default_rng(1), 50, 1152)
    usual = in_sample_separation(artifact, natural)
    (ours,) = separation(*(arm[None] for arm in pair_means(artifact, natural)))
    panels = (
        (
            "The usual way: the vectors that gave the direction\n"
            f"d = {usual.d:.1f}, accuracy {usual.accuracy:.1%}",
            pooled_scores(artifact, natural),
            "1000 + 1000 token vectors",
        ),
        (
            "Held out: each pair along the others' direction\n"
            f"d = {ours.d:.2f} [{ours.d_interval[0]:.2f}, {ours.d_interval[1]:.2f}], "
            f"accuracy {ours.accuracy:.0%}, p = {ours.p_value:.2f}",
            (np.array(ours.scores_artifact), np.array(ours.scores_natural)),
            "50 + 50 prompts",
        ),
    )
    with picture(path, (10, 3.6)) as axes:
        for axis, (title, arms, what) in zip(axes, panels, strict=True):
            bins = np.histogram_bin_edges(np.concatenate(arms), 40 if len(arms[0]) > 100 else 16)
            for scores, name, colour in zip(
                arms, ("artifact", "natural"), ("#d55e00", "#0072b2"), strict=True
            ):
                axis.hist(scores, bins, alpha=0.6, color=colour, label=name)
            axis.set_title(title, fontsize=10)
            axis.set_xlabel(f"score along the direction ({what})")
            axis.set_yticks([])
            axis.spines["left"].set_visible(False)
            axis.legend(fontsize=9, frameon=False)
