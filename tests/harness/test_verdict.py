"""What passes, what fails, what is undecided, and whether the message says so."""

import math
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.judges import above_chance, companion_separates, effect_size, significant
from harness.analysis.verdict import CheckFailedError
from harness.analysis.words import decimal, interval, p_value
from harness.settings import Criteria
from harness.stats import separation
from tests.support.arrays import pairs
from tests.support.builders import layer_result

CRITERIA = Criteria(d_threshold=0.8, alpha=0.05)


class TestEffectSize:
    @pytest.mark.parametrize(
        ("bounds", "outcome"),
        [
            ((0.81, 2.0), "passed"),
            ((0.8, 2.0), "inconclusive"),
            ((0.5, 0.81), "inconclusive"),
            ((0.5, 0.8), "failed"),
            ((-0.5, 0.5), "failed"),
            ((math.nan, math.nan), "failed"),
        ],
    )
    def test_outcome(self, bounds, outcome):
        verdict = effect_size(layer_result(d=sum(bounds) / 2, d_interval=bounds), CRITERIA)
        assert verdict.outcome == outcome

    def test_a_large_estimate_alone_does_not_pass(self):
        verdict = effect_size(layer_result(d=5.0, d_interval=(0.7, 9.3)), CRITERIA)
        assert verdict.outcome == "inconclusive"

    def test_threshold_is_that_of_the_criteria(self):
        result = layer_result(d=1.5, d_interval=(1.0, 2.0))
        assert effect_size(result, Criteria(d_threshold=0.99)).outcome == "passed"
        assert effect_size(result, Criteria(d_threshold=1.01)).outcome == "inconclusive"
        assert effect_size(result, Criteria(d_threshold=-3)).outcome == "passed"

    def test_not_defined(self):
        verdict = effect_size(layer_result(d=math.nan, d_interval=(0.9, 0.9)), CRITERIA)
        assert verdict.outcome == "failed"
        assert "same activations" in verdict.explanation

    def test_interval_without_end(self):
        result = layer_result(d=1.5, d_interval=(-math.inf, math.inf))
        assert effect_size(result, CRITERIA).outcome == "inconclusive"

    def test_infinite(self):
        infinite = layer_result(d=math.inf, d_interval=(math.inf, math.inf))
        assert effect_size(infinite, CRITERIA).outcome == "passed"

    def test_failure_says_why(self):
        verdict = effect_size(layer_result(d=0.123, d_interval=(-0.3, 0.55), n_pairs=65), CRITERIA)
        for part in ("layer 6, mlp_out", "d = 0.12", "[-0.30, 0.55]", "below", "0.8", "n = 65"):
            assert part in verdict.explanation
        assert "In-sample d = 4.00" in verdict.explanation

    def test_inconclusive_says_how_many_pairs_would_decide(self):
        result = layer_result(d=1.0, d_interval=(0.0, 2.0), d_se=0.5, n_pairs=50)
        verdict = effect_size(result, Criteria(d_threshold=0.5))
        # 1 + 0.84 · 0.5 has to shrink to the distance 0.5: 8.07 times as many pairs.
        assert "about 404 pairs would decide it in 4 runs of 5" in verdict.explanation

    def test_estimate_on_the_threshold_promises_nothing(self):
        verdict = effect_size(layer_result(d=0.8, d_interval=(0.4, 1.2)), CRITERIA)
        assert "d lies at the threshold" in verdict.explanation

    @given(st.floats(-5, 5), st.floats(0, 3), st.floats(-5, 5))
    def test_passes_only_with_the_whole_interval_above(self, d, half, threshold):
        result = layer_result(d=d, d_interval=(d - half, d + half))
        outcome = effect_size(result, Criteria(d_threshold=threshold)).outcome
        assert (outcome == "passed") == (d - half > threshold)
        assert (outcome == "failed") == (d + half <= threshold)


class TestAccuracy:
    @pytest.mark.parametrize(
        ("bounds", "outcome"),
        [
            ((0.51, 0.9), "passed"),
            ((0.5, 0.9), "inconclusive"),
            ((0.4, 0.6), "inconclusive"),
            ((0.2, 0.5), "failed"),
            ((0.1, 0.3), "failed"),
        ],
    )
    def test_outcome(self, bounds, outcome):
        result = layer_result(accuracy=sum(bounds) / 2, accuracy_interval=bounds)
        assert above_chance(result, CRITERIA).outcome == outcome

    def test_message(self):
        result = layer_result(accuracy=0.515, accuracy_interval=(0.4, 0.62), n_pairs=65)
        explanation = above_chance(result, CRITERIA).explanation
        for part in ("layer 6, mlp_out", "[0.40, 0.62]", "chance, 0.5, is not excluded", "n = 65"):
            assert part in explanation


class TestSignificance:
    @pytest.mark.parametrize(
        ("p", "outcome"),
        [(0.049, "passed"), (0.05, "failed"), (0.9, "failed"), (math.nan, "failed")],
    )
    def test_outcome(self, p, outcome):
        assert significant(layer_result(p_adjusted=p), CRITERIA).outcome == outcome

    def test_is_family_wise(self):
        result = layer_result(p_value=0.001, p_adjusted=0.2)
        assert significant(result, CRITERIA).outcome == "failed"
        assert "0.2000 ± 0.0002 (this layer alone 0.0010 ± 0.0001)" in (
            significant(result, CRITERIA).explanation
        )

    def test_alpha_is_that_of_the_criteria(self):
        result = layer_result(p_adjusted=0.02)
        assert significant(result, Criteria(alpha=0.01)).outcome == "failed"
        assert significant(result, Criteria(alpha=0.03)).outcome == "passed"


def ends(low, high, se):
    return layer_result(d=(low + high) / 2, d_interval=(low, high), d_interval_se=se)


class TestMonteCarloError:
    """Verdicts that another seed could turn."""

    SAID = "another seed of the resampling could give another verdict; more replicates settle it"

    @pytest.mark.parametrize(
        ("verdict", "distance"),
        [
            (effect_size(ends(0.9, 2.0, 0.02), CRITERIA), 5),
            (effect_size(ends(0.5, 0.75, 0.02), CRITERIA), 15),
            (effect_size(ends(0.8, 2.0, 0.02), CRITERIA), 0),
            (effect_size(ends(0.75, 0.86, 0.02), CRITERIA), 2.5),
            (effect_size(ends(0.8, 2.0, 0.0), CRITERIA), math.inf),
            (effect_size(ends(0.8, 2.0, math.nan), CRITERIA), math.inf),
            (effect_size(ends(-math.inf, math.inf, math.nan), CRITERIA), math.inf),
            (significant(layer_result(p_adjusted=0.04, p_adjusted_se=0.002), CRITERIA), 5),
            (significant(layer_result(p_adjusted=0.055, p_adjusted_se=0.002), CRITERIA), 2.5),
            (significant(layer_result(p_adjusted=0.05, p_adjusted_se=0.0), CRITERIA), math.inf),
            (significant(layer_result(p_adjusted=math.nan), CRITERIA), math.nan),
            (above_chance(layer_result(accuracy_interval=(0.502, 0.7)), CRITERIA), 2),
        ],
    )
    def test_distance(self, verdict, distance):
        assert verdict.distance == pytest.approx(distance, abs=1e-9, nan_ok=True)
        assert verdict.close == (distance <= 3)
        assert (self.SAID in verdict.explanation) == (distance <= 3)

    @pytest.mark.parametrize(
        ("changes", "distance"),
        [
            ({"d_interval": (0.02, 0.5)}, 5),
            ({"d_interval": (-0.4, 0.004)}, 100),
            ({"d_interval": (0.02, 0.5), "p_adjusted": 0.0504}, 2),
            ({"d_interval": (0.004, 0.5), "p_adjusted": 0.0516}, 8),
            # Both would have to turn.
            ({"d_interval": (-0.004, 0.5), "p_adjusted": 0.0516}, 8),
            ({"d_interval": (-0.04, 0.5), "p_adjusted": 0.0504}, 10),
        ],
    )
    def test_distance_at_other_positions(self, changes, distance):
        other = layer_result(**changes).separation
        result = replace(layer_result(), companions={"forced": other})
        verdict = companion_separates(result, "forced", CRITERIA)
        assert verdict.distance == pytest.approx(distance)
        assert (self.SAID in verdict.explanation) == (distance <= 3)

    def test_errors_are_said(self):
        explanation = effect_size(ends(0.9, 2.0, 0.0123), CRITERIA).explanation
        assert (
            "d = 1.45 [0.90, 2.00] (ends ± 0.01), at least 0.90 ± 0.01 with all layers"
            in explanation
        )

    @pytest.mark.parametrize("se", [0.0, math.nan])
    def test_none_is_said_where_there_is_none_or_it_is_not_known(self, se):
        result = layer_result(d_interval_se=se, p_adjusted_se=se, p_se=se)
        for judge in (effect_size, significant):
            assert "±" not in judge(result, CRITERIA).explanation

    def test_only_verdicts_said_to_be_close_turn_with_the_seed(self):
        """Thresholds at one seed's figures turn with others; thresholds five errors away don't."""
        arms = [arm[None] for arm in pairs(0, 24, 30, 1.0)]
        found = [
            layer_result(**asdict(s))
            for seed in range(30)
            for s in separation(*arms, permutations=300, bootstrap=300, seed=seed)
        ]
        first = found[0].separation
        for away, outcomes in ((0.0, 2), (6.0, 1)):
            criteria = Criteria(
                d_threshold=first.d_lower - away * first.d_lower_se,
                alpha=first.p_adjusted + away * first.p_adjusted_se + 1e-9,
            )
            for judge in (effect_size, significant):
                verdicts = [judge(result, criteria) for result in found]
                assert len({verdict.outcome for verdict in verdicts}) == outcomes
                assert verdicts[0].close == (away == 0)


class TestRequire:
    def test_passed(self):
        effect_size(layer_result(), CRITERIA).require()

    @pytest.mark.parametrize("bounds", [(0.5, 2.0), (0.5, 0.7)])
    def test_neither_failed_nor_undecided_gets_through(self, bounds):
        verdict = effect_size(layer_result(d_interval=bounds), CRITERIA)
        with pytest.raises(CheckFailedError) as caught:
            verdict.require()
        assert isinstance(caught.value, AssertionError)
        assert str(caught.value) == verdict.explanation


class TestNumbers:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (1.005, "1.00"),
            (-0.001, "0.00"),
            (-0.0, "0.00"),
            (0.004999, "0.00"),
            (0.005, "0.01"),
            (-0.006, "-0.01"),
            (-12.345, "-12.35"),
            (math.inf, "inf"),
            (math.nan, "nan"),
        ],
    )
    def test_decimal(self, value, text):
        assert decimal(value) == text

    def test_interval(self):
        assert interval((-0.001, 1.234)) == "[0.00, 1.23]"

    @pytest.mark.parametrize(
        ("p", "text"), [(1.0, "1.0000"), (0.0001, "0.0001"), (2e-20, "2.0e-20"), (math.nan, "nan")]
    )
    def test_p_value(self, p, text):
        assert p_value(p) == text
