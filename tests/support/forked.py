"""Processes that collect, forked from a server which has imported everything once.

Nothing here computes with MLX before a fork: its threads wouldn't survive it.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

# Imported for the processes to come: it takes seconds, the rest of their start a tenth of one.
from transformers import AutoTokenizer  # noqa: F401

import gemma_mlx
from harness.cli import main

_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])


@contextlib.contextmanager
def started(*arguments: object, output: Path) -> Iterator[tuple[BaseProcess, Connection]]:
    """`python -m harness` with these arguments; the connection says "started" as soon as signals
    are handled, and then how many prompts each batch has that it runs."""
    mine, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_run, args=([*map(str, arguments)], output, theirs))
    process.start()
    theirs.close()
    try:
        yield process, mine
    finally:
        if process.is_alive():
            process.kill()
        process.join()
        mine.close()


def _run(arguments: list[str], output: Path, tell: Connection) -> None:
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    run_batch, find_ranks = gemma_mlx.run_batch, gemma_mlx.find_ranks

    def starting():
        tell.send("started")
        return find_ranks()

    def counted(gemma, request, batch):
        tell.send(len(batch))
        return run_batch(gemma, request, batch)

    # Whoever listens may be gone.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    gemma_mlx.find_ranks = starting
    gemma_mlx.run_batch = counted
    raise SystemExit(main(arguments))
