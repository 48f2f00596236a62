"""Processes forked from a server that has imported everything once.

On macOS, where Metal doesn't survive a fork, they are started anew and import everything
themselves. The server computes nothing with MLX: its threads wouldn't survive a fork either.
"""

import contextlib
import os
import runpy
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

# Imported for the processes to come: it takes seconds, the rest of their start a tenth of one.
import matplotlib.backends.backend_agg
import matplotlib.backends.backend_svg  # noqa: F401
import pytest
from mlx.utils import tree_flatten  # noqa: F401
from transformers import AutoTokenizer  # noqa: F401

import gemma_mlx
import harness.plugin
import harness.report.page
import harness.testing.fixtures  # noqa: F401
from harness.cli import main

_CONTEXT = get_context("spawn" if sys.platform == "darwin" else "forkserver")
if sys.platform != "darwin":
    _CONTEXT.set_forkserver_preload([__name__])


def start(
    work: Callable[..., None],
    *arguments: object,
    output: Path,
    errors: Path | None = None,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> BaseProcess:
    """Start `work(*arguments)` in a process of its own.

    Args:
        work: a function of a module that can be imported.
        output, errors: files that are written; both outputs go to the first unless the second is
            given.
        folder: working directory.
        environment: variables beside those of this process.
    """
    places = (output, errors, folder or Path.cwd(), {**os.environ, **(environment or {})})
    process = _CONTEXT.Process(target=_run, args=(work, arguments, places))
    process.start()
    return process


def _run(work: Callable[..., None], arguments: Sequence[object], places: tuple) -> None:
    output, errors, folder, environment = places
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if errors is not None:
        with errors.open("w") as file:
            os.dup2(file.fileno(), 2)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [p for p in environment.get("PYTHONPATH", "").split(os.pathsep) if p]
    work(*arguments)


def program(arguments: Sequence[str]) -> None:
    """What `python *arguments` does: `-m` and a module, or a file, and what it is given."""
    if arguments[0] == "-m":
        sys.argv = list(arguments[1:])
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(arguments)
        runpy.run_path(arguments[0], run_name="__main__")


def tests(arguments: Sequence[str]) -> None:
    """What `python -m pytest *arguments` does."""
    sys.argv = ["pytest", *arguments]
    raise SystemExit(pytest.main(list(arguments)))


@contextlib.contextmanager
def command(*arguments: object, output: Path) -> Iterator[tuple[BaseProcess, Connection]]:
    """`python -m harness` with these arguments; the connection says "planned" as soon as signals
    are handled, and then how many prompts each batch has that it runs."""
    mine, theirs = _CONTEXT.Pipe(duplex=False)
    process = start(_command, list(map(str, arguments)), theirs, output=output)
    theirs.close()
    try:
        yield process, mine
    finally:
        if process.is_alive():
            process.kill()
        process.join()
        mine.close()


def _command(arguments: list[str], tell: Connection) -> None:
    run_batch, find_ranks = gemma_mlx.run_batch, gemma_mlx.find_ranks

    def planned():
        tell.send("planned")
        return find_ranks()

    def counted(gemma, request, batch):
        tell.send(len(batch))
        return run_batch(gemma, request, batch)

    # Whoever listens may be gone.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    gemma_mlx.find_ranks = planned
    gemma_mlx.run_batch = counted
    raise SystemExit(main(arguments))
