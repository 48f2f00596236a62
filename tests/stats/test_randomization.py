"""The rank of one among alternatives that are as good, and over a family."""

import numpy as np
import pytest

from harness.stats import rank_test


def by_hand(statistics):
    """The same, number by number."""
    kinds, members, columns = statistics.shape
    z = np.empty_like(statistics)
    for k in range(kinds):
        for m in range(members):
            row = statistics[k, m]
            z[k, m] = (row - row.mean()) / row.std()
    alone, family = np.empty((kinds, members)), np.empty((kinds, members))
    largest = [[max(z[k, :, c]) for c in range(columns)] for k in range(kinds)]
    ranks = [[sum(v >= value for v in row) for value in row] for row in largest]
    smallest = [min(row[c] for row in ranks) for c in range(columns)]
    for k in range(kinds):
        for m in range(members):
            own = z[k, m, 0]
            alone[k, m] = sum(value >= own for value in z[k, m]) / columns
            rank = sum(value >= own for value in largest[k])
            family[k, m] = sum(each <= rank for each in smallest) / columns
    return alone, family


@pytest.mark.parametrize("seed", range(5))
def test_by_hand(seed):
    statistics = np.random.default_rng(seed).standard_normal((2, 3, 20)) * [[[1], [10], [0.1]]]
    found = rank_test(statistics)
    for ours, expected in zip(found, by_hand(statistics), strict=True):
        np.testing.assert_allclose(ours, expected)


def test_one_row():
    """Its family is itself: both are the plain rank."""
    statistics = np.arange(20.0)[None, None]
    assert rank_test(statistics)[0] == rank_test(statistics)[1] == 1
    assert rank_test(-statistics)[0] == rank_test(-statistics)[1] == 1 / 20


def test_scale_and_place_do_not_matter():
    statistics = np.random.default_rng(0).standard_normal((2, 3, 50))
    moved = statistics * np.array([1e-3, 1.0, 1e5])[None, :, None] + 7
    for one, other in zip(rank_test(statistics), rank_test(moved), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_kind_with_a_longer_tail_does_not_hide_the_other():
    rng = np.random.default_rng(1)
    statistics = np.stack([rng.standard_normal((4, 200)), rng.standard_normal((4, 200)) ** 4])
    statistics[0, :, 0] = 4.5
    assert statistics[0].std() < statistics[1].std()
    assert rank_test(statistics).p_adjusted[0].max() <= 2 / 200


def test_rows_that_do_not_vary_say_nothing():
    statistics = np.random.default_rng(0).standard_normal((2, 2, 30))
    statistics[0, 1] = 3.0
    statistics[1, 1] = 1e-9 * statistics[1, 0]
    found = rank_test(statistics, tolerance=1e-6)
    for p in found:
        assert p[0, 1] == p[1, 1] == 1
    assert not np.isnan(found).any()


def test_ties_count_against():
    statistics = np.ones((1, 1, 40)) + 1e-8 * np.random.default_rng(0).standard_normal(40)
    statistics[..., 20:] = 0
    assert rank_test(statistics, tolerance=1e-6).p_value == 0.5


def test_size():
    """Of correlated rows, some of them skewed, under the null."""
    rng = np.random.default_rng(0)
    runs, rejected, uncorrected = 600, 0, 0
    for _ in range(runs):
        shared = rng.standard_normal((1, 1, 100))
        statistics = shared + rng.standard_normal((2, 6, 100))
        statistics[1] = np.exp(statistics[1])
        found = rank_test(statistics)
        rejected += found.p_adjusted.min() <= 0.05
        uncorrected += found.p_value.min() <= 0.05
    # Five standard errors about .05.
    assert 0.005 <= rejected / runs <= 0.095
    assert uncorrected / runs > 0.15


def test_alternatives_from_an_estimated_law():
    """Contrasts of eight numbers, and their mean: the spread of the contrasts is the sample's own,
    while the mean's is the law's."""
    rng = np.random.default_rng(0)
    runs, with_degrees, without = 1500, 0, 0
    for _ in range(runs):
        sample = rng.standard_normal(8)
        weights = rng.standard_normal((8, 100))
        weights -= weights.mean(axis=0)
        weights[:, 0] = 1
        statistics = (sample @ (weights / np.linalg.norm(weights, axis=0)))[None, None]
        with_degrees += rank_test(statistics, degrees=7).p_value.item() <= 0.02
        without += rank_test(statistics).p_value.item() <= 0.02
    # Four standard errors.
    assert abs(with_degrees / runs - 0.02) < 0.015
    assert without / runs > 0.035


def test_degrees_keep_the_order():
    statistics = np.random.default_rng(0).standard_normal((2, 3, 60))
    statistics[0, :, 0] = [1, 30, 1e6]
    few, many = (rank_test(statistics, degrees=degrees) for degrees in (7, 1e9))
    np.testing.assert_allclose(many.p_value, rank_test(statistics).p_value)
    assert (few.p_value >= many.p_value)[statistics[..., 0] > 1].all()
    assert few.p_adjusted[0, 2] == few.p_adjusted.min()
