"""From activations to results, layer by layer: estimates, controls, interventions, verdicts."""

from harness.analysis.layers import (
    Analysis,
    AnalysisSettings,
    LayerResult,
    PairResponses,
    analyze,
    compare_runs,
    layer_id,
)

__all__ = [
    "Analysis",
    "AnalysisSettings",
    "LayerResult",
    "PairResponses",
    "analyze",
    "compare_runs",
    "layer_id",
]
