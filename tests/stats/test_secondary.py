"""Transfer between categories, and curves over tokens."""

import numpy as np
import pytest

from benchmarks.calibration.reference import d_s, flipped
from harness.stats import leave_one_category_out, pair_means, separation, step_curve
from tests.support.arrays import pairs

CATEGORIES = ["a", "b", "c"] * 10


def test_category_is_scored_along_the_others_direction():
    artifact, natural = pairs(0, effect=1.0)
    ((_, middle, _),) = leave_one_category_out(artifact[None], natural[None], CATEGORIES)
    held = np.array(CATEGORIES) == "b"
    a, b = artifact[~held], natural[~held]
    w = (a - b).sum(axis=0) / np.concatenate([a, b]).var(axis=0, ddof=1)
    score_a, score_b = (
        (arm[held] - np.concatenate([a, b]).mean(axis=0)) @ w for arm in (artifact, natural)
    )
    j = 1 - 3 / (4 * 18 - 1)
    assert middle.category == "b"
    assert middle.n_pairs == 10
    assert middle.d == pytest.approx(j * d_s(score_a - score_b, (score_a + score_b) / 2))
    assert middle.accuracy == pytest.approx(((score_a > 0).mean() + (score_b < 0).mean()) / 2)


def test_a_direction_of_its_own_does_not_transfer():
    artifact, natural = pairs(1, 50, 30)
    artifact[:40, 0] += 8.0
    artifact[40:, 1] += 8.0
    categories = ["shared"] * 20 + ["alike"] * 20 + ["apart"] * 10
    (transfers,) = leave_one_category_out(artifact[None], natural[None], categories)
    d = {transfer.category: transfer.d for transfer in transfers}
    assert d["shared"] > 2
    assert d["alike"] > 2
    assert abs(d["apart"]) < 1.2
    p = {transfer.category: transfer.p_adjusted for transfer in transfers}
    assert p["shared"] < 0.001 < 0.05 < p["apart"]


def test_small_categories_are_left_out():
    artifact, natural = (arm[None] for arm in pairs(2, 20))
    (transfers,) = leave_one_category_out(artifact, natural, ["x"] * 2 + ["y"] * 18)
    assert transfers == []
    (transfers,) = leave_one_category_out(artifact, natural, ["x"] * 3 + ["y"] * 17)
    assert [t.category for t in transfers] == ["x"]
    with pytest.raises(ValueError, match="one category for each of 20 pairs"):
        leave_one_category_out(artifact, natural, ["x"])
    with pytest.raises(ValueError, match="permutations must be 1 or more, not 0"):
        leave_one_category_out(artifact, natural, ["x"] * 20, permutations=0)


def responses(seed=0, n=24, hidden=16, effect=0.0, longest=9):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(longest - 2, longest + 1, (2, n))
    return [
        [sign * effect / 2 / np.sqrt(hidden) + rng.standard_normal((k, hidden)) for k in arm]
        for sign, arm in zip((1, -1), lengths, strict=True)
    ]


def explicit_step(artifact, natural, step, signs):
    """D and R at one token, by refitting each direction to the other pairs' averages."""
    means = flipped(*pair_means(artifact, natural), signs)
    rows = [i for i in range(len(signs)) if min(len(artifact[i]), len(natural[i])) > step]
    at_step = flipped(
        np.stack([artifact[i][step] for i in rows]),
        np.stack([natural[i][step] for i in rows]),
        signs[rows],
    )
    middle = (at_step[0] + at_step[1]) / 2
    variance = np.concatenate(means).var(axis=0, ddof=1)
    difference, midpoint = np.empty(len(rows)), np.empty(len(rows))
    for row, i in enumerate(rows):
        others = np.arange(len(signs)) != i
        a, b = means[0][others], means[1][others]
        total = (a - b).sum(axis=0)
        w = total / np.concatenate([a, b]).var(axis=0, ddof=1)
        w /= np.sqrt((total**2 / variance).sum())
        difference[row] = w @ (at_step[0][row] - at_step[1][row])
        midpoint[row] = w @ (middle[row] - middle.mean(axis=0))
    return difference, midpoint


def test_steps_equal_an_explicit_refit():
    artifact, natural = responses(effect=1.5)
    permutations, seed = 40, 5
    curve = step_curve(artifact, natural, permutations=permutations, seed=seed)
    signs = np.random.default_rng(seed).integers(0, 2, (permutations, 24), dtype=np.int8) * 2 - 1
    signs[0] = 1
    null_d_z = []
    for result in curve:
        scores = [explicit_step(artifact, natural, result.step, pattern) for pattern in signs]
        j = 1 - 3 / (4 * (2 * result.n_pairs - 2) - 1)
        assert len(scores[0][0]) == result.n_pairs
        assert result.d == pytest.approx(j * d_s(*scores[0]), abs=1e-9)
        quantile = np.quantile([j * d_s(*score) for score in scores], 0.95)
        assert result.null_quantile_95 == pytest.approx(quantile, abs=1e-9)
        null_d_z.append([d.mean() / d.std(ddof=1) for d, _ in scores])
        assert result.d_z == pytest.approx(null_d_z[-1][0], abs=1e-9)
    null_d_z = np.array(null_d_z)
    for result, flips in zip(curve, null_d_z, strict=True):
        assert result.p_value == (flips >= flips[0] - 1e-12).mean()
        assert result.p_adjusted == (null_d_z.max(axis=0) >= flips[0] - 1e-12).mean()


def test_only_steps_that_most_pairs_reach():
    artifact, natural = responses()
    shared = np.array([min(map(len, arms)) for arms in zip(artifact, natural, strict=True)])
    curve = step_curve(artifact, natural, permutations=20)
    assert [result.step for result in curve] == list(range(len(curve)))
    assert all(result.n_pairs == (shared > result.step).sum() for result in curve)
    assert (shared > curve[-1].step).mean() >= 0.8 > (shared > len(curve)).mean()


def test_the_effects_place_is_found():
    rng = np.random.default_rng(3)
    artifact, natural = rng.standard_normal((2, 40, 6, 20))
    artifact[:, 4] += 1.5
    curve = step_curve(list(artifact), list(natural), permutations=500)
    assert max(curve, key=lambda result: result.d).step == 4
    assert curve[4].p_adjusted < 0.01
    assert max(abs(result.d) for result in curve[:4]) < 1


def test_one_token_is_the_separation_itself():
    artifact, natural = pairs(4, effect=1.0)
    (step,) = step_curve(list(artifact[:, None]), list(natural[:, None]), permutations=50)
    (whole,) = separation(artifact[None], natural[None], permutations=50, bootstrap=0)
    assert step.d == pytest.approx(whole.d, abs=1e-12)
    assert step.accuracy == whole.accuracy


def test_wrong_input_is_named():
    artifact, natural = responses()
    with pytest.raises(ValueError, match="permutations must be at least 1"):
        step_curve(artifact, natural, permutations=0)
    with pytest.raises(ValueError, match="7 pairs are too few"):
        step_curve(artifact[:7], natural[:7])
    with pytest.raises(ValueError, match="min_share must lie"):
        step_curve(artifact, natural, min_share=0)
