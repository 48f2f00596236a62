"""Progress bars: what they name, and that they are seen through pytest's capture."""

import os
import pty
import re
import subprocess
import sys
import termios
from contextlib import suppress

import pytest

from harness import Experiment
from harness.progress import SILENT
from tests.support.builders import checkpoint, parsed, two_categories
from tests.support.runs import ROOT

WATCHED = """
def test_it(pytestconfig):
    from harness.testing.session import session_of
    print("captured")
    for _ in session_of(pytestconfig)._bars(range(3), desc="resampling", unit="layer"):
        pass

def test_another():
    pass
"""


def on_terminal(folder, *arguments):
    """What a terminal of 100 columns is sent by pytest."""
    (folder / "test_watched.py").write_text(WATCHED)
    mine, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (50, 100))
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "harness.plugin",
         "test_watched.py", *arguments],
        cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip
    os.close(theirs)
    said = b""
    # The end of a terminal is an error.
    with suppress(OSError):
        while part := os.read(mine, 65536):
            said += part
    os.close(mine)
    assert process.wait() == 0, said
    return said.decode()


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [(), ("-v",), ("-s",), ("--capture=sys",)])
def test_is_seen_through_capture(tmp_path, arguments):
    said = on_terminal(tmp_path, *arguments)
    assert re.search(r"[\r\n]resampling: +\d+%\|.*\| \d+/3 \[\d\d:\d\d<", said), said
    assert ("captured" in said) == (arguments == ("-s",))
    # pytest's own lines are whole.
    assert re.search(r"[\r\n]test_watched.py\S* .*(\.|PASSED)", said)
    assert "2 passed" in said


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("-q",), ("-p", "xdist", "-n", "1")], ids=["-q", "xdist"])
def test_is_not_in_the_way(tmp_path, arguments):
    assert "resampling" not in on_terminal(tmp_path, *arguments)


def test_names_what_takes_long(small_checkpoint, tmp_path, monkeypatch):
    """Each model and each position."""
    named = []

    def bars(*arguments, **how):
        named.append(how["desc"])
        return SILENT(*arguments, **how)

    experiment = Experiment(
        small_checkpoint.path,
        parsed(two_categories(12)),
        layers=[0],
        max_tokens=1,
        base_model=checkpoint(tmp_path / "other", num_hidden_layers=3).path,
        noise=True,
        store=tmp_path / "store",
        bars=bars,
    )
    # What is estimated needs better answers than those of random weights.
    monkeypatch.setattr(
        "harness.analysis.analyze", lambda *_, progress, **__: list(progress(range(1)))
    )
    experiment.analyze()
    assert named == [
        "collecting generated",
        "collecting forced",
        "collecting prompt_last",
        "collecting generated, base model other",
        "collecting forced, base model other",
        "collecting generated, again, for the noise",
        "resampling",
    ]
    named.clear()
    experiment.analyze()
    assert named == ["resampling"]
