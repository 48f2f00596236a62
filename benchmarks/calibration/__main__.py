"""Measure the error rates of `harness.stats` by simulation.

    python -m benchmarks.calibration            a quarter of an hour; rewrites docs/calibration.md
    python -m benchmarks.calibration --quick    under three minutes; prints only

Every table carries Monte Carlo standard errors, and the required range where there is one. The
exit status is 1 if a required figure is missed (with `--quick`: by more than 4 standard errors).
"""

import sys
import time
from pathlib import Path

from benchmarks.calibration.page import OTHER_SEEDS, draw, draw_noise, report
from benchmarks.calibration.tables import TABLES
from benchmarks.page import command_line, split

TABLES_BY_NAME = {make.__name__.removesuffix("_table"): make for make in TABLES}


def main(arguments: list[str] | None = None) -> int:
    parser = command_line("calibration", __doc__)
    parser.add_argument("--quick", action="store_true", help="few runs; print and write nothing")
    parser.add_argument("--runs", type=int, help="runs per setting (default 1000, quick 50)")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="default: %(default)s")
    parser.add_argument(
        "--only", nargs="+", choices=TABLES_BY_NAME, help="these tables; print and write nothing"
    )
    options = parser.parse_args(arguments)
    runs = options.runs or (50 if options.quick else 1000)

    start = time.process_time()
    tables = []
    for make in map(TABLES_BY_NAME.__getitem__, options.only or TABLES_BY_NAME):
        tables.append(make(runs))
        print(tables[-1].markdown(), flush=True)
    seconds = time.process_time() - start
    print(f"{seconds:.0f} s of processor time")
    if not options.quick and not options.only:
        options.output.mkdir(parents=True, exist_ok=True)
        page = options.output / "calibration.md"
        text = report(tables, runs, seconds) + split(page, OTHER_SEEDS)[1]
        page.write_text(text, encoding="utf-8")
        draw(tables, options.output / "img" / "calibration.svg")
        draw_noise(options.output / "img" / "noise.svg")

    tolerance = 4 if options.quick else 0
    missed = [
        f"{name}: {figure}, required {figure.required}"
        for table in tables
        for name, figure in table.figures()
        if not figure.reached(tolerance) and not (figure.required and figure.required.explained)
    ]
    for line in missed:
        print(f"MISSED {line}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
