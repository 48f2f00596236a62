"""The expansion, its bootstrap and its closed form."""

import numpy as np
import pytest

from benchmarks.calibration import reference
from harness.stats import separation
from harness.stats.clusters import Clusters
from harness.stats.intervals import Accuracy, bootstrap_interval, expand, u_centred
from harness.stats.kernels import kernels
from harness.stats.resample import Flipper, Multipliers
from tests.support.arrays import pairs


def expansion(artifact, natural):
    layer = kernels(artifact, natural)
    return expand(Flipper(layer).observed(), layer.gram, layer.gram.folds)


def accuracy_interval(accuracies, inflation):
    alone = Clusters.from_labels(None, len(accuracies))
    measured = Accuracy.measure(accuracies, alone, inflation)
    return measured.interval(reference.t_quantile(0.95, len(accuracies)))


@pytest.mark.parametrize("effect", [0.0, 2.0])
def test_variance_is_the_formulas(effect):
    artifact, natural = pairs(1, 25, 70, effect)
    ours = expansion(artifact, natural)
    v1, v2, _ = reference.variances(artifact, natural)
    assert ours.first_order == pytest.approx(v1, rel=1e-10)
    assert ours.variance == pytest.approx(v1 + v2, rel=1e-10)
    assert ours.inflation == pytest.approx((v1 + v2) / v1, rel=1e-10)


def test_bootstrap_has_the_closed_forms_variance():
    ours = expansion(*pairs(2, 40, 100, 0.5))
    draws = ours.bootstrap(Multipliers(0, 40_000, 40))
    assert draws.mean() == pytest.approx(0, abs=5 * draws.std() / 200)
    assert draws.var() == pytest.approx(ours.variance, rel=0.06)


@pytest.mark.parametrize("effect", [0.0, 1.0, 3.0])
def test_bootstrap_and_analytic_interval_agree(effect):
    artifact, natural = pairs(3, 50, 200, effect)
    (result,) = separation(artifact[None], natural[None], permutations=0)
    low, high = result.analytic_interval
    assert result.d_interval == pytest.approx((low, high), abs=0.04 * (high - low))


def test_bootstrap_interval_is_widened_to_students_t():
    deviations = np.random.default_rng(0).standard_normal(200_000)
    low, high = bootstrap_interval(1.0, deviations, 12, 0.9)
    assert (high - low) / 2 == pytest.approx(reference.t_quantile(0.9, 12), rel=0.01)
    assert low + high == pytest.approx(2.0)


def test_higher_level_is_wider():
    artifact, natural = (arm[None] for arm in pairs(4, effect=1.0))
    (narrow,), (wide,) = (
        separation(artifact, natural, permutations=0, level=level) for level in (0.8, 0.99)
    )
    assert wide.d_interval[0] < narrow.d_interval[0] < narrow.d_interval[1] < wide.d_interval[1]
    assert wide.accuracy_interval[0] < narrow.accuracy_interval[0]


def test_rows_of_a_centred_matrix_sum_to_zero():
    gram = np.cov(np.random.default_rng(5).standard_normal((9, 20)))
    centred = u_centred(gram)
    np.testing.assert_allclose(centred.sum(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(centred, centred.T)
    assert (np.diagonal(centred) == 0).all()


def test_accuracy_interval_is_wilsons_at_the_effective_size():
    accuracies = np.random.default_rng(6).choice([0, 0.5, 1], 40, p=[0.1, 0.3, 0.6])
    mean = accuracies.mean()
    size = mean * (1 - mean) / (accuracies.var(ddof=1) / 40 * 1.7)
    expected = reference.wilson(mean, size, reference.t_quantile(0.95, 40))
    assert accuracy_interval(accuracies, 1.7) == pytest.approx(expected)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_accuracy_interval_keeps_a_width_at_the_ends(value):
    low, high = accuracy_interval(np.full(30, value), 1.5)
    assert 0 <= low < high <= 1
    assert high - low > 0.05
    assert value in (low, high)


def test_accuracy_interval_says_nothing_where_the_variance_is_undefined():
    assert accuracy_interval(np.full(30, 0.5), np.inf) == (0.0, 1.0)
