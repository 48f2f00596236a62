"""Did this version change the signature? Checks against the run that --artifact-compare names.

The gate is passed where every layer of the baseline is looked at, d is equivalent in all of them,
and the directions are the baseline's.
"""

import pytest

from harness.analysis.comparison import LayerComparison, VersionComparison
from harness.analysis.gate import covers_baseline, same_direction, unchanged
from harness.analysis.verdict import Verdict
from harness.plugin import needs
from harness.settings import Criteria
from harness.testing.plan import Plan


@needs("baseline")
def test_covers_baseline(version_comparison: VersionComparison, criteria: Criteria) -> None:
    covers_baseline(version_comparison, criteria).require()


@needs("baseline")
def test_unchanged(layer_comparison: LayerComparison, artifact_plan: Plan) -> None:
    _require(unchanged(layer_comparison), artifact_plan)


@needs("baseline")
def test_same_direction(layer_comparison: LayerComparison, artifact_plan: Plan) -> None:
    if not layer_comparison.separated:
        pytest.skip(
            "can't be decided: by this run's criteria the baseline doesn't separate here, it has "
            "no direction"
        )
    _require(same_direction(layer_comparison), artifact_plan)


def _require(verdict: Verdict, plan: Plan) -> None:
    if verdict.outcome == "inconclusive" and plan.skip_inconclusive:
        pytest.skip(verdict.explanation)
    verdict.require()
