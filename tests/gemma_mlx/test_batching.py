"""What a prompt gives doesn't depend on the company it is run in."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gemma_mlx
from gemma_mlx import SITES, Gemma, Generation, Request, RequestError
from gemma_mlx.cache import BatchCache
from gemma_mlx.system.backend import mx
from tests.support.checkpoints import CONFIG, random_checkpoint, relative_error

TOLERANCE = 1e-4
LAYERS = CONFIG["num_hidden_layers"]
lengths = st.lists(st.integers(1, 20), min_size=2, max_size=5)
examples = settings(max_examples=12, deadline=None, derandomize=True, database=None)


def prompts(lengths: Sequence[int]) -> list[list[int]]:
    rng = np.random.default_rng(sum(lengths))
    return [rng.integers(3, CONFIG["vocab_size"], n).tolist() for n in lengths]


def everything(gemma: Gemma, rows: Sequence[Sequence[int]], **how: Any) -> list[Generation]:
    return gemma_mlx.generate(gemma, rows, sites=tuple(SITES), **how)


def assert_same(found: Generation, expected: Generation) -> None:
    assert found.token_ids == expected.token_ids
    assert found.finish_reason == expected.finish_reason
    assert found.activations.keys() == expected.activations.keys()
    for site, value in found.activations.items():
        other = expected.activations[site]
        assert len(value) == len(other)
        if isinstance(value, np.ndarray):
            value, other = [value], [other]
        for one, two in zip(value, other, strict=True):
            assert relative_error(one, two) <= TOLERANCE, site


def assert_all_same(found: Sequence[Generation], expected: Sequence[Generation]) -> None:
    for one, two in zip(found, expected, strict=True):
        assert_same(one, two)


@pytest.mark.slow
@examples
@given(lengths=lengths, max_tokens=st.integers(0, 18), at_prompt=st.booleans())
def test_a_batch_is_its_rows_alone(
    gemma: Gemma, lengths: list[int], max_tokens: int, at_prompt: bool
) -> None:
    how = {"max_tokens": max_tokens, "positions": "prompt_last" if at_prompt else "generated"}
    rows = prompts(lengths)
    alone = [everything(gemma, [row], **how)[0] for row in rows]
    assert_all_same(everything(gemma, rows, **how), alone)


@pytest.mark.slow
@examples
@given(lengths=lengths, max_tokens=st.integers(1, 18))
def test_reading_the_generated_tokens_in_one_pass_gives_what_generation_captured(
    gemma: Gemma, lengths: list[int], max_tokens: int
) -> None:
    rows = prompts(lengths)
    generated = everything(gemma, rows, max_tokens=max_tokens)
    forced = everything(
        gemma, rows, positions="forced", continuation=[g.token_ids for g in generated]
    )
    assert_all_same([replace(g, finish_reason="length") for g in generated], forced)


@pytest.mark.slow
@pytest.mark.parametrize("positions", ["generated", "prompt_last", "forced"])
def test_the_batch_size_changes_nothing(gemma: Gemma, positions: str) -> None:
    rows = prompts([9, 2, 17, 5, 5, 12, 1])
    how: dict[str, Any] = {"positions": positions, "max_tokens": 10}
    if positions == "forced":
        how["continuation"] = [row[::-1] for row in rows]
    expected = everything(gemma, rows, **how)
    assert [g.prompt for g in expected] == rows
    for size in (1, 2, 3, 100):
        assert_all_same(everything(gemma, rows, batch_size=size, **how), expected)


def test_the_same_batch_gives_the_same_bits(gemma: Gemma) -> None:
    rows = prompts([9, 2, 17])
    for one, two in zip(*(everything(gemma, rows, max_tokens=9) for _ in range(2)), strict=True):
        assert one.token_ids == two.token_ids
        for site in ("resid_post", "mlp_out", "attn_out"):
            assert np.array_equal(one.activations[site], two.activations[site])


@pytest.mark.parametrize("changes", [{}, {"attn_logit_softcapping": 2.0, "sliding_window": 3}])
def test_whole_rows_give_the_logits_of_single_steps(tmp_path: Path, changes: dict) -> None:
    gemma = gemma_mlx.load(random_checkpoint(tmp_path, **changes))
    (ids,) = prompts([24])
    cache = BatchCache(gemma.config, padding=[0], capacity=len(ids))
    steps = [gemma.model.logits(gemma.model(mx.array([[token]]), cache)) for token in ids]
    stepped = np.concatenate([np.array(step) for step in steps], axis=1)
    assert relative_error(stepped, gemma_mlx.logits(gemma, [ids])) <= TOLERANCE


def test_rows_that_end_early(tmp_path: Path) -> None:
    """Some rows meet an end token at different steps; the others go on as if nothing happened."""
    path = random_checkpoint(tmp_path)
    rows = prompts([3, 14, 8, 5])
    endless = everything(gemma_mlx.load(path), rows, max_tokens=16)
    assert all(g.finish_reason == "length" and len(g.token_ids) == 16 for g in endless)
    ends = [endless[0].token_ids[3], endless[1].token_ids[9], endless[2].token_ids[0]]
    stated = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**stated, "eos_token_id": ends[:1]}))
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": ends[1:]}))
    gemma = gemma_mlx.load(path)
    assert gemma.eos_token_ids == set(ends)
    steps = []
    for found, free in zip(everything(gemma, rows, max_tokens=16), endless, strict=True):
        until = next((i for i, t in enumerate(free.token_ids) if t in ends), 16)
        steps.append(until)
        assert found.token_ids == free.token_ids[:until]
        assert found.finish_reason == ("stop" if until < 16 else "length")
        for site in SITES:
            value = found.activations[site]
            if site == "attn_pattern":
                assert len(value) == until
                continue
            assert value.shape[:2] == (LAYERS, until)
            assert relative_error(value, free.activations[site][:, :until]) <= TOLERANCE
    assert 0 in steps
    assert len(set(steps)) >= 3


def test_a_subset_of_layers_and_sites_is_cut_from_the_whole(gemma: Gemma) -> None:
    rows = prompts([4, 11])
    whole = everything(gemma, rows, max_tokens=9)
    some = gemma_mlx.generate(
        gemma, rows, max_tokens=9, sites=("mlp_post", "attn_pattern"), layers=[5, 1, 1]
    )
    for found, full in zip(some, whole, strict=True):
        assert set(found.activations) == {"mlp_post", "attn_pattern"}
        assert relative_error(
            found.activations["mlp_post"], full.activations["mlp_post"][[1, 5]]
        ) <= (TOLERANCE)
        for one, two in zip(
            found.activations["attn_pattern"], full.activations["attn_pattern"], strict=True
        ):
            assert relative_error(one, two[[1, 5]]) <= TOLERANCE


@pytest.mark.parametrize("how", [{"max_tokens": 0}, {"positions": "forced", "continuation": []}])
def test_no_steps_are_empty_arrays_of_the_right_shape(gemma: Gemma, how: dict) -> None:
    rows = prompts([4, 2])
    if "continuation" in how:
        how = {**how, "continuation": [[], []]}
    for found in everything(gemma, rows, **how):
        assert found.token_ids == []
        assert found.finish_reason == "length"
        assert found.activations.pop("attn_pattern") == []
        for site, value in found.activations.items():
            assert value.shape == (LAYERS, 0, SITES[site].features(gemma.config))
            assert value.dtype == np.float32


def test_nothing_to_capture_or_to_do(gemma: Gemma) -> None:
    assert gemma_mlx.generate(gemma, []) == []
    (row,) = gemma_mlx.generate(gemma, prompts([3]), sites=(), max_tokens=4)
    assert (len(row.token_ids), row.activations) == (4, {})
    (row,) = gemma_mlx.generate(gemma, prompts([3]), layers=(), max_tokens=4)
    assert row.activations["mlp_out"].shape == (0, 4, CONFIG["hidden_size"])


def test_attention_weights_sum_to_one_over_real_keys(gemma: Gemma) -> None:
    for row, found in zip(
        prompts([3, 9]), everything(gemma, prompts([3, 9]), max_tokens=12), strict=True
    ):
        for step, pattern in enumerate(found.activations["attn_pattern"]):
            assert pattern.shape == (LAYERS, 4, len(row) + step + 1)
            assert np.abs(pattern.sum(-1) - 1).max() < 1e-5
            # Layer 0 is local: 7 keys at most, the newest.
            assert not pattern[0, :, :-7].any()


def request(rows: list[list[int]], **changes: Any) -> Request:
    return Request(**{"prompts": rows, "layers": tuple(range(LAYERS)), **changes})


def test_a_plan_holds_every_prompt_once_with_like_lengths_together(gemma: Gemma) -> None:
    rows = prompts(range(1, 200))[::-1]
    plan = gemma_mlx.plan_batches(request(rows), gemma.config)
    assert sorted(i for batch in plan for i in batch) == list(range(199))
    spans = [[len(rows[i]) for i in batch] for batch in plan]
    assert all(max(one) <= min(two) for one, two in itertools.pairwise(spans))
    assert all(list(batch) == sorted(batch) for batch in plan)
    assert plan == gemma_mlx.plan_batches(request(rows), gemma.config)
    assert [len(b) for b in gemma_mlx.plan_batches(request(rows), gemma.config, 50)] == [
        49,
        50,
        50,
        50,
    ]


def test_a_plan_makes_batches_smaller_where_rows_are_large(gemma: Gemma) -> None:
    rows = prompts([10] * 64)
    few = gemma_mlx.plan_batches(request(rows, sites=tuple(SITES), max_tokens=1000), gemma.config)
    assert len(few) > 1
    long = [[5] * 900 for _ in rows]
    forced = request(rows, positions="forced", continuation=long, sites=tuple(SITES))
    assert len(gemma_mlx.plan_batches(forced, gemma.config)) > 1
    assert len(gemma_mlx.plan_batches(request(rows), gemma.config)) == 1


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "site": ({"sites": ("mlp",)}, "unknown site 'mlp'; the sites are resid_pre, .*resid_post"),
    "layer": ({"layers": [6]}, "layer 6 is outside the model's 0 to 5"),
    "negative layer": ({"layers": [-1]}, "layer -1"),
    "positions": ({"positions": "last"}, "positions must be one of generated, prompt_last, forced"),
    "max_tokens": ({"max_tokens": -1}, "max_tokens must be an integer, 0 or more, not -1"),
    "fraction of a token": ({"max_tokens": 2.5}, "max_tokens"),
    "forced alone": ({"positions": "forced"}, "go together"),
    "continuation alone": ({"continuation": [[3], [3]]}, "go together"),
    "continuation count": (
        {"positions": "forced", "continuation": [[3]]},
        "1 entries for 2 prompts",
    ),
    "continuation id": (
        {"positions": "forced", "continuation": [[3], [131]]},
        "prompt 1 holds a token id outside 0 to 130",
    ),
    "too long": ({"max_tokens": 1024}, "prompt 0 has 3 tokens; .* 1027, .* context is 1024"),
    "batch_size": ({"batch_size": 0}, "batch_size must be 1 or more"),
    "seeds": ({"seed": [1, 2, 3]}, "seed has 3 entries for 2 prompts"),
    "temperature": ({"temperature": -1.0}, "temperature must be 0"),
    "top_p": ({"top_p": 0.0}, "top_p must be above 0"),
    "min_p": ({"min_p": float("nan")}, "min_p must be between"),
}


@pytest.mark.parametrize("case", BAD)
def test_requests_that_cannot_be_served_say_so(gemma: Gemma, case: str) -> None:
    how, message = BAD[case]
    with pytest.raises(RequestError, match=message):
        gemma_mlx.generate(gemma, [[3, 4, 5], [6]], **how)


@pytest.mark.parametrize("rows", [[[]], [[3], [-1]], [[131]]])
def test_prompts_that_cannot_be_read_say_so(gemma: Gemma, rows: list[list[int]]) -> None:
    with pytest.raises(RequestError, match=f"prompt {len(rows) - 1} h"):
        gemma_mlx.generate(gemma, rows)


def test_one_text_is_not_a_list_of_prompts(gemma: Gemma) -> None:
    with pytest.raises(RequestError, match="give a list"):
        gemma_mlx.generate(gemma, "Hello")


@pytest.mark.parametrize("ids", [[], [[]], [1, 2], [[131]], [[-1]], [[1.5]]])
def test_logits_refuse_what_is_no_row_of_token_ids(gemma: Gemma, ids: Any) -> None:
    with pytest.raises(RequestError, match="token id"):
        gemma_mlx.logits(gemma, ids)
