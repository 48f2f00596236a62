"""Nothing lost and nothing wrong: real collections that are killed, starved, damaged, crowded."""

import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest

import gemma_mlx
from harness.collect import CollectSettings, collect
from harness.run import EMBEDDED_MODEL, EMBEDDED_PAIRS, INTERRUPTED
from harness.store import StoreError
from tests.harness.builders import parsed, two_categories
from tests.harness.forked import started

PAIRS = parsed(two_categories(4))
# Eight prompts in four batches.
SETTINGS = CollectSettings(max_tokens=2, batch_size=2, layers=(0, 3))
# One prompt a batch, so that there are as many shards as prompts.
EMBEDDED = (
    "collect", "--model", EMBEDDED_MODEL, "--pairs", EMBEDDED_PAIRS, "--max-tokens", 2,
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


def until(condition, *, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
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
        until(lambda: process.exitcode is not None or shards(root))
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
                    assert heard.recv() == "planned"
                if chance.random() < 0.5:
                    time.sleep(chance.uniform(0, starting))
                else:
                    until(lambda: len(shards(root)) > len(finished))
                    time.sleep(chance.uniform(0, 2 * shard))
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
            assert heard.recv() == "planned"
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
            until(lambda: len(shards(root)) > 20)
            finished = shards(root)
            for _, heard in both:
                assert heard.recv() == "planned"
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
        assert killed > 20
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
