"""Every token along its pair's held-out direction."""

import numpy as np
import pytest

from harness.stats import pair_means, separation, token_scores

CLUSTERS = [0, 0, 0, *range(1, 20), 20, 20]


def responses(seed=0, n=24, hidden=16, effect=1.0):
    """Both arms, of unequal lengths, around means that are far from 0; a dimension is massive."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 8, (2, n))
    return [
        [
            (rng.standard_normal((k, hidden)) + sign * effect / 2) * ([500] + [1] * (hidden - 1))
            + 30
            for k in arm
        ]
        for sign, arm in zip((1, -1), lengths, strict=True)
    ]


@pytest.mark.parametrize("clusters", [None, CLUSTERS], ids=["single", "clustered"])
@pytest.mark.parametrize(
    ("scale", "direction"), [("sd", "mean"), ("raw", "mean"), ("sd", "shrinkage")]
)
@pytest.mark.parametrize("hidden", [6, 40])
def test_tokens_average_to_the_prompts_held_out_scores(clusters, scale, direction, hidden):
    arms = responses(hidden=hidden)
    how = {"scale": scale, "direction": direction, "clusters": clusters}
    artifact, natural = pair_means(*arms)
    (s,) = separation(artifact[None], natural[None], permutations=1, bootstrap=0, **how)
    found = token_scores(*arms, **how)
    shared = [min(map(len, pair)) for pair in zip(*arms, strict=True)]
    assert [len(prompt) for prompt in found[0]] == [len(prompt) for prompt in arms[0]]
    assert len(set(map(len, arms[0]))) > 2, "the arms are cut nowhere"
    for scores, prompts in zip((s.scores_artifact, s.scores_natural), found, strict=True):
        averages = [values[:k].mean() for values, k in zip(prompts, shared, strict=True)]
        np.testing.assert_allclose(averages, scores, rtol=1e-9, atol=1e-9)


def test_a_token_is_scored_along_what_the_other_pairs_give():
    """Computed once more, directly, for one token."""
    artifact, natural = responses()
    a, b = pair_means(artifact, natural)
    others = np.arange(len(a)) != 5
    delta, prompts = (a - b)[others], np.concatenate([a[others], b[others]])
    summed = delta.sum(axis=0)
    norm = np.sqrt((summed**2 / np.concatenate([a, b]).var(axis=0, ddof=1)).sum())
    w = summed / prompts.var(axis=0, ddof=1)
    expected = w @ (natural[5][2] - prompts.mean(axis=0)) / norm
    assert token_scores(artifact, natural)[1][5][2] == pytest.approx(expected)


def test_a_tokens_own_pair_teaches_its_direction_nothing():
    artifact, natural = responses(effect=0.0)
    before = token_scores(artifact, natural, scale="raw")[0][3]
    artifact[3][0] += 5.0
    natural[3][1] -= 5.0
    after = token_scores(artifact, natural, scale="raw")[0][3]
    np.testing.assert_allclose(after[1:], before[1:], rtol=1e-9)


def test_alike_arms_have_no_direction():
    _, natural = responses()
    found = token_scores(natural, natural)
    assert not any(values.any() for arm in found for values in arm)


def test_settings_and_shapes_are_checked():
    artifact, natural = responses()
    with pytest.raises(ValueError, match="scale must be"):
        token_scores(artifact, natural, scale="none")
    with pytest.raises(ValueError, match="same pairs"):
        token_scores(artifact, natural[1:])
    with pytest.raises(ValueError, match="one label"):
        token_scores(artifact, natural, clusters=[1])
