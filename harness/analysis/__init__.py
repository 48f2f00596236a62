"""From activations to results, layer by layer: estimates, controls, interventions, verdicts."""

from harness.analysis.layers import Analysis, LayerResult, analyze

__all__ = ["Analysis", "LayerResult", "analyze"]
