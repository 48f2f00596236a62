"""A file is there whole or not at all, whatever fails while it is written."""

import errno
import os
from unittest.mock import Mock

import pytest

from gemma_mlx.errors import RequestError, UserError
from gemma_mlx.system.files import write_whole

NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.open"])
@pytest.mark.parametrize("old", [None, b"old"])
def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch, where, old):
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    with monkeypatch.context() as patch:
        patch.setattr(where, Mock(side_effect=NO_SPACE))
        with pytest.raises(UserError) as caught:
            write_whole(path, b"new")
    assert str(caught.value) == f"{path}: cannot be written (No space left on device)"
    assert (path.read_bytes() if path.exists() else None) == old
    assert [file.name for file in tmp_path.iterdir()] == (["file"] if old else [])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), MemoryError()])
def test_interrupted_write_leaves_nothing(tmp_path, monkeypatch, error):
    monkeypatch.setattr(os, "fsync", Mock(side_effect=error))
    with pytest.raises(type(error)):
        write_whole(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


def test_folders_are_made(tmp_path):
    write_whole(tmp_path / "a" / "b" / "file", b"new")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"new"


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match=r"below: cannot be written \("):
        write_whole(tmp_path / "file" / "below", b"new", error=RequestError)
