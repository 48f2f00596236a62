"""Interventions against the definition of the model with the same change made by hand."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gemma_mlx
from gemma_mlx import SITES, VECTOR_SITES, Gemma, Generation, RequestError
from gemma_mlx.intervention import ablate, add, scale
from tests.support import definition as reference
from tests.support.checkpoints import CONFIG, config, relative_error, save, weights

LAYER = 2
PROMPTS = [np.random.default_rng(n).integers(3, 131, n).tolist() for n in (4, 13, 8)]

Array = np.ndarray
Intervention = Callable[[Gemma, str, Array], AbstractContextManager[None]]
KINDS: dict[str, tuple[Intervention, Callable[[Array, Array], Array]]] = {
    "add": (lambda gemma, site, v: add(gemma, site, LAYER, v), lambda x, v: x + v),
    "scale": (lambda gemma, site, v: scale(gemma, site, LAYER, -0.5), lambda x, v: -0.5 * x),
    "ablate": (
        lambda gemma, site, v: ablate(gemma, site, LAYER, v),
        lambda x, v: x - (x @ v)[..., None] * v / (v @ v),
    ),
}


def vector(gemma: Gemma, site: str) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(SITES[site].features(gemma.config)) * 3


def run(gemma: Gemma, **how: Any) -> list[Generation]:
    return gemma_mlx.generate(gemma, PROMPTS, max_tokens=9, sites=VECTOR_SITES, **how)


def assert_identical(found: list[Generation], expected: list[Generation]) -> None:
    for one, two in zip(found, expected, strict=True):
        assert one.token_ids == two.token_ids
        for site in VECTOR_SITES:
            assert np.array_equal(one.activations[site], two.activations[site])


@pytest.mark.parametrize("site", VECTOR_SITES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_with_cache_is_the_definition_with_the_change(
    gemma: Gemma, kind: str, site: str
) -> None:
    intervention, by_hand = KINDS[kind]
    v = vector(gemma, site)

    def change(at: str, layer: int, x: np.ndarray) -> np.ndarray:
        return by_hand(x, v) if (at, layer) == (site, LAYER) else x

    with intervention(gemma, site, v):
        found = run(gemma)
        logits = gemma_mlx.logits(gemma, PROMPTS[:1])[0]
    tensors = weights(CONFIG)
    expected, _ = reference.forward(CONFIG, tensors, PROMPTS[0], change)
    assert relative_error(logits, expected) <= 1e-4
    for prompt, generation in zip(PROMPTS, found, strict=True):
        ids = [*prompt, *generation.token_ids]
        logits, sites = reference.forward(CONFIG, tensors, ids, change)
        assert generation.token_ids == logits[len(prompt) - 1 : -1].argmax(-1).tolist()
        for name in VECTOR_SITES:
            # What is captured at the site itself is what the model went on with.
            error = relative_error(generation.activations[name], sites[name][:, len(prompt) :])
            assert error <= 1e-4, name


def test_nothing_is_left_afterwards(gemma: Gemma) -> None:
    before = run(gemma)
    with add(gemma, "resid_post", 1, vector(gemma, "resid_post")):
        during = run(gemma)
    with pytest.raises(KeyError, match="on purpose"), scale(gemma, "mlp_out", 0, 0.0):
        raise KeyError("on purpose")
    assert gemma.interventions == []
    assert during[0].token_ids != before[0].token_ids
    assert_identical(run(gemma), before)


def test_changes_that_change_nothing_are_exact(gemma: Gemma) -> None:
    before = run(gemma)
    with add(gemma, "mlp_out", 1, np.zeros(64)), scale(gemma, "attn_out", 3, 1.0):
        assert_identical(run(gemma), before)


def test_other_layers_and_earlier_sites_are_untouched(gemma: Gemma) -> None:
    forced: dict[str, Any] = {
        "positions": "forced",
        "continuation": [[5, 6, 7]] * len(PROMPTS),
    }
    before = run(gemma, **forced)
    with add(gemma, "resid_mid", LAYER, vector(gemma, "resid_mid")):
        during = run(gemma, **forced)
    for one, two in zip(during, before, strict=True):
        for site in VECTOR_SITES:
            earlier = LAYER + (site in ("resid_pre", "attn_out"))
            same = one.activations[site][:earlier] == two.activations[site][:earlier]
            assert same.all(), site
            assert (one.activations[site][earlier] != two.activations[site][earlier]).any(), site


def test_an_ablated_direction_is_gone(tmp_path: Path) -> None:
    made = config()
    for dtype, tolerance in (("float32", 1e-5), ("bfloat16", 1e-2)):
        gemma = gemma_mlx.load(save(tmp_path, made, weights(made)), dtype=dtype)
        direction = vector(gemma, "resid_post")
        unit = direction / np.linalg.norm(direction)
        with ablate(gemma, "resid_post", LAYER, direction):
            found = run(gemma)
        for generation in found:
            values = generation.activations["resid_post"][LAYER]
            assert np.abs(values @ unit).max() <= tolerance * np.abs(values).max()


@pytest.mark.parametrize("kind", ["add", "ablate"])
def test_each_row_of_a_batch_may_have_a_vector_of_its_own(gemma: Gemma, kind: str) -> None:
    intervention, _ = KINDS[kind]
    vectors = np.random.default_rng(3).standard_normal((len(PROMPTS), 64))
    # In the order of the prompts, which here isn't that of their lengths.
    with intervention(gemma, "mlp_out", vectors):
        together = run(gemma)
    for prompt, vector, found in zip(PROMPTS, vectors, together, strict=True):
        with intervention(gemma, "mlp_out", vector):
            (alone,) = gemma_mlx.generate(gemma, [prompt], max_tokens=9, sites=VECTOR_SITES)
        assert found.token_ids == alone.token_ids
        for site in VECTOR_SITES:
            assert relative_error(found.activations[site], alone.activations[site]) <= 1e-4
    for rows in (vectors[:1], vectors[:2]):
        with (
            intervention(gemma, "mlp_out", rows),
            pytest.raises(RequestError, match=f"{len(rows)} vectors for a batch of 3 rows"),
        ):
            run(gemma)


def test_several_act_in_the_order_they_were_entered(gemma: Gemma) -> None:
    v = vector(gemma, "mlp_out")
    (plain, *_) = run(gemma, positions="prompt_last")
    with ExitStack() as stack:
        stack.enter_context(add(gemma, "mlp_out", 0, v))
        stack.enter_context(scale(gemma, "mlp_out", 0, 2.0))
        (found, *_) = run(gemma, positions="prompt_last")
    expected = 2 * (plain.activations["mlp_out"][0] + v)
    assert relative_error(found.activations["mlp_out"][0], expected) <= 1e-5


@pytest.mark.parametrize(
    ("enter", "message"),
    [
        (lambda g: add(g, "mlp", 0, np.ones(64)), "unknown site 'mlp'"),
        (lambda g: add(g, "attn_pattern", 0, np.ones(64)), "'attn_pattern' has no fixed width"),
        (lambda g: add(g, "mlp_out", 6, np.ones(64)), "layer 6 is outside the model's 0 to 5"),
        (lambda g: scale(g, "mlp_out", -1, 2.0), "layer -1"),
        (lambda g: scale(g, "mlp_out", 1, float("nan")), "factor for mlp_out of layer 1 is nan"),
        (lambda g: add(g, "mlp_post", 0, np.ones(64)), r"shape \(96,\) .* not \(64,\)"),
        (lambda g: add(g, "mlp_out", 0, np.ones((1, 1, 64))), r"not \(1, 1, 64\)"),
        (lambda g: add(g, "mlp_out", 0, np.full(64, np.inf)), "holds NaN or infinity"),
        (lambda g: ablate(g, "mlp_out", 0, np.zeros(64)), "zero vector"),
    ],
)
def test_what_cannot_be_done_is_refused_on_entry(
    gemma: Gemma, enter: Callable[[Gemma], AbstractContextManager[None]], message: str
) -> None:
    with pytest.raises(RequestError, match=message), enter(gemma):
        pass
    assert gemma.interventions == []


@pytest.mark.parametrize("site", VECTOR_SITES)
def test_a_reading_that_began_below_is_changed_like_a_whole_one(gemma: Gemma, site: str) -> None:
    continuations = [[5, 6, 7], [8], [9] * 10]
    reading = gemma_mlx.read_continuations(gemma, PROMPTS, continuations, layer=LAYER)
    plain = reading.log_probs()
    for layer in (LAYER, LAYER + 1):
        with add(gemma, site, layer, vector(gemma, site)):
            found = reading.log_probs()
            whole = gemma_mlx.read_continuations(gemma, PROMPTS, continuations).log_probs()
        for row, expected, before in zip(found, whole, plain, strict=True):
            np.testing.assert_allclose(row, expected, atol=1e-4)
            assert (row != before).any()
    for row, before in zip(reading.log_probs(), plain, strict=True):
        np.testing.assert_array_equal(row, before)


def test_a_reading_is_not_taken_for_one_under_other_interventions_below(gemma: Gemma) -> None:
    def read() -> gemma_mlx.Reading:
        return gemma_mlx.read_continuations(gemma, PROMPTS[:1], [[5]], layer=LAYER)

    plain = read()
    with add(gemma, "mlp_out", LAYER - 1, vector(gemma, "mlp_out")):
        with pytest.raises(RequestError, match=f"interventions below layer {LAYER} changed"):
            plain.log_probs()
        changed = read()
        whole = gemma_mlx.read_continuations(gemma, PROMPTS[:1], [[5]])
        np.testing.assert_allclose(changed.log_probs()[0], whole.log_probs()[0], atol=1e-4)
    with pytest.raises(RequestError, match=f"interventions below layer {LAYER} changed"):
        changed.token_log_probs()
    assert plain.log_probs()[0].shape == (1, gemma.config.vocab_size)


@pytest.mark.slow
class TestChoice:
    """One prompt and several texts, under many vectors at once."""

    TEXTS = ((5, 6, 7), (8,), (9,) * 10)

    @pytest.mark.parametrize("site", VECTOR_SITES)
    @pytest.mark.parametrize("kind", ["add", "ablate"])
    def test_is_the_readings_one_by_one(self, gemma: Gemma, kind: str, site: str) -> None:
        change = {"add": add, "ablate": ablate}[kind]
        vectors = np.random.default_rng(3).standard_normal((4, vector(gemma, site).size))
        for layer in (0, LAYER, gemma.config.num_hidden_layers - 1):
            # Longer than the sliding window, too.
            for prompt in (PROMPTS[0], PROMPTS[1] * 3):
                choice = gemma_mlx.read_choice(gemma, prompt, self.TEXTS, layer=layer)
                with change(gemma, site, layer, vectors, each=True):
                    together = choice.token_log_probs()
                for text, found in zip(self.TEXTS, together, strict=True):
                    assert found.shape == (4, len(text))
                    reading = gemma_mlx.read_continuations(gemma, [prompt], [text], layer=layer)
                    for one, row in zip(vectors, found, strict=True):
                        with change(gemma, site, layer, one):
                            (expected,) = reading.token_log_probs()
                        np.testing.assert_allclose(row, expected, atol=1e-4)

    def test_without_an_intervention(self, gemma: Gemma) -> None:
        choice = gemma_mlx.read_choice(gemma, PROMPTS[0], self.TEXTS)
        for text, found in zip(self.TEXTS, choice.token_log_probs(), strict=True):
            (expected,) = gemma_mlx.read_continuations(gemma, PROMPTS[:1], [text]).log_probs()
            assert found.shape == (1, len(text))
            np.testing.assert_allclose(found[0], expected[range(len(text)), text], atol=1e-4)

    def test_many_vectors_are_for_one_row(self, gemma: Gemma) -> None:
        vectors = np.ones((4, 64))
        with (
            add(gemma, "mlp_out", 0, vectors, each=True),
            pytest.raises(RequestError, match="4 vectors for a batch of 3 rows"),
        ):
            run(gemma)
        assert gemma.interventions == []

    def test_refuses(self, gemma: Gemma) -> None:
        with pytest.raises(RequestError, match="no tokens"):
            gemma_mlx.read_choice(gemma, PROMPTS[0], [[5], []])
        with pytest.raises(RequestError, match="layer 6 is outside"):
            gemma_mlx.read_choice(gemma, PROMPTS[0], [[5]], layer=6)
        choice = gemma_mlx.read_choice(gemma, PROMPTS[0], [[5]], layer=LAYER)
        with (
            add(gemma, "mlp_out", LAYER - 1, vector(gemma, "mlp_out")),
            pytest.raises(RequestError, match=f"interventions below layer {LAYER} changed"),
        ):
            choice.token_log_probs()
