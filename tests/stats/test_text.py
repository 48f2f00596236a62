"""Baselines made of text alone."""

import numpy as np
import pytest

from harness.stats import bag_of_tokens, compare, separation, text_lengths
from tests.support.arrays import pairs


def texts(seed, n, lengths, weights):
    rng = np.random.default_rng(seed)
    vocabulary = [f"word{k}" for k in range(len(weights))]
    return [
        rng.choice(vocabulary, size=rng.integers(*lengths), p=weights).tolist() for _ in range(n)
    ]


def test_rows_are_relative_frequencies():
    artifact, natural = bag_of_tokens([["a", "b", "a"], []], [["c"], ["b", "a", "b", "b"]])
    np.testing.assert_allclose(artifact[0], [[2 / 3, 1 / 3, 0], [0, 0, 0]])
    np.testing.assert_allclose(natural[0], [[0, 0, 1], [0.25, 0.75, 0]])


def test_length_does_not_leak_into_the_words():
    """Same words, twice the length: the words must not tell, the length must."""
    weights = np.random.default_rng(0).dirichlet(np.ones(30))
    words, lengths = [], []
    for seed in range(40):
        artifact = texts(2 * seed, 40, (30, 41), weights)
        natural = texts(2 * seed + 1, 40, (12, 19), weights)
        options = {"permutations": 0, "bootstrap": 0, "collapse_duplicates": False}
        words.append(separation(*bag_of_tokens(artifact, natural), **options)[0].d)
        lengths.append(separation(*text_lengths(artifact, natural), **options)[0].d)
    assert abs(np.mean(words)) < 5 * np.std(words) / np.sqrt(40)
    assert min(lengths) > 2


def test_words_that_differ_are_found():
    one, other = np.random.default_rng(1).dirichlet(np.ones(30), 2)
    bags = bag_of_tokens(texts(0, 40, (15, 25), one), texts(1, 40, (15, 25), other))
    (result,) = separation(*bags, permutations=500, bootstrap=0)
    assert result.d > 2
    assert result.p_value < 0.01


def test_model_over_baseline():
    weights = np.full(30, 1 / 30)
    bags = bag_of_tokens(texts(0, 40, (15, 25), weights), texts(1, 40, (15, 25), weights))
    artifact, natural = pairs(0, 40, 50, effect=4.0)
    (result,) = compare(*bags, np.stack([artifact]), np.stack([natural]))
    assert result.verdict == "changed"
    assert result.difference > 1


def test_lengths_are_counts():
    artifact, natural = text_lengths([["a"] * 3, []], [["b"], ["c"] * 7])
    assert artifact.tolist() == [[[3], [0]]]
    assert natural.tolist() == [[[1], [7]]]


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="one text per pair: 1 and 2"):
        bag_of_tokens([["a"]], [["a"], ["b"]])
    with pytest.raises(ValueError, match="no tokens at all"):
        bag_of_tokens([[]], [[]])
    with pytest.raises(ValueError, match="one text per pair: 1 and 2"):
        text_lengths([["a"]], [["a"], ["b"]])
