"""Collect as one of several ranks: `together.py MODEL STORE CHANGES`; prints how many batches this
rank ran. The changes, as JSON, are those of each rank to the settings; `die_after` N batches."""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import gemma_mlx
from tests.harness.test_collect import SETTINGS, gather


def main(model: str, store: str, changes: str) -> None:
    ranks = gemma_mlx.find_ranks()
    change = json.loads(changes)[ranks.rank]
    last = change.pop("die_after", None)
    run_batch, count = gemma_mlx.run_batch, 0

    def counted(*arguments):
        nonlocal count
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        return run_batch(*arguments)

    gemma_mlx.run_batch = counted
    settings = replace(SETTINGS, **change)
    gather(gemma_mlx.Checkpoint(Path(model)), Path(store), settings, ranks=ranks)
    print(count)


if __name__ == "__main__":
    main(*sys.argv[1:])
