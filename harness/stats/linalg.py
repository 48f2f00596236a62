"""Matrix products that do not wait for threads."""

from __future__ import annotations

import numpy as np

from harness.stats.arrays import FloatArray

TILE = 2**19  # multiplications up to which BLAS keeps to one thread
MIN_ROWS = 8


def product(a: FloatArray, b: FloatArray) -> FloatArray:
    """`a @ b` in tiles of rows too small for BLAS to spread over threads.

    The products here take microseconds. On a busy machine, or in a container that may use fewer
    cores than it sees, BLAS threads waiting for each other take up to fifty times as long.
    Products so large that tiles would be thin are left to BLAS.
    """
    rows = TILE // b.size
    if rows < MIN_ROWS:
        return a @ b
    whole = len(a) // rows * rows
    result = np.empty((len(a), b.shape[1]))
    tiles = a[:whole].reshape(-1, rows, a.shape[1])
    np.matmul(tiles, b, out=result[:whole].reshape(-1, rows, b.shape[1]))
    result[whole:] = a[whole:] @ b
    return result
