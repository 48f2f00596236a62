"""Several processes: what they say to each other, and a model that they hold together."""

import textwrap
from pathlib import Path

import numpy as np
import pytest
from mlx_lm import convert

import gemma_mlx
from gemma_mlx import RanksError
from tests.support.checkpoints import random_checkpoint, relative_error
from tests.support.launch import finish, launch
from tests.support.together_model import everything, projection_bytes

TOGETHER = ["-m", "tests.support.together_model"]


def program(body: str, tmp_path: Path) -> Path:
    """A program in which `ranks` are this launch's."""
    file = tmp_path / "program.py"
    head = "import sys\nimport numpy as np\nimport gemma_mlx\nranks = gemma_mlx.find_ranks()\n"
    file.write_text(head + textwrap.dedent(body))
    return file


def run(count: int, body: str, tmp_path: Path, *arguments: str | Path) -> list[str]:
    ended = finish(launch(count, [program(body, tmp_path), *arguments], tmp_path))
    assert [code for code, _, _ in ended] == [0] * count, ended
    return [output for _, output, _ in ended]


class TestTalk:
    @pytest.mark.slow
    def test_everyone_hears_everyone(self, tmp_path: Path) -> None:
        """Also what is longer than a piece, and nothing at all."""
        body = """
            from gemma_mlx import ranks as module
            module._PIECE = 1000
            mine = bytes([ranks.rank]) * (999 * ranks.rank)
            assert ranks.gather(mine) == [bytes([r]) * (999 * r) for r in range(3)]
            assert ranks.share({"rank": ranks.rank}) == [{"rank": r} for r in range(3)]
            print(ranks.rank, ranks.size, ranks.first)
        """
        assert run(3, body, tmp_path) == ["0 3 True\n", "1 3 False\n", "2 3 False\n"]

    @pytest.mark.slow
    def test_a_lost_rank_is_noticed(self, tmp_path: Path) -> None:
        """Sooner or later: MLX says so, or its answer is seen to be none, or it waits for ever, as
        long as no launcher ends it."""
        body = """
            ranks.share(1)
            if ranks.rank == 1:
                sys.exit(3)
            try:
                ranks.share(2)
            except gemma_mlx.RanksError as error:
                print(error)
            else:
                print("wrong")
        """
        first, second = launch(2, [program(body, tmp_path)], tmp_path)
        assert second.wait(60) == 3
        if first.wait(5) is None:
            # As the launcher does.
            first.process.terminate()
            assert first.wait(5) == -15
        else:
            said = first.output.read_text()
            assert said.startswith("rank 0: another process of the launch is gone")

    def test_alone(self) -> None:
        assert gemma_mlx.find_ranks() is gemma_mlx.ALONE
        assert gemma_mlx.ALONE.share([1]) == [[1]]

    def test_a_launch_of_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """`mlx.launch -n 1` names no hosts."""
        hosts = tmp_path / "hosts"
        hosts.write_text("\n")
        monkeypatch.setenv("MLX_RANK", "0")
        monkeypatch.setenv("MLX_HOSTFILE", str(hosts))
        assert gemma_mlx.find_ranks() is gemma_mlx.ALONE

    def test_a_launch_that_is_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLX_RANK", "0")
        monkeypatch.setenv("MLX_HOSTFILE", str(tmp_path / "nowhere"))
        with pytest.raises(RanksError, match="the launch can't be joined"):
            gemma_mlx.find_ranks()


def quantized(path: Path) -> Path:
    """4 bits in groups of 32, whose groups divide."""
    plain = random_checkpoint(path / "plain", intermediate_size=128, head_dim=32)
    convert(str(plain), str(path / "q"), quantize=True, q_group_size=32, q_bits=4)
    return path / "q"


@pytest.mark.slow
class TestTensorParallel:
    """A model of which each rank holds a part gives what the whole model gives."""

    @pytest.mark.parametrize(
        ("count", "make"),
        [
            (2, random_checkpoint),
            (4, lambda path: random_checkpoint(path, num_key_value_heads=4)),
            # As in Gemma 3 270M and 1B: the one key-value head is every rank's.
            (2, lambda path: random_checkpoint(path, num_key_value_heads=1)),
            # The explicit attention, biases, a head of its own.
            (
                2,
                lambda path: random_checkpoint(
                    path,
                    attn_logit_softcapping=5.0,
                    attention_bias=True,
                    tie_word_embeddings=False,
                ),
            ),
            (2, quantized),
        ],
        ids=["2 ranks", "4 ranks", "one key-value head", "soft caps", "quantized"],
    )
    def test_activations(self, count: int, make, tmp_path: Path) -> None:
        model = make(tmp_path / "model")
        whole = gemma_mlx.load(model)
        expected = everything(whole)
        ended = finish(launch(count, [*TOGETHER, model], tmp_path))
        assert [code for code, _, _ in ended] == [0] * count, ended
        assert relative_error(expected["ablated"], expected["logits"]) > 0.02
        for rank in range(count):
            found = dict(np.load(tmp_path / f"rank_{rank}.npz"))
            assert found.keys() == expected.keys()
            for name, array in expected.items():
                if name.endswith("tokens"):
                    assert found[name].tolist() == array.tolist(), name
                else:
                    assert relative_error(found[name], array) < 2e-5, name
        split = projection_bytes(whole) / count
        if whole.config.num_key_value_heads > 1 and not whole.config.attention_bias:
            assert {int(output) for _, output, _ in ended} == {split}
