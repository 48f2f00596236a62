"""From activations to results, layer by layer: estimates, controls, interventions, verdicts."""

from harness.analysis.layers import (
    Analysis,
    LayerResult,
    PairResponses,
    analyze,
    compare_runs,
    layer_id,
)
from harness.settings import AnalysisSettings

__all__ = [
    "Analysis",
    "AnalysisSettings",
    "LayerResult",
    "PairResponses",
    "analyze",
    "compare_runs",
    "layer_id",
]
