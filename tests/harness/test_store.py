"""Whole shards or none, whatever fails; damage found; processes that take turns."""

import contextlib
import errno
import json
import os
import random
import signal
import subprocess
import sys
import warnings
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from tqdm import tqdm

from harness.data import store
from harness.data.store import Record, Response, RunStore, StoreError

SETTINGS = {"model": "m", "prompts": {f"g{i}": f"prompt {i}" for i in range(6)}, "layers": [0, 3]}
BATCHES = [["g4", "g0"], ["g1", "g5"], ["g3", "g2"]]

# What one process does to collect; the same in every process and after every crash.
COLLECTOR = f"""
import os, signal, sys
from pathlib import Path
import numpy as np
from harness.data.store import Record, Response, RunStore

root, log, kill_at = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
sync, syncs = os.fsync, 0

def fsync(handle):
    global syncs
    syncs += 1
    if syncs == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(handle)

os.fsync = fsync
SETTINGS = {SETTINGS!r}
BATCHES = {BATCHES!r}

def record(group):
    rng = np.random.default_rng(list(group.encode()))
    response = Response((1, 2), "text of " + group, "length")
    return Record(response, {{"mlp_out": rng.standard_normal((2, 2, 5)).astype(np.float32)}})

run = RunStore(root, SETTINGS)
with run.locked("another process is collecting"):
    run.sweep()
    if run.plan() is None:
        run.begin(BATCHES)
    for number in run.missing():
        with log.open("a") as file:
            print(number, file=file)
        run.write(number, {{group: record(group) for group in BATCHES[number]}})
"""


def record(group: str) -> Record:
    rng = np.random.default_rng(list(group.encode()))
    response = Response((1, 2), f"text of {group}", "length")
    return Record(response, {"mlp_out": rng.standard_normal((2, 2, 5)).astype(np.float32)})


def filled(root: Path) -> RunStore:
    run = RunStore(root, SETTINGS)
    run.begin(BATCHES)
    for number, batch in enumerate(BATCHES):
        run.write(number, {group: record(group) for group in batch})
    return run


def contents(run: RunStore) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in run.path.iterdir() if file.name != "lock"}


@pytest.fixture
def run(tmp_path):
    return filled(tmp_path / "store")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return contents(filled(tmp_path_factory.mktemp("undisturbed")))


class TestReading:
    def test_responses(self, run):
        assert run.responses() == {group: record(group).response for group in SETTINGS["prompts"]}

    @pytest.mark.parametrize("row", [0, 1])
    def test_tokens(self, run, row):
        tokens = run.tokens("mlp_out", SETTINGS["layers"][row])
        assert set(tokens) == set(SETTINGS["prompts"])
        for group, array in tokens.items():
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, record(group).activations["mlp_out"][row])

    def test_a_layer_that_was_not_captured(self, run):
        with pytest.raises(StoreError, match=r"layer 1 wasn't captured; there are layers 0, 3$"):
            run.tokens("mlp_out", 1)

    def test_sites_are_told_apart(self, tmp_path):
        run = RunStore(tmp_path, SETTINGS)
        run.begin([["g0"]])
        values = {"mlp_out": 1.0, "mlp_out_normed": 2.0, "resid_post": 3.0}
        arrays = {site: np.full((2, 1, 3), value) for site, value in values.items()}
        run.write(0, {"g0": Record(Response((1,), "", "stop"), arrays)})
        for site, value in values.items():
            assert (run.tokens(site, 3)["g0"] == value).all()

    def test_responses_without_tokens(self, tmp_path):
        run = RunStore(tmp_path, SETTINGS)
        run.begin([["g0"]])
        empty = Record(Response((), "", "stop"), {"mlp_out": np.zeros((2, 0, 5), np.float32)})
        run.write(0, {"g0": empty})
        assert run.tokens("mlp_out", 3)["g0"].shape == (0, 5)
        assert run.responses()["g0"].token_ids == ()

    def test_strided_activations(self, tmp_path):
        run = RunStore(tmp_path, SETTINGS)
        run.begin([["g0"]])
        array = np.arange(30, dtype=np.float64).reshape(5, 2, 3).transpose(1, 2, 0)
        run.write(0, {"g0": Record(Response((1,), "", "stop"), {"mlp_out": array})})
        np.testing.assert_array_equal(run.tokens("mlp_out", 3)["g0"], array[1])

    @pytest.mark.parametrize("read", [RunStore.responses, lambda run: run.tokens("mlp_out", 0)])
    def test_incomplete_run(self, run, read):
        next(iter(run.shards().values())).unlink()
        with pytest.raises(StoreError, match=r"1 batches are missing"):
            read(run)

    def test_run_that_never_began(self, tmp_path):
        with pytest.raises(StoreError):
            RunStore(tmp_path, SETTINGS).responses()


class TestKeys:
    def test_settings_name_the_run(self, tmp_path):
        one, other = RunStore(tmp_path, SETTINGS), RunStore(tmp_path, {**SETTINGS, "layers": [0]})
        assert one.path != other.path
        assert one.path.parent == tmp_path

    def test_order_of_settings_does_not_matter(self, tmp_path):
        backwards = dict(reversed(SETTINGS.items()))
        assert RunStore(tmp_path, backwards).key == RunStore(tmp_path, SETTINGS).key

    def test_format_is_part_of_the_key(self, tmp_path, monkeypatch):
        before = RunStore(tmp_path, SETTINGS).key
        monkeypatch.setattr(store, "FORMAT", store.FORMAT + 1)
        assert RunStore(tmp_path, SETTINGS).key != before

    def test_same_content_same_bytes(self, run, undisturbed):
        assert contents(run) == undisturbed


def fail_with(error):
    def fail(*_args, **_kwargs):
        raise error

    return fail


class TestFaults:
    NO_SPACE = OSError(errno.ENOSPC, "No space left on device")

    def test_shard_that_cannot_be_written(self, run, monkeypatch):
        before = contents(run)
        monkeypatch.setattr(os, "fsync", fail_with(self.NO_SPACE))
        with pytest.raises(StoreError, match=r"batch_00001"):
            run.write(1, {"g1": record("g5")})
        assert contents(run) == before

    def test_root_that_is_a_file(self, tmp_path):
        (tmp_path / "store").touch()
        run = RunStore(tmp_path / "store", SETTINGS)
        with pytest.raises(StoreError, match="store"), run.locked("waiting"):
            pass

    def test_lock_that_cannot_be_taken(self, run, monkeypatch):
        no_locks = OSError(errno.ENOLCK, "No locks available")
        monkeypatch.setattr("fcntl.flock", fail_with(no_locks))
        with pytest.raises(StoreError, match="No locks available"), run.locked("waiting"):
            pass

    @pytest.mark.parametrize("step", ["missing", "sweep", "clear"])
    def test_file_that_cannot_be_removed(self, run, monkeypatch, step):
        (run.path / "batch_00000.1.tmp").touch()
        shard = run.shards()[1]
        shard.write_bytes(b"damaged")
        refused = OSError(errno.EROFS, "Read-only file system")
        monkeypatch.setattr(Path, "unlink", fail_with(refused))
        with (
            warnings.catch_warnings(action="ignore"),
            pytest.raises(StoreError, match="Read-only file system"),
        ):
            getattr(run, step)()

    def test_a_shard_of_another_batch_is_not_taken(self, run):
        """Its bytes are what its name says, but they are other prompts'."""
        shards = run.shards()
        other = shards[0].read_bytes()
        shards[1].unlink()
        name = shards[0].name.replace("batch_00000", "batch_00001")
        (run.path / name).write_bytes(other)
        with pytest.warns(UserWarning, match=f"{name}: damaged"):
            assert run.missing() == [1]

    def test_unreadable_shard_is_missing(self, run, monkeypatch):
        shard = run.shards()[1]
        read = Path.read_bytes

        def read_bytes(self):
            if self == shard:
                raise OSError(errno.EIO, "Input/output error")
            return read(self)

        monkeypatch.setattr(Path, "read_bytes", read_bytes)
        with pytest.warns(UserWarning, match=shard.name):
            assert run.missing() == [1]

    def test_leftovers_are_swept(self, run):
        before = contents(run)
        (run.path / "batch_00000.abc.safetensors.123.tmp").write_bytes(b"half")
        (run.path / "manifest.json.123.tmp").write_bytes(b"half")
        run.sweep()
        assert contents(run) == before


class TestDamage:
    @pytest.mark.slow
    def test_every_flipped_bit_and_cut_is_found(self, run):
        chance = random.Random(0)
        good = {number: file.read_bytes() for number, file in run.shards().items()}
        for case in range(500):
            number = chance.randrange(len(BATCHES))
            file = run.shards()[number]
            damaged = bytearray(good[number])
            if case % 2:
                damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
            else:
                del damaged[chance.randrange(len(damaged)) :]
            file.write_bytes(damaged)
            with pytest.warns(UserWarning, match=f"{file.name}: damaged"):
                assert run.missing() == [number]
            assert number not in run.shards()
            with pytest.raises(StoreError):
                run.tokens("mlp_out", 0)
            file.write_bytes(good[number])
        with warnings.catch_warnings(action="error"):
            assert run.missing() == []

    def test_another_files_content(self, run):
        shards = run.shards()
        shards[0].write_bytes(shards[1].read_bytes())
        with pytest.warns(UserWarning, match="damaged"):
            assert run.missing() == [0]

    def test_what_another_process_sends(self, run, undisturbed, tmp_path):
        """Taken if it is what its name says, and under no other name."""
        name = next(name for name in undisturbed if name.startswith("batch_"))
        content = undisturbed[name]
        other = RunStore(tmp_path / "other", run.settings)
        for wrong, damaged in ((name, content[:-1]), ("../manifest.json", content)):
            with pytest.raises(StoreError, match="damaged on its way here"):
                other.receive(wrong, damaged)
        assert not other.root.exists()
        other.receive(name, content)
        assert (other.path / name).read_bytes() == content

    def test_foreign_files_are_no_shards(self, run):
        digest = "0" * 64
        for name in ("batch_7.safetensors", f"batch_00001.{digest}.npz", f"batch_1.{digest}", "x"):
            (run.path / name).touch()
        assert set(run.shards()) == {0, 1, 2}
        assert run.missing() == []

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"\xff",
            b"[]",
            b"null",
            b"3",
            b"{}",
            b'{"batches": [["g0"]]}',
            b'{"settings": {}, "batches": [["g0"]]}',
            b"[" * 100_000,
        ],
        ids=lambda content: ascii(content[:20]),
    )
    def test_damaged_manifest(self, run, content):
        (run.path / "manifest.json").write_bytes(content)
        with pytest.raises(StoreError, match=r"manifest\.json"):
            run.plan()

    @pytest.mark.parametrize("batches", [None, 3, "g0", [3], ["g0"], [["g0", 3]], [[["g0"]]], {}])
    def test_plan_of_another_form(self, run, batches):
        file = run.path / "manifest.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "batches": batches}))
        with pytest.raises(StoreError, match=r"manifest\.json"):
            run.plan()

    def test_flipped_bits_in_the_manifest(self, run):
        """Refused, or without consequence: never another plan."""
        chance = random.Random(0)
        file = run.path / "manifest.json"
        good = file.read_bytes()
        for _ in range(500):
            damaged = bytearray(good)
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
            file.write_bytes(damaged)
            with contextlib.suppress(StoreError):
                assert run.plan() == BATCHES

    @pytest.mark.parametrize("version", [store.FORMAT - 1, store.FORMAT + 1, "one"])
    def test_another_format_is_refused_by_its_number(self, run, version):
        """Whatever else differs in it."""
        file = run.path / "manifest.json"
        file.write_text(json.dumps({"format": version, "chunks": []}))
        with pytest.raises(StoreError, match=r"manifest\.json: in format") as caught:
            run.plan()
        said = f"in format {version!r}, and this version reads format {store.FORMAT}; move"
        assert said in str(caught.value)

    def test_manifest_of_another_run(self, run):
        other = RunStore(run.root, {**SETTINGS, "model": "another"})
        other.path.mkdir()
        (run.path / "manifest.json").rename(other.path / "manifest.json")
        with pytest.raises(StoreError, match="another run"):
            other.plan()


def collector(root: Path, log: Path, *, kill_at: int = 0) -> subprocess.Popen[bytes]:
    repository = Path(store.__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", COLLECTOR, root, log, str(kill_at)], cwd=repository
    )


@pytest.mark.slow
class TestProcesses:
    def test_killed_at_every_sync(self, tmp_path, undisturbed):
        """Two syncs a file: before it has its name, and after. Runs die in the one and the other
        by turns, so that each file is begun twice and finished once, the manifest first."""
        root, log = tmp_path / "store", tmp_path / "log"
        kills = 0
        while collector(root, log, kill_at=1 + kills % 2).wait():
            kills += 1
            assert kills < 50
        assert kills == 2 * (1 + len(BATCHES))
        assert contents(RunStore(root, SETTINGS)) == undisturbed
        assert log.read_text().split() == ["0", "0", "1", "1", "2", "2"]

    def test_many_processes_at_once(self, tmp_path, undisturbed):
        root, log = tmp_path / "store", tmp_path / "log"
        processes = [collector(root, log) for _ in range(6)]
        assert [process.wait(timeout=60) for process in processes] == [0] * 6
        assert contents(RunStore(root, SETTINGS)) == undisturbed
        assert sorted(log.read_text().split()) == ["0", "1", "2"]

    def hold(self, run: RunStore, then: str) -> subprocess.Popen[str]:
        """A process that takes the lock, says so, and does `then`."""
        script = (
            "import sys, time; from pathlib import Path; from harness.data.store import RunStore\n"
            f"run = RunStore(Path({str(run.root)!r}), {SETTINGS!r})\n"
            f"with run.locked('waiting'):\n print('held', flush=True)\n {then}\n"
        )
        holder = subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=Path(store.__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        return holder

    def test_lock_of_a_killed_process_is_free(self, run):
        with self.hold(run, "time.sleep(60)") as holder:
            holder.send_signal(signal.SIGKILL)
            holder.wait()
        with warnings.catch_warnings(action="error"), run.locked("waiting"):
            pass

    def test_a_short_wait_is_not_worth_a_word(self, run):
        with (
            warnings.catch_warnings(action="error"),
            self.hold(run, "time.sleep(0.3)"),
            run.locked("waiting"),
        ):
            pass

    def test_waiting_is_said(self, run, monkeypatch):
        shown = StringIO()
        monkeypatch.setattr(store, "_PATIENCE", 0.1)
        with (
            self.hold(run, "time.sleep(0.5)"),
            pytest.warns(UserWarning, match="someone else is at it"),
            run.locked("someone else is at it", bars=partial(tqdm, file=shown, leave=False)),
        ):
            pass
        first, *_, last = shown.getvalue().split("\r")[1:]
        assert first == "someone else is at it"
        assert last == ""

    def test_lock_is_released_after_an_error(self, run):
        with pytest.raises(ZeroDivisionError), run.locked("waiting"):
            raise ZeroDivisionError
        with warnings.catch_warnings(action="error"), run.locked("waiting"):
            pass


def test_layers_of_different_widths(tmp_path):
    store = RunStore(tmp_path, {"layers": [1, 4]})
    rows = [np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((2, 5), np.float32)]
    store.begin([["a", "b"]])
    response = Response((7, 8), "", "length")
    store.write(0, {group: Record(response, {"mlp_post": rows}) for group in ("a", "b")})
    assert store.missing() == []
    for layer, row in zip((1, 4), rows, strict=True):
        found = store.tokens("mlp_post", layer)
        assert found.keys() == {"a", "b"}
        np.testing.assert_array_equal(found["b"], row)
