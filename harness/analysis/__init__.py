"""From activations to results, layer by layer: estimates, controls, interventions, verdicts."""

from harness.analysis.estimating import analyze
from harness.analysis.layers import Analysis, LayerResult

__all__ = ["Analysis", "LayerResult", "analyze"]
