"""Nothing lost and nothing wrong: real collections that are killed, interrupted, crowded."""

import contextlib
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from harness.data import embedded
from harness.settings import INTERRUPTED
from tests.support.collecting import finished_shards, stored
from tests.support.forked import command

# One prompt a batch, so that there are as many shards as prompts.
EMBEDDED = (
    "collect", "--model", embedded.MODEL, "--pairs", embedded.PAIRS, "--max-tokens", 2,
    "--layers", 3, "--batch-size", 1, "--artifact-store",
)  # fmt: skip


def wait_for_shards(root: Path, number: int, seconds: float | None = None) -> None:
    """Until there are so many, or these seconds have passed."""
    end = time.monotonic() + (120 if seconds is None else seconds)
    while len(finished_shards(root)) < number:
        if time.monotonic() >= end:
            assert seconds is not None
            return
        time.sleep(0.001)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What is stored, the seconds to the first shard, and the seconds from shard to shard."""
    folder = tmp_path_factory.mktemp("undisturbed")
    root = folder / "store"
    with command("power", 20, output=folder / "output") as (process, _):
        # The server has imported what it forks with.
        process.join()
    begin = time.monotonic()
    with command(*EMBEDDED, root, output=folder / "output") as (process, _):
        wait_for_shards(root, 1)
        first = time.monotonic()
        process.join()
        assert process.exitcode == 0, (folder / "output").read_text()
    found = stored(root)
    assert len(found) == 131
    return found, first - begin, (time.monotonic() - first) / 130


@pytest.mark.skipif(sys.platform == "darwin", reason="Metal doesn't survive a fork")
@pytest.mark.slow
class TestStopped:
    @pytest.mark.parametrize(
        ("signals", "times"),
        [((signal.SIGKILL,), 30), ((signal.SIGINT, signal.SIGTERM), 10)],
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
            with command(*EMBEDDED, root, output=output) as (process, heard):
                if number != signal.SIGKILL:
                    assert heard.recv() == "planned"
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
            assert finished.items() <= finished_shards(root).items(), "a finished shard was touched"
            finished = finished_shards(root)
        assert 0 < len(finished) < 130
        with command(*EMBEDDED, root, output=output) as (process, heard):
            assert heard.recv() == "planned"
            ran = 0
            while ran < 130 - len(finished):
                ran += heard.recv()
            with pytest.raises(EOFError):
                heard.recv()
            process.join()
            assert process.exitcode == 0, output.read_text()
        assert finished.items() <= finished_shards(root).items()
        assert stored(root) == expected

    def test_eight_at_once_and_the_first_is_killed(self, undisturbed, tmp_path):
        root = tmp_path / "store"
        expected, _, _ = undisturbed
        with contextlib.ExitStack() as stack:
            both = [
                stack.enter_context(command(*EMBEDDED, root, output=tmp_path / f"output{i}"))
                for i in range(8)
            ]
            wait_for_shards(root, 20)
            finished = finished_shards(root)
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
        assert killed >= 20
        assert 130 <= killed + ran <= 131
        assert finished.items() <= finished_shards(root).items()
        assert stored(root) == expected


def heard_of(connection) -> int:
    """Prompts that a process has run which has ended."""
    prompts = 0
    try:
        while True:
            prompts += connection.recv()
    except EOFError:
        return prompts
