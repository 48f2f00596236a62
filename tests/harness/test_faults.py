"""Nothing lost and nothing wrong: real collections that are killed, starved, damaged, crowded."""

import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import numpy as np
import pytest

import gemma_mlx
from harness.collect import collect
from harness.data.store import StoreError
from harness.settings import INTERRUPTED, CollectSettings
from tests.support.builders import parsed, two_categories
from tests.support.forked import started
from tests.support.runs import ALIGNED
from tests.support.runs import PAIRS as EMBEDDED_PAIRS

PAIRS = parsed(two_categories(4))
# Eight prompts in four batches.
SETTINGS = CollectSettings(max_tokens=2, batch_size=2, layers=(0, 3))
# One prompt a batch, so that there are as many shards as prompts.
EMBEDDED = (
    "collect", "--model", ALIGNED, "--pairs", EMBEDDED_PAIRS, "--max-tokens", 2,
    "--layers", 3, "--batch-size", 1, "--artifact-store",
)  # fmt: skip


def stored(root: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in root.glob("*/*")
        if file.name != "lock"
    }


def shards(root: Path) -> dict[Path, tuple[int, int]]:
    """Where and since when each finished shard lies; a rewritten one would have another inode."""
    found = {}
    for file in root.glob("*/batch_*.safetensors"):
        status = file.stat()
        found[file] = (status.st_ino, status.st_mtime_ns)
    return found


def wait_for_shards(root: Path, number: int, seconds: float | None = None) -> None:
    """Until there are so many, or these seconds have passed."""
    end = time.monotonic() + (120 if seconds is None else seconds)
    while len(shards(root)) < number:
        if time.monotonic() >= end:
            assert seconds is not None
            return
        time.sleep(0.001)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What is stored, the seconds to the first shard, and the seconds from shard to shard."""
    folder = tmp_path_factory.mktemp("undisturbed")
    root = folder / "store"
    with started("power", 20, output=folder / "output") as (process, _):
        # The server has imported what it forks with.
        process.join()
    begin = time.monotonic()
    with started(*EMBEDDED, root, output=folder / "output") as (process, _):
        wait_for_shards(root, 1)
        first = time.monotonic()
        process.join()
        assert process.exitcode == 0, (folder / "output").read_text()
    found = stored(root)
    assert len(found) == 131
    return found, first - begin, (time.monotonic() - first) / 130


@pytest.mark.skipif(sys.platform == "darwin", reason="Metal doesn't survive a fork")
class TestStopped:
    @pytest.mark.parametrize(
        ("signals", "times"),
        [((signal.SIGKILL,), 110), ((signal.SIGINT, signal.SIGTERM), 20)],
        ids=["killed", "interrupted"],
    )
    def test_goes_on(self, undisturbed, tmp_path, signals, times):
        """At random moments, half of them while there is nothing new yet."""
        expected, starting, shard = undisturbed
        chance = random.Random(times)
        root, output = tmp_path / "store", tmp_path / "output"
        finished = {}
        for attempt in range(times):
            number = signals[attempt % len(signals)]
            with started(*EMBEDDED, root, output=output) as (process, heard):
                if number != signal.SIGKILL:
                    assert heard.recv() == "started"
                # However much faster the machine has become, shards are left for the kills to come.
                there = len(finished)
                if there > 120:
                    time.sleep(chance.uniform(0, 0.05))
                elif chance.random() < 0.5:
                    wait_for_shards(root, there + 1, chance.uniform(0, starting))
                else:
                    wait_for_shards(root, there + 1)
                    wait_for_shards(root, there + 3, chance.uniform(0, 2 * shard))
                os.kill(process.pid, number)
                process.join(60)
                said = output.read_text() if output.exists() else ""
                if number == signal.SIGKILL:
                    assert process.exitcode == -number, said
                else:
                    assert process.exitcode == 130, said
                    assert said.splitlines()[-1] == INTERRUPTED
                    assert not list(root.glob("*/*.tmp"))
            assert finished.items() <= shards(root).items(), "a finished shard was touched"
            finished = shards(root)
        assert 0 < len(finished) < 130
        with started(*EMBEDDED, root, output=output) as (process, heard):
            assert heard.recv() == "started"
            ran = 0
            while ran < 130 - len(finished):
                ran += heard.recv()
            with pytest.raises(EOFError):
                heard.recv()
            process.join()
            assert process.exitcode == 0, output.read_text()
        assert finished.items() <= shards(root).items()
        assert stored(root) == expected

    def test_eight_at_once_and_the_first_is_killed(self, undisturbed, tmp_path):
        root = tmp_path / "store"
        expected, _, _ = undisturbed
        with contextlib.ExitStack() as stack:
            both = [
                stack.enter_context(started(*EMBEDDED, root, output=tmp_path / f"output{i}"))
                for i in range(8)
            ]
            wait_for_shards(root, 20)
            finished = shards(root)
            for _, heard in both:
                assert heard.recv() == "started"
            first = next(process for process, heard in both if heard.poll())
            first.kill()
            first.join()
            killed = sum(heard_of(heard) for process, heard in both if process is first)
            others = [(process, heard) for process, heard in both if process is not first]
            for process, _ in others:
                process.join(120)
                assert process.exitcode == 0
            ran = sum(heard_of(heard) for _, heard in others)
        # The batch that the first one was at may have been run twice.
        assert killed >= 20
        assert 130 <= killed + ran <= 131
        assert finished.items() <= shards(root).items()
        assert stored(root) == expected


def heard_of(connection) -> int:
    """Prompts that a process has run which has ended."""
    prompts = 0
    try:
        while True:
            prompts += connection.recv()
    except EOFError:
        return prompts


def gather(model, root):
    return collect(model, PAIRS, SETTINGS, root, progress=False)


@pytest.fixture(scope="module")
def whole(small_checkpoint, tmp_path_factory):
    """The store of an undisturbed collection."""
    root = tmp_path_factory.mktemp("whole")
    gather(small_checkpoint, root)
    assert len(stored(root)) == 5
    return root


@pytest.fixture
def loaded(small_checkpoint, monkeypatch):
    """The model is loaded once; numbers of the prompts of each batch that is run."""
    gemma = gemma_mlx.load_checkpoint(small_checkpoint)
    run_batch, batches = gemma_mlx.run_batch, []

    def counted(gemma, request, batch):
        batches.append(batch)
        return run_batch(gemma, request, batch)

    monkeypatch.setattr(gemma_mlx, "load_checkpoint", lambda *_args, **_options: gemma)
    monkeypatch.setattr(gemma_mlx, "run_batch", counted)
    return batches


def failing(call, *, at, number):
    """`call`, whose `at`-th call fails as the operating system does."""
    calls = count(1)

    def wrapped(*args, **options):
        if next(calls) == at:
            raise OSError(number, os.strerror(number))
        return call(*args, **options)

    return wrapped


def refusal(model, root, reason):
    """A collection that the disk fails is refused in one line that says where and why."""
    with pytest.raises(StoreError) as caught:
        gather(model, root)
    message = str(caught.value)
    assert message.startswith(str(root))
    assert message.endswith(f"cannot be written ({reason})")
    assert len(message.splitlines()) == 1


class TestDisk:
    # Each file is synced before it has its name, and its directory after.
    @pytest.mark.parametrize("at", range(1, 11))
    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
    def test_failed_sync(self, small_checkpoint, whole, loaded, tmp_path, monkeypatch, at, number):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing(os.fsync, at=at, number=number))
            refusal(small_checkpoint, tmp_path, os.strerror(number))
        self.goes_on(small_checkpoint, whole, loaded, tmp_path)

    @pytest.mark.parametrize("at", range(1, 6))
    @pytest.mark.parametrize("number", [errno.EDQUOT, errno.EACCES, errno.EROFS])
    def test_failed_rename(
        self, small_checkpoint, whole, loaded, tmp_path, monkeypatch, at, number
    ):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", failing(Path.replace, at=at, number=number))
            refusal(small_checkpoint, tmp_path, os.strerror(number))
        self.goes_on(small_checkpoint, whole, loaded, tmp_path)

    def goes_on(self, model, whole, batches, root):
        assert stored(root).items() <= stored(whole).items()
        finished = shards(root)
        batches.clear()
        gather(model, root)
        assert len(batches) == 4 - len(finished)
        assert finished.items() <= shards(root).items()
        assert stored(root) == stored(whole)

    @pytest.fixture
    def small_disk(self, tmp_path):
        disk = tmp_path / "disk"
        disk.mkdir()
        self.mount(disk, "size=16k", fail=pytest.skip)
        yield disk
        subprocess.run(["umount", disk], check=True)

    def mount(self, disk, options, *, fail=pytest.fail):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            fail("no mount here")
        except subprocess.CalledProcessError as error:
            fail(f"no disk can be mounted here: {error.stderr.strip()}")

    def test_full_disk(self, small_checkpoint, whole, loaded, small_disk):
        refusal(small_checkpoint, small_disk, "No space left on device")
        assert 0 < len(shards(small_disk)) < 4
        self.mount(small_disk, "remount,size=1m")
        self.goes_on(small_checkpoint, whole, loaded, small_disk)

    def test_read_only_disk(self, small_checkpoint, whole, loaded, small_disk):
        refusal(small_checkpoint, small_disk, "No space left on device")
        before = stored(small_disk)
        self.mount(small_disk, "remount,ro")
        refusal(small_checkpoint, small_disk, "Read-only file system")
        assert stored(small_disk) == before
        self.mount(small_disk, "remount,rw,size=1m")
        self.goes_on(small_checkpoint, whole, loaded, small_disk)


class TestDamage:
    def test_never_used(self, small_checkpoint, whole, loaded, tmp_path):
        """520 shards with flipped bits or cut off, several at a time."""
        chance = random.Random(0)
        expected = stored(whole)
        run = gather(small_checkpoint, tmp_path)
        tokens, answers = run.tokens("mlp_out", 3), run.responses()
        cases = 0
        while cases < 520:
            damaged = chance.sample(sorted(run.shards().values()), chance.randint(1, 4))
            for file in damaged:
                content = bytearray(file.read_bytes())
                if chance.random() < 0.5:
                    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
                else:
                    del content[chance.randrange(len(content)) :]
                file.write_bytes(content)
            loaded.clear()
            with pytest.warns(UserWarning, match="damaged") as said:
                run = gather(small_checkpoint, tmp_path)
            assert sorted(str(w.message) for w in said) == sorted(
                f"{file}: damaged, will be collected again" for file in damaged
            )
            assert len(loaded) == len(damaged)
            assert stored(tmp_path) == expected
            assert run.responses() == answers
            read = run.tokens("mlp_out", 3)
            assert all(np.array_equal(read[group], tokens[group]) for group in tokens)
            cases += len(damaged)
