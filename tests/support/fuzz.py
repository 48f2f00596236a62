"""Random command lines: every command and pytest, with values and files that nobody should give.

    python -m tests.support.fuzz 2000 [SEED]

runs so many by hand, in a folder of its own, and says what went wrong.
"""

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import tempfile
import traceback
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from harness.cli import main
from harness.options import OPTIONS
from tests.support.builders import checkpoint, layer_result, results_of, two_categories, written
from tests.support.runs import ROOT

#: Seconds that a command line may take.
LONGEST = 120
_COMMANDS = (
    "prepare", "pairs", "collect", "analyze", "report", "power", "compare", "history", "store",
    "verify",
)  # fmt: skip
_NASTY = (
    "", " ", "0", "-1", "1", "7", "8", "nan", "inf", "-inf", "1e999", "1e-320", "9" * 400, "0x10",
    "½", "١", "é", "名", "a\nb", "\x1b[31m", "\u202e", "\udc80", "%s", "{}", "*", "~", "~nobody/x",
    "$HOME", "-", "--", "-x", "a,b", "0-", "5-2", "0-7", "0-99999999", "x" * 300, "x/" * 3000,
    "../x" * 3, "no/such", "/no/such", "/dev/null", "/dev/zero", "/dev/full", "/dev/full/x",
    "/dev/fd", "/proc/self/mem", "/proc/nobody", "fifo", "loop", "dangling", "folder", "locked",
    "empty", "text", "pairs.json", "few.json", "broken.json", "list.json", "deep.json",
    "binary.safetensors", "results.json", "old.json", "owner/name", "owner/name/x.gguf", "x.gguf",
)  # fmt: skip
_RUNNING = ("collect", "analyze")
_SMALL = ["--model=model", "--pairs=pairs.json", "--max-tokens=1", "--layers=0"]
# Where something is written; a folder that is named may be written, so none of ours is named.
_WRITTEN = ("--output", "--artifact-report", "--report", "--artifact-store", "--store")
_HARMLESS = ("", " ", "out", "a/b/c", "x" * 300, "x/" * 3000, "/dev/full", "/dev/full/x",
             "/dev/fd", "/proc/nobody", "text", "fifo", "loop", "dangling", "é", "\udc80", "~",
             "\x1b[31m", "a\nb")  # fmt: skip


@cache
def _model() -> Path:
    """A model with random weights."""
    return checkpoint(Path(tempfile.mkdtemp()) / "model").path


def prepare(folder: Path) -> None:
    """The files that command lines name."""
    shutil.copytree(_model(), folder / "model")
    written(folder / "pairs.json", two_categories(12))
    written(folder / "few.json", two_categories(2))
    (folder / "broken.json").write_text('{"a": \n]')
    (folder / "list.json").write_text("[]")
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "empty").touch()
    (folder / "text").write_text("text")
    (folder / "binary.safetensors").write_bytes(bytes(range(256)) * 4)
    (folder / "x.gguf").write_bytes(b"GGUF" + bytes(64))
    (folder / "folder").mkdir()
    (folder / "locked").mkdir(mode=0)
    os.mkfifo(folder / "fifo")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere")
    content = results_of(layer_result()).to_json()
    (folder / "results.json").write_text(json.dumps(content))
    (folder / "old.json").write_text(json.dumps({**content, "schema_version": 1}))
    baselines = folder / ".artifact_baselines"
    baselines.mkdir()
    (baselines / "0001_v1.safetensors").write_bytes(b"\0" * 100)


def command_lines(seed: int) -> Iterator[list[str]]:
    """Endlessly many; the first word is a command, or pytest."""
    rng = random.Random(seed)
    flags = [option.flag for option in OPTIONS] + ["--output", "--days", "--layers", "--alpha"]
    flags += ["--from", "--natural", "--artifact", "--category", "--match", "--preset"]
    while True:
        command = rng.choice((*_COMMANDS, "pytest"))
        line = [command]
        if command in _RUNNING:
            line += _SMALL + ["--replicates=100"] * (command == "analyze")
        if command == "store":
            line.append(rng.choice(("list", "prune", "other")))
        if command in ("pairs", "report", "power", "compare", "history", "store"):
            line += [rng.choice(_NASTY) for _ in range(rng.randrange(3))]
        for _ in range(rng.randrange(4)):
            flag = rng.choice(flags)
            value = rng.choice(_HARMLESS if flag in _WRITTEN else _NASTY)
            line += [flag] if rng.random() < 0.1 else [f"{flag}={value}"]
        yield line


def run(line: list[str]) -> tuple[int, str]:
    """The exit code of a command line, and all that it says. One that takes too long is
    interrupted, which its exit code shows."""
    said = io.StringIO()
    signal.signal(signal.SIGALRM, _stop)
    signal.alarm(LONGEST)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = _pytest(line[1:]) if line[0] == "pytest" else main(line)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        code = -1
        said.write(traceback.format_exc())
    finally:
        signal.alarm(0)
    return code, said.getvalue()


def _pytest(arguments: list[str]) -> int:
    base = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-c", ROOT / "pytest.ini",
            "--rootdir", ROOT, "-k", "test_accuracy", ROOT / "artifact_checks",
            "--artifact-replicates=100", *_SMALL)  # fmt: skip
    return int(pytest.main([*map(str, base), *arguments]))


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def faults(line: list[str], code: int, said: str) -> str | None:
    """What is wrong with what a command line did; None if nothing."""
    if "Traceback (most recent call last)" in said or "INTERNALERROR" in said:
        return "a traceback"
    if code not in ((0, 1, 2, 4, 5) if line[0] == "pytest" else (0, 1, 2)):
        return f"exit code {code}"
    if line[0] != "pytest" and code == 2 and not said.strip():
        return "nothing said"
    return None


def seen(folder: Path) -> set[str]:
    """What lies beside a folder and in the one that tests are run from."""
    return {str(path) for place in (folder.parent, ROOT, Path.home()) for path in place.iterdir()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    given = parser.parse_args()
    place = Path(tempfile.mkdtemp()) / "here"
    wrong = 0
    for number, arguments in zip(range(given.count), command_lines(given.seed), strict=False):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        os.chdir(place)
        prepare(place)
        before = seen(place)
        done = run(arguments)
        found = faults(arguments, *done)
        if beside := seen(place) - before:
            found = f"writes {beside}"
        if found:
            wrong += 1
            print(f"{number}: {found}: {[text[:60] for text in arguments]}\n{done[1][-1500:]}")
        if number % 50 == 49:
            print(f"{number + 1} command lines, {wrong} faults", flush=True)
