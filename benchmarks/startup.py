"""What being installed costs a test run that asks for nothing of ours.

One trivial test, in a folder of its own, is run in turn with and without the plugin; time is the
processor's (user and system), memory the largest resident set. Printed are medians, and the median
of the differences within one round.
"""

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.measure import in_turn
from benchmarks.page import command_line, machine, table

_RUN = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
_VARIANTS = {"without": ("-p", "no:harness.plugin"), "with": ("-p", "harness.plugin")}


def measure(folder: Path, arguments: tuple[str, ...]) -> tuple[float, float]:
    """Processor seconds and MiB of one run in `folder`."""
    process = subprocess.Popen([*_RUN, *arguments], cwd=folder, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"pytest ended with exit code {process.returncode}")
    # macOS counts bytes, Linux KiB.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return used.ru_utime + used.ru_stime, used.ru_maxrss / unit


def main() -> None:
    parser = command_line("startup", __doc__)
    parser.add_argument("--rounds", type=int, default=15, help="default: %(default)s")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_nothing.py").write_text("def test_nothing():\n    pass\n")
        calls = {name: partial(measure, folder, given) for name, given in _VARIANTS.items()}
        in_turn(calls, 1)  # to warm up
        found = in_turn(calls, rounds)
    rows = [
        (name, f"{median(s for s, _ in runs):.3f}", f"{median(size for _, size in runs):.1f}")
        for name, runs in found.items()
    ]
    pairs = list(zip(found["with"], found["without"], strict=True))
    more = [[a[i] - b[i] for a, b in pairs] for i in (0, 1)]
    rows.append(("difference", f"{median(more[0]):+.3f}", f"{median(more[1]):+.1f}"))
    print(f"{machine('pytest')}, {rounds} rounds")
    print(table(("plugin", "processor seconds", "MiB"), rows))


if __name__ == "__main__":
    main()
