"""How time and memory are measured."""

import resource
import sys
from collections.abc import Callable, Mapping
from typing import TypeVar

Found = TypeVar("Found")


def in_turn(calls: Mapping[str, Callable[[], Found]], rounds: int) -> dict[str, list[Found]]:
    """What each call returns in each round.

    Each goes first in some rounds, so that what else the machine does falls on all of them.
    """
    found: dict[str, list[Found]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(calls[name]())
            print(f"  {name}: {found[name][-1]}", file=sys.stderr, flush=True)
    return found


def peak() -> float:
    """The process's largest memory so far, MiB."""
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**20
