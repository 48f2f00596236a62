"""What isn't asked for is never held, and a collection takes no more for being long."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gemma_mlx
from gemma_mlx import SITES, VECTOR_SITES, Gemma, Request
from gemma_mlx.system.backend import mx
from tests.support.checkpoints import random_checkpoint

LAYERS = 6
# One site of one layer over a whole prompt is 0.2 MB per row.
LONG = [[5 + i % 100 for i in range(400)]] * 2


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Gemma:
    path = random_checkpoint(tmp_path_factory.mktemp("wide"), hidden_size=128)
    return gemma_mlx.load(path)


def peak(do: Callable[[], Any]) -> int:
    """Bytes that MLX holds at most while `do` runs, over what it held before."""
    do()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    do()
    return mx.get_peak_memory() - before


@pytest.mark.slow
@pytest.mark.parametrize("positions", ["prompt_last", "generated"])
def test_of_a_long_prompt_only_the_asked_for_positions_are_held(
    wide: Gemma, positions: str
) -> None:
    def run(sites: tuple[str, ...]) -> int:
        return peak(
            lambda: gemma_mlx.generate(wide, LONG, max_tokens=2, sites=sites, positions=positions)
        )

    # Whole prompts at every site and layer would be 18 MB.
    assert run(VECTOR_SITES) - run(()) < 2**20


@pytest.mark.slow
def test_of_a_replayed_continuation_only_its_own_tokens_are_held(wide: Gemma) -> None:
    def run(sites: tuple[str, ...], layers: tuple[int, ...]) -> int:
        return peak(
            lambda: gemma_mlx.generate(
                wide,
                LONG,
                sites=sites,
                layers=layers,
                positions="forced",
                continuation=[[7, 8, 9]] * 2,
            )
        )

    last = LAYERS - 1
    assert run(VECTOR_SITES, tuple(range(LAYERS))) - run(("resid_post",), (last,)) < 2**20


@pytest.mark.slow
def test_a_layer_that_is_not_asked_for_costs_nothing(wide: Gemma) -> None:
    rows = [[5, 6, 7]] * 8

    def run(**how: Any) -> int:
        return peak(lambda: gemma_mlx.generate(wide, rows, max_tokens=60, **how))

    none, one, all_layers = run(sites=()), run(layers=[2]), run()
    held = 8 * 60 * 128 * 4
    assert held <= one - none + held / 4
    assert one - none < 3 * held
    assert all_layers - none > 4 * held


@pytest.mark.slow
def test_the_peak_is_flat_in_the_number_of_prompts(wide: Gemma) -> None:
    def stream(count: int) -> int:
        request = Request(
            prompts=[[5, 6, 7 + i % 50] for i in range(count)],
            layers=tuple(range(LAYERS)),
            sites=VECTOR_SITES,
            max_tokens=6,
        )
        plan = gemma_mlx.plan_batches(request, wide.config, 8)

        def run() -> None:
            for batch in plan:
                gemma_mlx.run_batch(wide, request, batch)

        return peak(run)

    assert stream(96) <= 1.1 * stream(16)


def test_a_row_keeps_nothing_of_its_batch_alive(tmp_path: Path, wide: Gemma) -> None:
    rows = [[5, 6, 7], [8]]
    for found in gemma_mlx.generate(wide, rows, sites=tuple(SITES), max_tokens=3):
        for site in VECTOR_SITES:
            value = found.activations[site]
            assert isinstance(value, np.ndarray)
            assert value.base is None
            assert value.flags.c_contiguous
            assert value.dtype == np.float32
