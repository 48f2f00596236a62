"""Does the model use the direction?

Run with -m causal, best at one layer: --artifact-layers 6. Both answers are given, and what is
measured is which of them the model prefers: nothing is generated with anything removed.
"""

import pytest

from harness.analysis import LayerResult
from harness.analysis.causality import Effect
from harness.analysis.judges import uses_direction
from harness.plugin import needs
from harness.settings import Criteria


@pytest.mark.causal
@needs("causal")
def test_addition(
    layer_result: LayerResult, causal_effects: tuple[Effect, Effect], criteria: Criteria
) -> None:
    uses_direction(layer_result, causal_effects[0], criteria).require()


@pytest.mark.causal
@needs("causal")
def test_ablation(
    layer_result: LayerResult, causal_effects: tuple[Effect, Effect], criteria: Criteria
) -> None:
    uses_direction(layer_result, causal_effects[1], criteria).require()
