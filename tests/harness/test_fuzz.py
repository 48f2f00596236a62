"""Random command lines: one clear line each, no traceback, no wait, nothing written elsewhere."""

from itertools import islice

import pytest

from tests.support import fuzz


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_command_lines(tmp_path, monkeypatch):
    """A part of what `python -m tests.support.fuzz` runs by the thousand."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    fuzz.prepare(place)
    before = fuzz.seen(place)
    commands = (line for line in fuzz.command_lines(7) if line[0] != "pytest")
    for line in islice(commands, 50):
        code, said = fuzz.run(line)
        assert fuzz.faults(line, code, said) is None, (line, said)
    assert fuzz.seen(place) == before
