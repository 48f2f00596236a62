"""Collected by several processes of one launch, and still what one process collects."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gemma_mlx import CheckpointError, RequestError
from harness.backends.choice import find_checkpoint
from harness.collect import _deal
from harness.data.store import RunStore
from tests.support.builders import two_categories, written
from tests.support.collecting import SETTINGS, gather, shards
from tests.support.launch import finish, launch, launcher
from tests.support.llama import llama_checkpoint

PROGRAM = ["-m", "tests.support.together_collect"]
BATCHES = 3


@pytest.fixture(scope="module")
def undisturbed(small_checkpoint, tmp_path_factory):
    return gather(small_checkpoint, tmp_path_factory.mktemp("undisturbed"))


def together(count, model, folder, changes=None, *, own_folders=False):
    """Exit code, output and errors of each rank."""
    arguments = [*PROGRAM, model.path, "store", json.dumps(changes or [{}] * count)]
    return finish(launch(count, arguments, folder, own_folders=own_folders))


def ran(ended) -> list[int]:
    """How many batches each rank ran."""
    assert [code for code, _, _ in ended] == [0] * len(ended), ended
    return [int(output) for _, output, _ in ended]


def store_of(rank: int, folder: Path, settings) -> RunStore:
    return RunStore(folder / f"rank_{rank}" / "store", settings)


@pytest.mark.slow
class TestSharedOut:
    def test_on_one_disk(self, small_checkpoint, undisturbed, tmp_path):
        run = RunStore(tmp_path / "store", undisturbed.settings)
        assert sorted(ran(together(2, small_checkpoint, tmp_path))) == [1, 2]
        assert shards(run) == shards(undisturbed)
        run.shards()[1].write_bytes(b"damaged")
        assert sorted(ran(together(2, small_checkpoint, tmp_path))) == [0, 1]
        assert shards(run) == shards(undisturbed)

    def test_each_on_its_own_disk(self, small_checkpoint, undisturbed, tmp_path):
        """The first rank gathers, also what it lost and the others still have."""
        runs = [store_of(rank, tmp_path, undisturbed.settings) for rank in range(3)]
        assert ran(together(3, small_checkpoint, tmp_path, own_folders=True)) == [1, 1, 1]
        assert [len(run.shards()) for run in runs] == [BATCHES, 1, 1]
        assert shards(runs[0]) == shards(undisturbed)
        for run in runs[1:]:
            (batch,) = run.shards()
            runs[0].shards()[batch].unlink()
        assert ran(together(3, small_checkpoint, tmp_path, own_folders=True)) == [0, 0, 0]
        assert shards(runs[0]) == shards(undisturbed)

    def test_models_of_mlx_lm(self, tmp_path):
        pytest.importorskip("mlx_lm", reason="needs the extra 'models'")
        model = find_checkpoint(llama_checkpoint(tmp_path / "llama"))
        settings = replace(SETTINGS, layers=(0, 2))
        expected = gather(model, tmp_path / "alone", settings)
        batches = len(expected.shards())
        ran(together(2, model, tmp_path, [{"layers": [0, 2]}] * 2, own_folders=True))
        first, second = (store_of(rank, tmp_path, expected.settings) for rank in range(2))
        assert shards(first) == shards(expected)
        assert len(second.shards()) == batches // 2

    def test_forced_answers_are_the_first_ranks(self, small_checkpoint, tmp_path):
        forced = replace(SETTINGS, positions="forced")
        expected = gather(small_checkpoint, tmp_path / "alone", forced)
        changes = [{"positions": "forced"}] * 2
        counts = ran(together(2, small_checkpoint, tmp_path, changes, own_folders=True))
        assert sum(counts) == 2 * BATCHES
        assert shards(store_of(0, tmp_path, expected.settings)) == shards(expected)

    def test_a_rank_that_dies_leaves_what_it_wrote(self, small_checkpoint, undisturbed, tmp_path):
        changes = [{"batch_size": 1}, {"batch_size": 1, "die_after": 2}]
        first, second = launch(
            2, [*PROGRAM, small_checkpoint.path, "store", json.dumps(changes)], tmp_path
        )
        assert second.wait(60) == -9
        # As the launcher does.
        first.process.terminate()
        finish([first, second])
        settings = replace(SETTINGS, batch_size=1)
        expected = gather(small_checkpoint, tmp_path / "alone", settings)
        run = RunStore(tmp_path / "store", expected.settings)
        left = {file.name: file.stat().st_mtime_ns for file in run.shards().values()}
        assert 2 <= len(left) < 8
        counts = ran(together(2, small_checkpoint, tmp_path, [{"batch_size": 1}] * 2))
        assert sum(counts) == 8 - len(left)
        assert shards(run) == shards(expected)
        again = {file.name: file.stat().st_mtime_ns for file in run.shards().values()}
        assert left.items() <= again.items()

    def test_ranks_that_were_asked_for_different_things(self, small_checkpoint, tmp_path):
        changes = [{}, {"max_tokens": 4, "seed": 1}]
        for code, _, errors in together(2, small_checkpoint, tmp_path, changes):
            assert code == 1
            assert "RanksError: rank 1 differs from rank 0 in max_tokens, seed" in errors
        assert not (tmp_path / "store").exists()


class TestDeal:
    """Batches by rank, from those that each rank lacks."""

    @pytest.mark.parametrize(
        ("lacking", "dealt"),
        [
            ([[0, 1, 2]], [[0, 1, 2]]),
            ([[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]], [[0, 2, 4], [1, 3]]),
            # The second has 0 and 1, which the first lacks; nobody has 2.
            ([[0, 1, 2], [2, 3]], [[2], [0, 1]]),
            ([[0, 1, 2], [1, 2], [0, 1]], [[1], [0], [2]]),
            # What only others lack is nobody's concern.
            ([[], [0, 1]], [[], []]),
        ],
    )
    def test_deal(self, lacking, dealt):
        assert _deal(lacking) == dealt


@pytest.mark.slow
class TestTensorParallel:
    def test_same_activations(self, small_checkpoint, undisturbed, tmp_path):
        """Each rank runs every batch, the first one writes."""
        changes = [{"tensor_parallel": 2}] * 2
        counts = ran(together(2, small_checkpoint, tmp_path, changes, own_folders=True))
        assert counts == [BATCHES] * 2
        settings = {**undisturbed.settings, "tensor_parallel": 2}
        assert not store_of(1, tmp_path, settings).shards()
        run = store_of(0, tmp_path, settings)
        assert run.responses() == undisturbed.responses()
        for layer in SETTINGS.layers:
            expected = undisturbed.tokens("mlp_out", layer)
            for group, found in run.tokens("mlp_out", layer).items():
                np.testing.assert_allclose(found, expected[group], rtol=1e-4, atol=1e-4)
        # From now on it is read without a launch.
        again = gather(small_checkpoint, run.root, replace(SETTINGS, tensor_parallel=2))
        assert again.path == run.path

    def test_ranks_that_choose_different_tokens(self, small_checkpoint, tmp_path):
        """Should rounding ever lead there: nothing is written."""
        changes = [{"tensor_parallel": 2}, {"tensor_parallel": 2, "other_tokens": True}]
        for code, _, errors in together(2, small_checkpoint, tmp_path, changes):
            assert code == 1
            assert "RanksError: the ranks of one model chose different tokens" in errors
        assert not list((tmp_path / "store").glob("*/batch_*"))

    def test_the_wrong_number_of_processes(self, small_checkpoint, tmp_path):
        for count, error, said in (
            (2, RequestError, "2 processes are to hold this model together .* and there is 1"),
            (3, CheckpointError, "4 attention heads can't be split over 3 processes"),
            (4, CheckpointError, "2 key-value heads can't be split over 4 processes"),
        ):
            with pytest.raises(error, match=said):
                gather(small_checkpoint, tmp_path, replace(SETTINGS, tensor_parallel=count))
        assert not list(tmp_path.glob("*/batch_*"))

    def test_one_key_value_head_is_not_split(self, small_checkpoint):
        replace(small_checkpoint.config, num_key_value_heads=1).check_split(4)


@pytest.mark.slow
class TestLauncher:
    """`mlx.launch` itself, with the command as the documentation has it."""

    def start(self, folder, *options):
        collect = [sys.executable, "-m", "harness", "collect", "--max-tokens", "2"]
        return launcher(["-n", "2", "--", *collect, "--layers", "0,5", *options], folder)

    def test_collect(self, tmp_path):
        pairs = written(tmp_path / "pairs.json", two_categories(8))
        ended = self.start(tmp_path, "--pairs", pairs, "--batch-size", "4", "--layout", "npz")
        assert ended.stdout.count("generated: 16 prompts in") == 1, ended.stderr
        assert ended.stdout.count("npz files: collected_activations_output/") == 1
        assert "WARN" not in ended.stderr
        # The generated tokens, and the prompts' last ones for the npz files.
        for run in (tmp_path / ".artifact_store").iterdir():
            assert len(list(run.glob("batch_*"))) == 4

    def test_bad_input_is_said(self, tmp_path):
        ended = self.start(tmp_path, "--layers", "0,99")
        assert "error: --layers '0,99': layer 99 doesn't exist" in ended.stderr
