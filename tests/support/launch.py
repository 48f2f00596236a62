"""Start a program as several ranks on loopback, as `mlx.launch` does."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def launch(
    count: int, arguments: Sequence[str | Path], folder: Path, *, own_folders: bool = False
) -> list[subprocess.Popen[str]]:
    """`python *arguments` as that many ranks in `folder`, or each in a folder of its own there."""
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(count)]))
    ranks = []
    for rank in range(count):
        place = folder / f"rank_{rank}" if own_folders else folder
        place.mkdir(exist_ok=True)
        environment = {
            **os.environ,
            "MLX_RANK": str(rank),
            "MLX_HOSTFILE": str(hosts),
            "PYTHONPATH": str(ROOT),
        }
        ranks.append(
            subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                cwd=place,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return ranks


def finish(ranks: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each."""
    try:
        ended = [rank.communicate(timeout=120) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [(rank.returncode, *texts) for rank, texts in zip(ranks, ended, strict=True)]


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
