"""What a run leaves in its report folder."""

from collections.abc import Mapping
from pathlib import Path

from gemma_mlx.system.files import write_whole
from harness.analysis.causality import Effect
from harness.analysis.comparison import VersionComparison
from harness.analysis.layers import Analysis
from harness.data.activations import LayerSite
from harness.report import plots
from harness.results import file as results
from harness.settings import Criteria

PLOT_NAME = "alignment_artifact_analysis_plot"
REPORT_NAME = "report.html"


def write_outputs(
    folder: Path,
    analysis: Analysis,
    criteria: Criteria,
    comparison: VersionComparison | None = None,
    causal: Mapping[LayerSite, tuple[Effect, Effect]] | None = None,
) -> None:
    """Write results and plot (PNG and SVG), each whole or not at all.

    Raises:
        gemma_mlx.errors.UserError: the folder can't be written.
    """
    results.write_results(folder / results.FILE_NAME, analysis, criteria, comparison, causal)
    write_plot(folder, analysis, criteria)


def write_plot(folder: Path, analysis: Analysis, criteria: Criteria) -> None:
    """Write the plot, as PNG and SVG."""
    figure = plots.separation_figure(analysis, criteria)
    for kind in ("png", "svg"):
        write_whole(folder / f"{PLOT_NAME}.{kind}", plots.to_bytes(figure, kind))
