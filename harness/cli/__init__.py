"""Command line: the steps of a run, without pytest."""

import argparse
import re
import sys
from collections.abc import Sequence

from gemma_mlx.errors import UserError
from gemma_mlx.system.interrupts import EXIT_CODE, interruptible
from gemma_mlx.system.terminal import printable
from harness.cli import (
    analyzing,
    collecting,
    comparing,
    preparing,
    screening,
    storing,
    verifying,
)
from harness.settings import INTERRUPTED

BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m harness",
        description="Statistics of alignment artifacts, without pytest.",
        epilog=(
            "Exit codes: 0 done, 1 a comparison or verify failed, or pairs are wrong, 2 bad input "
            "or usage, 130 interrupted."
        ),
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for step in (preparing, screening, collecting, analyzing, comparing, storing, verifying):
        step.add(commands)
    arguments = sys.argv[1:] if arguments is None else arguments
    for argument in arguments:
        # Before Python 3.13 argparse makes an empty list of it.
        if re.fullmatch(r"--[\w-]+=--", argument):
            parser.error(f"argument {argument[:-3]}: -- is no value")
    options = parser.parse_args(arguments)
    try:
        with interruptible():
            return options.run(options)
    except UserError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return EXIT_CODE
