"""The usual in-sample figures."""

import numpy as np
import pytest

from harness.stats import in_sample_separation


def tokens(seed=0, n=20, steps=5, hidden=40):
    return np.random.default_rng(seed).standard_normal((2, n, steps, hidden))


def test_figures_are_the_pooled_ones():
    artifact, natural = tokens()
    a, b = artifact.reshape(-1, 40) + 3.0, natural.reshape(-1, 40) + 3.0
    result = in_sample_separation(artifact + 3.0, natural + 3.0)
    gap = a.mean(axis=0) - b.mean(axis=0)
    score_a, score_b = a @ gap, b @ gap
    spread = np.sqrt((score_a.var(ddof=1) + score_b.var(ddof=1)) / 2)
    assert result.d == pytest.approx((score_a.mean() - score_b.mean()) / spread)
    middle = (score_a.mean() + score_b.mean()) / 2
    assert result.accuracy == pytest.approx(
        ((score_a > middle).mean() + (score_b < middle).mean()) / 2
    )
    sd = (a.std(axis=0).mean() + b.std(axis=0).mean()) / 2
    assert result.seed_ratio == pytest.approx(np.linalg.norm(gap) / np.sqrt(sd))
    assert result.n_vectors == 200


def test_seed_ratio_is_no_effect_size():
    artifact, natural = tokens()
    small, large = (
        in_sample_separation(artifact, natural),
        in_sample_separation(100 * artifact, 100 * natural),
    )
    assert large.d == pytest.approx(small.d)
    assert large.seed_ratio == pytest.approx(10 * small.seed_ratio)


def test_noise_looks_separated_in_sample():
    artifact, natural = tokens(n=50, steps=20, hidden=1152)
    result = in_sample_separation(artifact, natural)
    assert result.d > 1.2
    assert result.accuracy > 0.7


def test_lists_of_unequal_lengths_are_pooled():
    artifact, natural = tokens()
    ragged = [prompt[: 1 + pair % 5] for pair, prompt in enumerate(artifact)]
    result = in_sample_separation(ragged, natural)
    assert result.n_vectors == 60 + 100
    padded = np.concatenate(ragged)[:, None]
    assert result == in_sample_separation(padded, natural)


@pytest.mark.parametrize(
    ("artifact", "natural", "message"),
    [
        (np.ones((3, 4)), np.ones((3, 4)), "artifact must be .pairs, tokens, hidden."),
        (np.ones((3, 4, 5)), np.ones((3, 4, 6)), "same width: 5 and 6"),
        (np.ones((3, 4, 5)), [np.ones((1, 5))], "natural .* two vectors or more"),
        (
            np.full((3, 4, 5), np.nan),
            np.ones((3, 4, 5)),
            "artifact holds NaN or infinity in pair 0",
        ),
    ],
)
def test_wrong_input_is_named(artifact, natural, message):
    with pytest.raises(ValueError, match=message):
        in_sample_separation(artifact, natural)
