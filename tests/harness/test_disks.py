"""Nothing lost and nothing wrong on disks that fail, are full or can't be written."""

import errno
import os
import subprocess
from itertools import count
from pathlib import Path

import pytest

from harness.data.store import StoreError
from tests.support.collecting import FOUR_BATCHES, finished_shards, gather, stored


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
        gather(model, root, FOUR_BATCHES)
    message = str(caught.value)
    assert message.startswith(str(root))
    assert message.endswith(f"cannot be written ({reason})")
    assert len(message.splitlines()) == 1


class TestDisk:
    # Each file is synced before it has its name, and its directory after.
    @pytest.mark.parametrize("at", range(1, 11))
    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
    def test_failed_sync(self, tiny, whole, loaded, tmp_path, monkeypatch, at, number):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing(os.fsync, at=at, number=number))
            refusal(tiny, tmp_path, os.strerror(number))
        self.goes_on(tiny, whole, loaded, tmp_path)

    @pytest.mark.parametrize("at", range(1, 6))
    @pytest.mark.parametrize("number", [errno.EDQUOT, errno.EACCES, errno.EROFS])
    def test_failed_rename(self, tiny, whole, loaded, tmp_path, monkeypatch, at, number):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", failing(Path.replace, at=at, number=number))
            refusal(tiny, tmp_path, os.strerror(number))
        self.goes_on(tiny, whole, loaded, tmp_path)

    def goes_on(self, model, whole, batches, root):
        assert stored(root).items() <= stored(whole).items()
        finished = finished_shards(root)
        batches.clear()
        gather(model, root, FOUR_BATCHES)
        assert len(batches) == 4 - len(finished)
        assert finished.items() <= finished_shards(root).items()
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

    def test_full_disk(self, tiny, whole, loaded, small_disk):
        refusal(tiny, small_disk, "No space left on device")
        assert 0 < len(finished_shards(small_disk)) < 4
        self.mount(small_disk, "remount,size=1m")
        self.goes_on(tiny, whole, loaded, small_disk)

    def test_read_only_disk(self, tiny, whole, loaded, small_disk):
        refusal(tiny, small_disk, "No space left on device")
        before = stored(small_disk)
        self.mount(small_disk, "remount,ro")
        refusal(tiny, small_disk, "Read-only file system")
        assert stored(small_disk) == before
        self.mount(small_disk, "remount,rw,size=1m")
        self.goes_on(tiny, whole, loaded, small_disk)
