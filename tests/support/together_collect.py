"""Collect as one of several ranks: `together.py MODEL STORE CHANGES`; prints how many batches this
rank ran of a model of `gemma_mlx`. The changes, as JSON, are those of each rank to the settings;
beside these it may `die_after` N batches, or say that it chose `other_tokens`."""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import gemma_mlx
from harness.backends.choice import find_checkpoint
from tests.support.collecting import SETTINGS, gather


def main(model: str, store: str, changes: str) -> None:
    ranks = gemma_mlx.find_ranks()
    change = json.loads(changes)[ranks.rank]
    last, other_tokens = change.pop("die_after", None), change.pop("other_tokens", False)
    run_batch, count = gemma_mlx.run_batch, 0

    def counted(*arguments):
        nonlocal count
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        found = run_batch(*arguments)
        return [replace(g, token_ids=[7]) for g in found] if other_tokens else found

    gemma_mlx.run_batch = counted
    settings = replace(SETTINGS, **change)
    gather(find_checkpoint(model), Path(store), settings, ranks=ranks)
    print(count)


if __name__ == "__main__":
    main(*sys.argv[1:])
