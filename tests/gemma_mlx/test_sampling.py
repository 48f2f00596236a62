"""Sampling against its definition, and one prompt's sample against its batch."""

from typing import Any

import numpy as np
import pytest

import gemma_mlx
from gemma_mlx import Gemma, RequestError, Sampling
from gemma_mlx.sampling import Sampler
from gemma_mlx.system.backend import mx

LOGITS = np.array([2.0, 1.9, 1.0, 0.2, 0.1, -0.5, -1.0, -3.0, 2.4, 0.0], np.float32)
SEEN = [1, 5, 8]
SETTINGS: dict[str, dict[str, Any]] = {
    "temperature 1": {},
    "temperature 0.5": {"temperature": 0.5},
    "temperature 3": {"temperature": 3.0},
    "top-k 1": {"top_k": 1},
    "top-k 4": {"top_k": 4},
    "top-k beyond the vocabulary": {"top_k": 100},
    "top-p 0.01": {"top_p": 0.01},
    "top-p 0.6": {"top_p": 0.6},
    "top-p 0.95": {"top_p": 0.95},
    "min-p 0.2": {"min_p": 0.2},
    "min-p 1": {"min_p": 1.0},
    "penalty 1.3": {"repetition_penalty": 1.3},
    "penalty 0.7": {"repetition_penalty": 0.7},
    "all": {
        "temperature": 1.5,
        "top_k": 6,
        "top_p": 0.9,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
    },
}


def kept(how: Sampling) -> np.ndarray:
    """Logits after penalty, temperature, top-k, top-p and min-p; −∞ where a token is out."""
    x = LOGITS.astype(np.float64)
    for token in SEEN:
        x[token] *= how.repetition_penalty if x[token] < 0 else 1 / how.repetition_penalty
    x = x / how.temperature
    if how.top_k:
        x[np.argsort(-x)[how.top_k :]] = -np.inf
    order = np.argsort(-x)
    p = softmax(x)[order]
    x[order[np.cumsum(p) - p >= how.top_p]] = -np.inf
    p = softmax(x)
    x[p < how.min_p * p.max()] = -np.inf
    return x


def softmax(x: np.ndarray) -> np.ndarray:
    p = np.exp(x - x.max())
    return p / p.sum()


@pytest.mark.parametrize("case", SETTINGS)
def test_tokens_come_with_the_probabilities_of_the_definition(case: str) -> None:
    how = Sampling(**{"temperature": 1.0, **SETTINGS[case]})
    draws = 4000
    sample = Sampler(how, [SEEN] * draws, list(range(draws)), len(LOGITS))
    tokens = np.array(sample(mx.array(np.tile(LOGITS, (draws, 1)))))
    found = np.bincount(tokens, minlength=len(LOGITS)) / draws
    expected = softmax(kept(how))
    assert not found[expected == 0].any()
    # Five standard errors.
    assert (np.abs(found - expected) <= 5 * np.sqrt(expected * (1 - expected) / draws)).all()


@pytest.mark.parametrize("case", SETTINGS)
def test_the_definition_is_that_of_transformers(case: str) -> None:
    torch = pytest.importorskip("torch", reason="transformers' logits processors need PyTorch")
    from transformers import generation as hf

    how = Sampling(**{"temperature": 1.0, **SETTINGS[case]})
    processors = hf.LogitsProcessorList(
        [
            hf.RepetitionPenaltyLogitsProcessor(how.repetition_penalty),
            hf.TemperatureLogitsWarper(how.temperature),
            hf.TopKLogitsWarper(how.top_k or len(LOGITS)),
            hf.TopPLogitsWarper(how.top_p),
            hf.MinPLogitsWarper(how.min_p),
        ]
    )
    theirs = processors(torch.tensor([SEEN]), torch.tensor(LOGITS[None]))[0].numpy()
    np.testing.assert_allclose(theirs, kept(how), rtol=1e-5)


def test_the_penalty_counts_tokens_as_they_are_drawn() -> None:
    sample = Sampler(Sampling(repetition_penalty=4.0), [[8], [0]], [0, 0], len(LOGITS))
    logits = mx.array(np.tile(LOGITS, (2, 1)))
    drawn = [np.array(sample(logits)).tolist() for _ in range(3)]
    # Greedy, without what each row holds already: 8 is the largest, then 0, 1 and 2.
    assert drawn == [[0, 8], [1, 1], [2, 2]]


@pytest.mark.parametrize("temperature", [1e-6, 1e-30])
def test_a_temperature_near_zero_is_greedy(temperature: float) -> None:
    logits = mx.array(np.tile(100 * LOGITS, (50, 1)))
    sample = Sampler(Sampling(temperature), [[]] * 50, list(range(50)), len(LOGITS))
    assert np.array(sample(logits)).tolist() == [8] * 50


def test_steps_of_one_row_are_independent() -> None:
    sample = Sampler(Sampling(1e3), [[]], [5], len(LOGITS))
    drawn = [int(sample(mx.array(LOGITS[None])).item()) for _ in range(400)]
    counts = np.bincount(drawn, minlength=len(LOGITS))
    assert counts.min() > 10
    assert np.mean(np.diff(drawn) == 0) < 0.2


ALL = {"temperature": 1.2, "top_p": 0.95, "top_k": 60, "min_p": 0.01, "repetition_penalty": 1.1}


def tokens(gemma: Gemma, rows: list[list[int]], **how: Any) -> list[list[int]]:
    generations = gemma_mlx.generate(gemma, rows, max_tokens=12, sites=(), **ALL, **how)
    return [g.token_ids for g in generations]


@pytest.mark.slow
def test_a_prompts_sample_does_not_depend_on_its_batch(gemma: Gemma) -> None:
    rows = [[3, 4, 5], [6] * 11, [7, 8], [9, 10, 11, 12, 13]]
    seeds = [11, 12, 13, 14]
    together = tokens(gemma, rows, seed=seeds)
    assert tokens(gemma, rows, seed=seeds, batch_size=1) == together
    assert tokens(gemma, rows[::-1], seed=seeds[::-1], batch_size=3) == together[::-1]
    assert tokens(gemma, rows[2:3], seed=[13]) == together[2:3]


@pytest.mark.slow
def test_one_seed_gives_every_prompt_its_own_numbers(gemma: Gemma) -> None:
    rows = [[3, 4, 5]] * 4
    first = tokens(gemma, rows, seed=1)
    assert len({tuple(t) for t in first}) == 4
    assert tokens(gemma, rows, seed=1, batch_size=2) == first
    assert tokens(gemma, rows, seed=2) != first
    assert tokens(gemma, rows, seed=[5] * 4) == tokens(gemma, rows[:1], seed=[5]) * 4


@pytest.mark.parametrize(
    "how",
    [
        {"temperature": float("inf")},
        {"top_p": 1.5},
        {"top_k": -1},
        {"top_k": 2.0},
        {"min_p": 2.0},
        {"repetition_penalty": 0.0},
    ],
)
def test_settings_out_of_range_are_named(how: dict[str, Any]) -> None:
    (name,) = how
    with pytest.raises(RequestError, match=f"{name} must be"):
        Sampling(**how)
