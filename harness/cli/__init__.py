"""Command line: the steps of a run, without pytest."""

import argparse
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import pytest

from gemma_mlx.terminal import printable
from harness.cli import analyzing, collecting, comparing
from harness.plan import EXPECTED_ERRORS
from harness.results import ResultsError

BAD_INPUT, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m harness",
        description="Statistics of alignment artifacts, without pytest.",
        epilog="Exit codes: 0 done, 1 a comparison failed, 2 bad input or usage, 130 interrupted.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for step in (collecting, analyzing, comparing):
        step.add(commands)
    options = parser.parse_args(arguments)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return options.run(options)
    except (ResultsError, pytest.UsageError, *EXPECTED_ERRORS) as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(
            "interrupted; what was finished is kept, and the same command goes on from there",
            file=sys.stderr,
        )
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
