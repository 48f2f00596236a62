"""Input that is too small, broken, repeated or degenerate."""

import warnings

import numpy as np
import pytest

from harness.stats import average_duplicates, distinct_pairs, finite_pairs, pair_means, separation
from tests.support.arrays import pairs

QUICK = {"permutations": 200, "bootstrap": 20}


def layered(n=30, layers=2, hidden=12, effect=1.0):
    artifact, natural = zip(*(pairs(k, n, hidden, effect) for k in range(layers)), strict=True)
    return np.stack(artifact), np.stack(natural)


def test_fewer_than_8_pairs_are_refused():
    with pytest.raises(ValueError, match="7 distinct pairs are too few: at least 8"):
        separation(*layered(7), **QUICK)


def test_fewer_than_20_pairs_warn():
    with pytest.warns(UserWarning, match="only 19 pairs"):
        separation(*layered(19), **QUICK)


def test_20_pairs_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        separation(*layered(20), **QUICK)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_name(value):
    artifact, natural = layered()
    natural[1, 17, 3] = value
    with pytest.raises(ValueError, match=r"natural holds NaN or infinity in layer 1, pair 17"):
        separation(artifact, natural, **QUICK)


def test_pairs_that_are_not_finite_can_be_dropped_everywhere():
    artifact, natural = layered()
    artifact[0, 4, 0], natural[1, 17, 3] = np.inf, np.nan
    keep = finite_pairs(artifact, natural)
    assert np.flatnonzero(~keep).tolist() == [4, 17]
    (first, _) = separation(artifact[:, keep], natural[:, keep], **QUICK)
    assert first.n_pairs == 28


def test_dropping_more_than_a_tenth_is_an_error():
    artifact, natural = layered()
    artifact[0, :3, 0] = np.nan
    assert finite_pairs(artifact, natural).sum() == 27
    artifact[1, 29, 0] = np.nan
    with pytest.raises(ValueError, match="4 of 30 pairs hold NaN or infinity, more than the 10%"):
        finite_pairs(artifact, natural)


@pytest.mark.parametrize(
    ("artifact", "natural", "message"),
    [
        (np.ones((30, 5)), np.ones((30, 5)), r"for one layer pass it as array\[None\]"),
        (np.ones((2, 30, 5)), np.ones((2, 30, 6)), "must have the same shape"),
        (np.ones((2, 30, 5)), np.ones((2, 29, 5)), "must have the same shape"),
        (np.ones((0, 30, 5)), np.ones((0, 30, 5)), "artifact .* holds no layer"),
        (np.ones((2, 30, 0)), np.ones((2, 30, 0)), "its layer 0 has shape"),
        ([np.ones(30)], [np.ones(30)], "its layer 0 has shape"),
        ([np.ones((30, 5)), np.ones((29, 5))], [np.ones((30, 5))] * 2, "same pairs in every layer"),
        (np.ones((2, 30, 5), complex), np.ones((2, 30, 5)), "real numbers"),
    ],
)
def test_wrong_shapes_are_named(artifact, natural, message):
    with pytest.raises(ValueError, match=message):
        separation(artifact, natural, **QUICK)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"scale": "mad"}, "scale must be 'sd' or 'raw'"),
        ({"permutations": -1}, "permutations must be"),
        ({"bootstrap": -1}, "bootstrap must be"),
        ({"level": 95}, "level must lie between 0 and 1"),
    ],
)
def test_wrong_settings_are_named(option, message):
    with pytest.raises(ValueError, match=message):
        separation(*layered(), **(QUICK | option))


def test_layers_may_differ_in_width():
    sites = [pairs(k, 24, hidden) for k, hidden in enumerate((5, 90, 31))]
    results = separation(*zip(*sites, strict=True), **QUICK)
    alone = [separation(a[None], b[None], **QUICK)[0] for a, b in sites]
    assert [r.d for r in results] == [r.d for r in alone]
    assert [r.p_value for r in results] == [r.p_value for r in alone]


def test_duplicates_count_once():
    artifact, natural = layered()
    index = [*range(30), 3, 3, 9]
    once = separation(artifact, natural, **QUICK)
    twice = separation(artifact[:, index], natural[:, index], **QUICK)
    assert once == twice
    assert twice[0].pairs == tuple(range(30))


def test_a_pair_repeated_in_some_layers_only_is_no_duplicate():
    artifact, natural = layered()
    artifact[0, 5], natural[0, 5] = artifact[0, 6], natural[0, 6]
    assert len(distinct_pairs(artifact, natural)) == 30
    assert len(distinct_pairs(artifact[:1], natural[:1])) == 29


def test_duplicates_leave_too_few():
    artifact, natural = layered(7)
    with pytest.raises(ValueError, match="7 distinct pairs"):
        separation(np.tile(artifact, (1, 5, 1)), np.tile(natural, (1, 5, 1)), **QUICK)


def test_signed_zeros_are_equal():
    artifact, natural = layered()
    artifact[:, 5], natural[:, 5] = 0.0, 1.0
    artifact[:, 6], natural[:, 6] = -0.0, 1.0
    assert len(distinct_pairs(artifact, natural)) == 29


def test_prompts_under_several_ids_are_averaged():
    values = np.arange(24.0).reshape(2, 4, 3)
    averaged = average_duplicates(values, ["x", "y", "x", "z"])
    assert averaged.shape == (2, 3, 3)
    np.testing.assert_array_equal(averaged[:, 0], values[:, [0, 2]].mean(axis=1))
    np.testing.assert_array_equal(averaged[:, 1:], values[:, [1, 3]])
    with pytest.raises(ValueError, match="one per label"):
        average_duplicates(values, ["x", "y"])


def test_arms_without_any_difference():
    same = np.random.default_rng(0).standard_normal((1, 30, 6))
    (result,) = separation(same, same, **QUICK)
    assert np.isnan(result.d)
    assert np.isnan(result.d_z)
    assert result.accuracy == result.paired_accuracy == result.auroc == 0.5
    assert result.p_value == result.p_adjusted == 1
    assert result.accuracy_interval == (0.0, 1.0)


def test_a_dead_layer_leaves_its_family_alone():
    artifact, natural = layered()
    alone = separation(artifact, natural, **QUICK)
    dead = np.ones((1, 30, 12))
    results = separation(np.concatenate([artifact, dead]), np.concatenate([natural, dead]), **QUICK)
    assert [r.p_adjusted for r in results[:2]] == [r.p_adjusted for r in alone]
    assert results[2].p_adjusted == 1


def test_differences_all_alike_are_infinitely_clear():
    """Equal shifts of prompts that vary elsewhere: sd(D) vanishes, p is the smallest there is."""
    rng = np.random.default_rng(0)
    natural = np.zeros((10, 2))
    natural[:, 1] = rng.standard_normal(10)
    artifact = natural + np.array([1.0, 0.0])
    with pytest.warns(UserWarning, match="only 10 pairs"):
        (result,) = separation(artifact[None], natural[None], scale="raw")
    assert result.d_z == np.inf
    assert result.p_value == 2**-9
    assert result.p_se == 0
    assert result.accuracy == 1


def test_pairs_without_any_direction_to_score_along():
    """One pair holds all the difference there is, so its own direction is nothing."""
    artifact, natural = np.random.default_rng(0).standard_normal((2, 20, 5))
    artifact[1:] = natural[1:]
    (result,) = separation(artifact[None], natural[None], **QUICK)
    assert result.scores_artifact[0] == result.scores_natural[0] == 0
    assert result.p_value == 1


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered")
def test_a_layer_that_overflows_is_no_evidence():
    """Of three layers of noise one is too large to be squared."""
    artifact, natural = layered(layers=3, effect=0.0)
    usual = separation(artifact, natural, scale="raw", **QUICK)
    for arm in (artifact, natural):
        arm[1] *= 1e155
    found = separation(artifact, natural, scale="raw", **QUICK)
    assert np.isnan(found[1].d)
    assert found[1].p_value == 1
    for one, before in zip(found, usual, strict=True):
        assert one.p_adjusted >= before.p_adjusted
        assert np.isnan(one.effective_layers)
    assert found[0].p_value == usual[0].p_value


def test_without_a_test_there_are_no_p_values():
    (result,) = separation(*layered(layers=1), permutations=0)
    assert np.isnan([result.p_value, result.p_adjusted, result.null_mean]).all()
    assert np.isfinite(result.d_interval).all()


def test_constant_dimensions_change_nothing():
    artifact, natural = layered(layers=1)
    constant = np.full((1, 30, 7), 0.1)
    (one,) = separation(artifact, natural, **QUICK)
    (other,) = separation(
        np.concatenate([artifact, constant], axis=2),
        np.concatenate([natural, constant], axis=2),
        **QUICK,
    )
    assert other.d == pytest.approx(one.d, abs=1e-12)
    assert other.p_value == one.p_value


def test_progress_sees_every_layer():
    seen = []

    def progress(layers):
        for layer in layers:
            seen.append(layer)
            yield layer

    separation(*layered(layers=3), progress=progress, **QUICK)
    assert seen == [0, 1, 2]


def test_pairs_keep_the_tokens_that_both_arms_have():
    rng = np.random.default_rng(0)
    artifact = [rng.standard_normal((2, tokens, 3)).astype(np.float32) for tokens in (4, 2)]
    natural = [rng.standard_normal((2, tokens, 3)).astype(np.float32) for tokens in (3, 5)]
    a, b = pair_means(artifact, natural)
    assert a.shape == b.shape == (2, 2, 3)
    assert a.dtype == np.float64
    np.testing.assert_allclose(a[:, 0], artifact[0][:, :3].mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(b[:, 1], natural[1][:, :2].mean(axis=1), rtol=1e-6)


def test_pairs_without_tokens_are_named():
    empty, some = np.ones((0, 3)), np.ones((4, 3))
    with pytest.raises(ValueError, match="pair 1 has no tokens"):
        pair_means([some, some], [some, empty])
    with pytest.raises(ValueError, match="must hold the same pairs: 2 and 1"):
        pair_means([some, some], [some])
