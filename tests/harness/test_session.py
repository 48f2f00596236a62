"""What the workers of pytest-xdist share."""

import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from harness.testing.session import once

ALONE, WORKER = SimpleNamespace(), SimpleNamespace(workerinput={})


@pytest.mark.slow
def test_one_worker_works_and_the_others_wait(tmp_path):
    done = []

    def work():
        time.sleep(0.2)
        done.append(1)
        return {"found": len(done)}

    folders = [tmp_path / name for name in ("gw0", "gw1", "gw2")]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda folder: once(WORKER, folder, "name", work), folders))
    assert found == [{"found": 1}] * 3
    assert once(WORKER, folders[0], "other", work) == {"found": 2}


def test_without_workers_nothing_is_written(tmp_path):
    assert once(ALONE, tmp_path / "one", "name", lambda: 3) == 3
    assert list(tmp_path.iterdir()) == []


def test_what_fails_is_left_to_the_next_one(tmp_path):
    def fails():
        raise OSError("on purpose")

    with pytest.raises(OSError, match="on purpose"):
        once(WORKER, tmp_path / "gw0", "name", fails)
    assert once(WORKER, tmp_path / "gw1", "name", lambda: 3) == 3
    assert pickle.loads((tmp_path / "name.pickle").read_bytes()) == 3
