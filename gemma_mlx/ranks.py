"""The processes of one launch (`mlx.launch`, MPI): which one this is, and how they exchange data.

Every call that exchanges data has to be made by each rank, in the same order.
"""

import json
import os
import signal
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from gemma_mlx.errors import RanksError
from gemma_mlx.system.backend import mx
from gemma_mlx.system.interrupts import unhandled

# What mlx.launch (ring, JACCL, NCCL) and Open MPI give each process they start.
_LAUNCHED = ("MLX_RANK", "OMPI_COMM_WORLD_RANK")
# Bytes of each rank that travel at once, so that a large shard needs no buffer of many times its
# size.
_PIECE = 8 * 1024**2


@dataclass(frozen=True)
class Ranks:
    """This process among those of its launch; by default the only one.

    `gather` and `share` exchange data at once; `join` and `part` become part of MLX's lazy graph.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        group: what MLX calls them; None for the only one.
    """

    rank: int = 0
    size: int = 1
    group: mx.distributed.Group | None = None
    _calls: Iterator[int] = field(default_factory=count, repr=False, compare=False)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints for all of them."""
        return self.rank == 0

    def gather(self, content: bytes) -> list[bytes]:
        """The `content` of every rank, in the order of their numbers.

        Raises:
            RanksError: another rank is gone.
        """
        if self.size == 1:
            return [content]
        # MLX's ring may answer for a lost rank with whatever lies in memory, an earlier answer too.
        stamp = [next(self._calls), self.rank, len(content), zlib.crc32(content)]
        stamps = self._all_gather(np.array(stamp, np.int64))
        if stamps[:, :2].tolist() != [[stamp[0], rank] for rank in range(self.size)]:
            raise self._lost("no answer")
        longest = int(stamps[:, 2].max())
        found = [bytearray() for _ in range(self.size)]
        for start in range(0, longest, _PIECE):
            sent = np.zeros(min(_PIECE, longest - start), np.uint8)
            mine = np.frombuffer(content[start : start + _PIECE], np.uint8)
            sent[: len(mine)] = mine
            for part, length, piece in zip(
                found, stamps[:, 2], self._all_gather(sent), strict=True
            ):
                part += piece[: max(0, length - start)].tobytes()
        if [zlib.crc32(part) for part in found] != stamps[:, 3].tolist():
            raise self._lost("a damaged answer")
        return [bytes(part) for part in found]

    def share(self, value: Any) -> list[Any]:
        """`gather` for values that JSON can hold."""
        return [json.loads(content) for content in self.gather(json.dumps(value).encode())]

    def join(self, part: mx.array, axis: int) -> mx.array:
        """The whole array, of which each rank holds a part along `axis`."""
        found = mx.distributed.all_gather(part.swapaxes(0, axis), group=self.group)
        return found.swapaxes(0, axis)

    def part(self, whole: mx.array, axis: int) -> mx.array:
        """This rank's part of a whole array along `axis`; inverse of `join`."""
        return mx.split(whole, self.size, axis=axis)[self.rank]

    def _all_gather(self, array: np.ndarray) -> np.ndarray:
        """The arrays (length,) of all ranks, as (ranks, length)."""
        try:
            with unhandled():
                found = np.array(mx.distributed.all_gather(mx.array(array), group=self.group))
        except RuntimeError as error:
            raise self._lost(str(error)) from error
        return found.reshape(self.size, -1)

    def _lost(self, why: str) -> RanksError:
        return RanksError(f"rank {self.rank}: another process of the launch is gone ({why})")


#: The only process: no launch.
ALONE = Ranks()


def find_ranks() -> Ranks:
    """This process's place in its launch, or `ALONE`; waits until all of the launch are there.

    In a launch, SIGTERM ends this process at once from then on.

    Raises:
        RanksError: the launch's settings can't be used, or the others can't be reached.
    """
    hostfile = Path(os.environ.get("MLX_HOSTFILE", ""))
    # mlx.launch -n 1 gives its one process an empty list of hosts.
    alone = hostfile.is_file() and not hostfile.read_text().strip()
    if alone or not any(name in os.environ for name in _LAUNCHED):
        return ALONE
    try:
        with unhandled():
            group = mx.distributed.init(strict=True)
    except (RuntimeError, ValueError) as error:
        raise RanksError(
            f"the launch can't be joined ({error}); start it with mlx.launch, or set MLX_RANK and "
            "MLX_HOSTFILE"
        ) from error
    if threading.current_thread() is threading.main_thread():
        # The launcher sends it when another rank is lost; while this one waits for an answer in
        # MLX, no Python handler would run.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return Ranks(group.rank(), group.size(), group)
