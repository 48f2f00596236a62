"""The model against its definition in NumPy, wherever it is read: in left-padded batches, in whole
passes and step by step, before and after the sliding window has filled and turned over."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gemma_mlx
from gemma_mlx import SITES, VECTOR_SITES, Gemma, Generation
from tests.support import definition as reference
from tests.support.checkpoints import config, relative_error, save, weights

TOLERANCE = 1e-4
CASES: dict[str, dict[str, Any]] = {
    "window 7": {},
    "window 4": {"sliding_window": 4},
    "window 1": {"sliding_window": 1},
    "one global layer": {"num_hidden_layers": 1, "sliding_window_pattern": 1},
    "soft caps": {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 4.0},
}
# One token, a bit less than the window, exactly it, one more, and twice as many.
PROMPTS = [np.random.default_rng(n).integers(3, 131, n).tolist() for n in (1, 6, 7, 8, 15)]


class Definition:
    def __init__(self, path: Path, changes: dict[str, Any]):
        self.config = config(**changes)
        self.weights = weights(self.config)
        self.gemma: Gemma = gemma_mlx.load(save(path, self.config, self.weights))

    def check(self, found: Generation, ids: list[int], first: int, steps: int) -> None:
        """`found` captured `steps` tokens of `ids` from position `first` on."""
        _, sites = reference.forward(self.config, self.weights, ids)
        for site in VECTOR_SITES:
            expected = sites[site][:, first : first + steps]
            assert relative_error(found.activations[site], expected) <= TOLERANCE, site
        patterns = found.activations["attn_pattern"]
        assert len(patterns) == steps
        for step, pattern in enumerate(patterns):
            expected = sites["attn_pattern"][:, :, first + step, : first + step + 1]
            assert relative_error(pattern, expected) <= TOLERANCE, ("attn_pattern", step)


@pytest.fixture(scope="module", params=CASES)
def definition(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Definition:
    return Definition(tmp_path_factory.mktemp("definition"), CASES[request.param])


def test_logits_of_rows_of_every_length(definition: Definition) -> None:
    ids = PROMPTS[-1]
    expected, _ = reference.forward(definition.config, definition.weights, ids)
    for length in range(1, len(ids) + 1):
        found = gemma_mlx.logits(definition.gemma, [ids[:length]])[0]
        assert relative_error(found, expected[:length]) <= TOLERANCE, length


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [None, 1], ids=["padded", "alone"])
def test_generated(definition: Definition, batch_size: int | None) -> None:
    found = gemma_mlx.generate(
        definition.gemma, PROMPTS, max_tokens=18, sites=tuple(SITES), batch_size=batch_size
    )
    for prompt, generation in zip(PROMPTS, found, strict=True):
        ids = [*prompt, *generation.token_ids]
        logits, _ = reference.forward(definition.config, definition.weights, ids)
        assert generation.token_ids == logits[len(prompt) - 1 : -1].argmax(-1).tolist()
        definition.check(generation, ids, len(prompt), len(generation.token_ids))


def test_prompt_last(definition: Definition) -> None:
    found = gemma_mlx.generate(
        definition.gemma, PROMPTS, max_tokens=3, sites=tuple(SITES), positions="prompt_last"
    )
    for prompt, generation in zip(PROMPTS, found, strict=True):
        definition.check(generation, prompt, len(prompt) - 1, 1)


def test_forced(definition: Definition) -> None:
    continuation = [[8] * 11, [9, 10], [], [11], [12, 13, 14, 15, 16]]
    found = gemma_mlx.generate(
        definition.gemma,
        PROMPTS,
        sites=tuple(SITES),
        positions="forced",
        continuation=continuation,
    )
    for prompt, more, generation in zip(PROMPTS, continuation, found, strict=True):
        assert generation.token_ids == more
        definition.check(generation, [*prompt, *more], len(prompt), len(more))


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_log_probabilities_of_a_continuation(definition: Definition, layer: int) -> None:
    continuations = [[8] * 11, [9, 10], [7], [11], [12, 13, 14, 15, 16]]
    reading = gemma_mlx.read_continuations(
        definition.gemma,
        PROMPTS,
        continuations,
        layer=layer % definition.gemma.config.num_hidden_layers,
    )
    found, own = reading.log_probs(), reading.token_log_probs()
    for prompt, more, row, tokens in zip(PROMPTS, continuations, found, own, strict=True):
        logits, _ = reference.forward(definition.config, definition.weights, [*prompt, *more])
        logits = logits[len(prompt) - 1 : -1]
        expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        assert row.dtype == np.float32
        assert relative_error(row, expected) <= TOLERANCE
        np.testing.assert_allclose(tokens, row[np.arange(len(more)), more], rtol=1e-5)


def test_log_probabilities_of_nothing_are_refused(definition: Definition) -> None:
    with pytest.raises(gemma_mlx.RequestError, match="a continuation has no tokens"):
        gemma_mlx.read_continuations(definition.gemma, PROMPTS[:2], [[3], []])
    with pytest.raises(gemma_mlx.RequestError, match="1 entries for 2 prompts"):
        gemma_mlx.read_continuations(definition.gemma, PROMPTS[:2], [[3]])
