"""The value that a run's results travel in."""

from dataclasses import replace

import pytest

from harness.analysis.behaviour import Behaviour
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


def test_what_cannot_be_decided_is_neither_held_nor_missed():
    undecided = Behaviour("a file", "f" * 64, {}, (), undecided="8 prompts are needed")
    found = Findings(analysis_of(shown_result(*ONE), behaviour=undecided), Criteria())
    assert found.ladder(ONE).verdicts["follows_behaviour"].outcome == "undecidable"
    assert not found.ladder(ONE).holds("follows_behaviour")
    assert found.outcome(ONE) == "passed"


def test_a_needed_claim_that_cannot_be_decided_leaves_it_open():
    found = Findings(analysis_of(replace(shown_result(*ONE), across=None)), Criteria())
    assert found.ladder(ONE).verdicts["across_categories"].outcome == "undecidable"
    assert found.outcome(ONE) == "inconclusive"


def test_nothing_was_compared_or_intervened_by_default(findings):
    assert findings.comparison is None
    assert findings.interventions == {}
