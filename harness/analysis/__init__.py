"""From activations to results, layer by layer: estimates, controls, interventions, verdicts."""

from harness.analysis.causality import Effect, causal_effects
from harness.analysis.comparison import (
    BaselineError,
    LayerComparison,
    VersionComparison,
    compare_versions,
)
from harness.analysis.controls import TextBaseline
from harness.analysis.findings import Findings
from harness.analysis.layers import (
    Analysis,
    LayerResult,
    PairResponses,
    analyze,
    compare_runs,
    layer_id,
)
from harness.analysis.verdict import CRITERIA, CheckFailedError, Outcome, Verdict
from harness.settings import AnalysisSettings, Criteria

__all__ = [
    "CRITERIA",
    "Analysis",
    "AnalysisSettings",
    "BaselineError",
    "CheckFailedError",
    "Criteria",
    "Effect",
    "Findings",
    "LayerComparison",
    "LayerResult",
    "Outcome",
    "PairResponses",
    "TextBaseline",
    "Verdict",
    "VersionComparison",
    "analyze",
    "causal_effects",
    "compare_runs",
    "compare_versions",
    "layer_id",
]
