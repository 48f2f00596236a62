"""Did this version change the signature? Checks against the run that --artifact-compare names."""

import pytest

from harness.analysis.comparison import LayerComparison
from harness.analysis.verdict import unchanged
from harness.plugin import needs
from harness.testing.plan import Plan


@needs("baseline")
def test_unchanged(layer_comparison: LayerComparison, artifact_plan: Plan) -> None:
    verdict = unchanged(layer_comparison)
    if verdict.outcome == "inconclusive" and artifact_plan.skip_inconclusive:
        pytest.skip(verdict.explanation)
    verdict.require()
