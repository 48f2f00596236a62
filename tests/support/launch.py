"""Start a program as several ranks on loopback, as `mlx.launch` does."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.support import forked

ROOT = Path(__file__).resolve().parents[2]


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@dataclass(frozen=True)
class Rank:
    """A process of a launch, with the files that its outputs go to."""

    process: BaseProcess
    output: Path
    errors: Path

    def wait(self, seconds: float) -> int | None:
        """Its exit code, or None if it still runs then."""
        self.process.join(seconds)
        return self.process.exitcode


def launch(
    count: int, arguments: Sequence[str | Path], folder: Path, *, own_folders: bool = False
) -> list[Rank]:
    """`python *arguments` as that many ranks in `folder`, or each in a folder of its own there."""
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(count)]))
    ranks = []
    for rank in range(count):
        place = folder / f"rank_{rank}" if own_folders else folder
        place.mkdir(exist_ok=True)
        output, errors = folder / f"output_{rank}", folder / f"errors_{rank}"
        process = forked.start(
            forked.program,
            list(map(str, arguments)),
            output=output,
            errors=errors,
            folder=place,
            environment={"MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)},
        )
        ranks.append(Rank(process, output, errors))
    return ranks


def finish(ranks: Sequence[Rank]) -> list[tuple[int | None, str, str]]:
    """Exit code, output and errors of each; whoever runs for two minutes is killed."""
    codes = [rank.wait(120) for rank in ranks]
    for rank in ranks:
        rank.process.kill()
        rank.process.join()
    return [
        (code, rank.output.read_text(), rank.errors.read_text())
        for code, rank in zip(codes, ranks, strict=True)
    ]


def launcher(
    arguments: Sequence[str | Path], folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """`mlx.launch *arguments`, which spins where its input has ended: it gets one that hasn't."""
    program = Path(sys.executable).with_name("mlx.launch")
    how = ["-p", str(free_ports(1)[0]), "--env", f"PYTHONPATH={ROOT}"]
    read, write = os.pipe()
    try:
        return subprocess.run(
            [program, *how, *arguments],
            cwd=folder,
            stdin=read,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    finally:
        os.close(read)
        os.close(write)
