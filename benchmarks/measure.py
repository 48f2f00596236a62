"""How time and memory are measured."""

import resource
import sys
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)
Found = TypeVar("Found")


def in_turn(calls: Mapping[Name, Callable[[], Found]], rounds: int) -> dict[Name, list[Found]]:
    """What each call returns in each round.

    Each goes first in some rounds, so that what else the machine does falls on all of them.
    """
    found: dict[Name, list[Found]] = {name: [] for name in calls}
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
