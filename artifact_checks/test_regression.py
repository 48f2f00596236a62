"""Did this version change the signature? Checks against the run that --artifact-compare names."""

import pytest

from harness.plan import Plan
from harness.plugin import needs
from harness.verdict import unchanged
from harness.versions import LayerComparison


@needs("baseline")
def test_unchanged(layer_comparison: LayerComparison, artifact_plan: Plan) -> None:
    verdict = unchanged(layer_comparison)
    if verdict.outcome == "inconclusive" and artifact_plan.skip_inconclusive:
        pytest.skip(verdict.explanation)
    verdict.require()
