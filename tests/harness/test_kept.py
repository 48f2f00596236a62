"""What a store keeps: wider runs serve narrower requests; runs are listed and cleared away."""

import fcntl
import json
import shutil
from dataclasses import replace

import pytest

import gemma_mlx
from harness.cli import main
from harness.data.kept import kept_runs
from tests.support.collecting import SETTINGS, finished_shards, gather

NARROW = replace(SETTINGS, layers=(3,))
WIDE = replace(SETTINGS, sites=("resid_post", "mlp_out"), layers=(0, 3, 5))


@pytest.fixture
def wide(small_checkpoint, tmp_path):
    return gather(small_checkpoint, tmp_path / "store", WIDE)


@pytest.fixture
def no_model(monkeypatch):
    def load(*_args, **_kwargs):
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(gemma_mlx, "load_checkpoint", load)


class TestWider:
    def test_serves_fewer_layers_and_sites(self, small_checkpoint, wide, no_model):
        found = gather(small_checkpoint, wide.root, NARROW)
        assert found.path == wide.path
        assert found.reused == 1
        assert found.tokens("mlp_out", 3).keys() == wide.responses().keys()
        assert len(kept_runs(wide.root)) == 1

    def test_serves_what_follows_its_answers(self, small_checkpoint, tmp_path, monkeypatch):
        """The forced words are those of the wider run."""
        forced = replace(WIDE, positions="forced")
        first = gather(small_checkpoint, tmp_path, forced)
        monkeypatch.setattr(gemma_mlx, "load_checkpoint", None)
        assert gather(small_checkpoint, tmp_path, replace(NARROW, positions="forced")).path == (
            first.path
        )

    def test_gives_what_the_narrow_one_gives(self, small_checkpoint, wide, tmp_path):
        alone = gather(small_checkpoint, tmp_path / "other", NARROW)
        served = gather(small_checkpoint, wide.root, NARROW)
        for group, array in alone.tokens("mlp_out", 3).items():
            assert served.tokens("mlp_out", 3)[group] == pytest.approx(array, abs=1e-5)

    @pytest.mark.parametrize(
        "asked",
        [
            replace(SETTINGS, layers=(1,)),
            replace(SETTINGS, sites=("attn_out",)),
            replace(NARROW, max_tokens=2),
            replace(NARROW, batch_size=2),
        ],
    )
    def test_does_not_serve_what_it_has_not(self, small_checkpoint, wide, asked):
        assert gather(small_checkpoint, wide.root, asked).path != wide.path

    def test_that_is_not_whole_is_left(self, small_checkpoint, wide):
        next(iter(wide.shards().values())).unlink()
        left = finished_shards(wide.root)
        found = gather(small_checkpoint, wide.root, NARROW)
        assert found.path != wide.path
        assert left.items() <= finished_shards(wide.root).items()

    def test_that_is_damaged_is_told(self, small_checkpoint, wide):
        next(iter(wide.shards().values())).write_bytes(b"x")
        with pytest.warns(UserWarning, match="damaged"):
            found = gather(small_checkpoint, wide.root, NARROW)
        assert found.path != wide.path

    def test_other_things_in_the_store_are_left(self, small_checkpoint, wide, no_model):
        for name, text in (("a" * 24, "{"), ("b" * 24, '{"settings": 1}'), ("c", "[]")):
            (wide.root / name).mkdir()
            (wide.root / name / "manifest.json").write_text(text)
        assert gather(small_checkpoint, wide.root, NARROW).path == wide.path

    def test_is_not_taken_where_all_is_collected_anew(self, small_checkpoint, wide):
        assert gather(small_checkpoint, wide.root, NARROW, again=True).path != wide.path


def run(*arguments, capsys):
    code = main(list(map(str, arguments)))
    return code, capsys.readouterr()


class TestCommands:
    def test_list(self, small_checkpoint, wide, capsys):
        code, said = run("store", "list", "--artifact-store", wide.root, capsys=capsys)
        header, row, total = said.out.splitlines()
        assert code == 0
        assert header.split() == [
            "run", "model", "pairs", "positions", "sites", "layers", "size", "date"
        ]  # fmt: skip
        assert row.startswith(wide.path.name[:12])
        assert small_checkpoint.path.name in row
        assert " generated  resid_post mlp_out  " in row
        assert total.startswith("1 runs in ")

    def test_list_of_older_and_damaged_ones(self, wide, capsys):
        for name, change in (("a", {"format": 0}), ("b", {"about": None}), ("c", None)):
            other = wide.root / (name * 24)
            shutil.copytree(wide.path, other)
            manifest = json.loads((other / "manifest.json").read_text())
            text = json.dumps({**manifest, **change}) if change else "{"
            (other / "manifest.json").write_text(text)
        code, said = run("store", "list", "--artifact-store", wide.root, capsys=capsys)
        assert code == 0
        by_name = {line.split()[0]: line for line in said.out.splitlines()[1:-1]}
        assert by_name["a" * 12].endswith("of format 0")
        assert by_name["c" * 12].endswith("damaged")
        assert len(by_name) == 4

    def test_prune(self, small_checkpoint, wide, capsys):
        other = gather(small_checkpoint, wide.root, replace(NARROW, max_tokens=1))
        (other.path / "mine.txt").write_text("mine")
        name = other.path.name[:8]
        code, said = run("store", "prune", name, "--artifact-store", wide.root, capsys=capsys)
        assert code == 0
        assert "1 runs deleted" in said.out
        assert [file.name for file in other.path.iterdir()] == ["mine.txt"]
        assert wide.complete()

    def test_prune_by_age(self, wide, capsys):
        for days, left in (("1", 1), ("0", 0)):
            run("store", "prune", "--days", days, "--artifact-store", wide.root, capsys=capsys)
            assert len(kept_runs(wide.root)) == left

    def test_what_is_used_stays(self, wide, capsys):
        with (wide.path / "lock").open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            code, said = run(
                "store", "prune", "--all", "--artifact-store", wide.root, capsys=capsys
            )
        assert code == 0
        assert "a process is using it" in said.err
        assert wide.complete()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("list", "--artifact-store", "nosuch"), "nosuch: cannot be read"),
            (("prune", "xyz"), "'xyz': 0 runs are called so"),
            (("prune", ""), "'': 0 runs are called so"),
        ],
    )
    def test_bad_input_is_one_line(self, wide, monkeypatch, capsys, arguments, message):
        monkeypatch.chdir(wide.root.parent)
        wide.root.rename(".artifact_store")
        code, said = run("store", *arguments, capsys=capsys)
        assert code == 2
        assert said.err.startswith(f"error: {message}")
        assert said.err.count("\n") == 1

    @pytest.mark.parametrize("arguments", [(), ("--days", "x"), ("--days", "-1"), ("a", "--all")])
    def test_usage(self, wide, capsys, arguments):
        with pytest.raises(SystemExit) as stop:
            main(["store", "prune", *arguments, "--artifact-store", str(wide.root)])
        assert stop.value.code == 2
        assert wide.complete()
