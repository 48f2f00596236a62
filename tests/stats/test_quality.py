"""Agreement of pairs, similarity of representations, drift of directions."""

import numpy as np
import pytest
from scipy.stats import ortho_group

from harness.stats import debiased_cka, direction_drift, pair_quality
from tests.support.arrays import pairs


def test_cosines_are_with_the_other_pairs():
    artifact, natural = pairs(0, effect=2.0)
    (quality,) = pair_quality(artifact[None], natural[None], scale="raw")
    delta = artifact - natural
    for i in range(30):
        others = np.delete(delta, i, axis=0).sum(axis=0)
        cosine = delta[i] @ others / np.linalg.norm(delta[i]) / np.linalg.norm(others)
        assert quality.cosines[i] == pytest.approx(cosine)
    assert quality.mean_cosine == pytest.approx(np.mean(quality.cosines))


def test_pairs_labelled_the_wrong_way_disagree_most():
    artifact, natural = pairs(1, effect=6.0)
    wrong = [4, 20]
    artifact[wrong], natural[wrong] = natural[wrong], artifact[wrong]
    (quality,) = pair_quality(artifact[None], natural[None])
    assert set(quality.disagreeing[:2]) == set(wrong)
    assert list(quality.disagreeing) == sorted(
        quality.disagreeing, key=lambda pair: quality.cosines[pair]
    )


def test_massive_dimensions_are_found():
    artifact, natural = (arm[None].copy() for arm in pairs(2))
    for arm in (artifact, natural):
        arm[:, :, [7, 3]] *= (1000, 100)
    (quality,) = pair_quality(artifact, natural, top=2)
    assert quality.top_dimensions == (7, 3)
    assert quality.top_share > 0.99
    with pytest.raises(ValueError, match="top must be at least 1"):
        pair_quality(artifact, natural, top=0)


def test_no_difference_no_cosine():
    same = np.random.default_rng(0).standard_normal((1, 10, 4))
    (quality,) = pair_quality(same, same)
    assert quality.mean_cosine == 0
    assert quality.disagreeing == ()
    assert quality.top_share == 0


def test_cka_of_unrelated_representations_is_zero_on_average():
    rng = np.random.default_rng(3)
    values = [
        debiased_cka(rng.standard_normal((1, 40, 300)), rng.standard_normal((1, 40, 200)))[0, 0]
        for _ in range(60)
    ]
    assert abs(np.mean(values)) < 5 * np.std(values) / np.sqrt(60)


def test_cka_ignores_rotation_scale_and_offset():
    x = np.random.default_rng(4).standard_normal((1, 20, 15))
    y = 3 * x @ ortho_group.rvs(15, random_state=0) + 5
    assert debiased_cka(x, y)[0, 0] == pytest.approx(1)


def test_cka_is_the_unbiased_hsic_of_song():
    x, y = np.random.default_rng(5).standard_normal((2, 12, 6))
    y = y + x

    def hsic(k, l):  # noqa: E741
        n = len(k)
        k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
        cross = 2 / (n - 2) * (k @ l).sum()
        return (np.trace(k @ l) + k.sum() * l.sum() / ((n - 1) * (n - 2)) - cross) / (n * (n - 3))

    k, l = x @ x.T, y @ y.T  # noqa: E741
    expected = hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))
    assert debiased_cka(x[None], y[None])[0, 0] == pytest.approx(expected)


def test_cka_compares_all_layers():
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((3, 20, 8)), [rng.standard_normal((20, 5)), np.ones((20, 2))]
    similarity = debiased_cka(x, y)
    assert similarity.shape == (3, 2)
    assert np.isnan(similarity[:, 1]).all()
    with pytest.raises(ValueError, match="same prompts"):
        debiased_cka(x, x[:, 1:])
    with pytest.raises(ValueError, match="at least 4 prompts"):
        debiased_cka(x[:, :3], x[:, :3])


def test_drift_of_an_unchanged_direction_is_one_despite_noise():
    rng = np.random.default_rng(7)
    cosines = []
    for seed in range(40):
        artifact, natural = (arm[None] for arm in pairs(seed, 40, 200, 4.0))
        again = rng.standard_normal((2, *artifact.shape)) * 0.5
        (drift,) = direction_drift(artifact, natural, artifact + again[0], natural + again[1])
        cosines.append(drift.cosine)
    assert np.mean(cosines) == pytest.approx(1, abs=0.05)


def test_drift_of_a_right_angle_is_zero():
    artifact, natural = pairs(8, 60, 20)
    one, other = artifact.copy(), artifact.copy()
    one[:, 0] += 5
    other[:, 1] += 5
    (drift,) = direction_drift(one[None], natural[None], other[None], natural[None])
    assert drift.cosine == pytest.approx(0, abs=0.15)
    assert drift.interval[0] < drift.cosine < drift.interval[1]


def test_drift_jackknife_is_the_explicit_one():
    artifact, natural = pairs(9, 25, 10, 4.0)
    other = artifact + np.random.default_rng(1).normal(0, 0.5, artifact.shape)
    (drift,) = direction_drift(
        artifact[None], natural[None], other[None], natural[None], scale="raw"
    )

    def cosine(keep):
        a, b = (artifact - natural)[keep], (other - natural)[keep]

        def off(x, y):
            return (x @ y.T).sum() - (x * y).sum()

        return off(a, b) / np.sqrt(off(a, a) * off(b, b))

    everyone = np.arange(25)
    without = np.array([cosine(everyone != k) for k in range(25)])
    assert drift.cosine == pytest.approx(cosine(everyone >= 0))
    assert drift.se == pytest.approx(np.sqrt(24 / 25 * ((without - without.mean()) ** 2).sum()))


def test_drift_needs_matching_versions():
    artifact, natural = (arm[None] for arm in pairs(0))
    with pytest.raises(ValueError, match="same shape, layer by layer"):
        direction_drift(artifact, natural, artifact[..., 1:], natural[..., 1:])


@pytest.mark.parametrize(
    ("angle", "noise", "verdict"),
    [(0, 0.1, "same"), (60, 0.1, "turned"), (24, 0.6, "inconclusive")],
)
def test_drift_says_whether_the_direction_is_the_same(angle, noise, verdict):
    rng = np.random.default_rng(2)
    artifact, natural = rng.standard_normal((2, 60, 40))
    along, aside = np.zeros((2, 40))
    along[:20], aside[20:] = 0.8, 0.8
    turned = np.cos(np.deg2rad(angle)) * along + np.sin(np.deg2rad(angle)) * aside
    again = noise * rng.standard_normal((2, 60, 40))
    (drift,) = direction_drift(
        (artifact + along)[None], natural[None],
        (artifact + again[0] + turned)[None], (natural + again[1])[None],
    )  # fmt: skip
    assert drift.verdict == verdict, drift
