"""The value that a run's results travel in."""

import pytest

from harness.analysis.findings import Findings
from harness.settings import Criteria
from tests.support.builders import analysis_of, layer_result, shown_result

ONE, OTHER = (3, "mlp_out"), (4, "mlp_out")


@pytest.fixture
def findings():
    good = shown_result(*ONE, d=2.0, d_interval=(1.5, 2.5), p_adjusted=0.001)
    poor = layer_result(*OTHER, d=0.9, d_interval=(0.5, 1.3), p_adjusted=0.001)
    return Findings(analysis_of(good, poor), Criteria())


def test_holds_the_analysis_results(findings):
    assert dict(findings) == dict(findings.analysis)
    assert list(findings) == [ONE, OTHER]


def test_names_each_criterions_verdict(findings):
    verdicts = findings.verdicts()
    assert list(verdicts) == [ONE, OTHER]
    assert {name: v.outcome for name, v in verdicts[OTHER].items()} == {
        "d": "inconclusive",
        "accuracy": "passed",
        "p": "passed",
    }


def test_outcome_is_that_of_the_ladder(findings):
    assert findings.outcome(ONE) == "passed"
    assert findings.outcome(OTHER) == "inconclusive"
    assert findings.ladder(ONE).holds("beyond_base")
    assert findings.ladder(OTHER).verdicts["beyond_base"] is None


def test_nothing_was_compared_or_intervened_by_default(findings):
    assert findings.comparison is None
    assert findings.interventions == {}
