"""`pairs`: what a set of pairs can show, before a model runs."""

import argparse
from pathlib import Path

from gemma_mlx.system.files import write_json, write_whole
from gemma_mlx.system.terminal import printable
from harness import options
from harness.analysis.screening import screen
from harness.data.pairs import load_pairs
from harness.report import pairs_page
from harness.results.schema import plain

PAGE, FILE = "pairs.html", "pairs.json"


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "pairs",
        help="what is wrong or weak about prompt pairs, before a model runs",
        description=(
            "Look at prompt pairs as the statistics will: how many units they are, what the words "
            "and lengths of the prompts give away, which categories are too small, and the "
            "smallest effects that so many can show. Writes pairs.html and pairs.json. Exit code 1 "
            "where something is wrong: the checks would refuse the pairs, or could never decide a "
            "claim."
        ),
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="prompt pairs file")
    parser.add_argument(
        "--layers",
        type=int,
        default=26,
        metavar="N",
        help="layers and sites to plan for, as if independent (default: %(default)s)",
    )
    options.add_arguments(
        parser,
        [
            options.D_THRESHOLD, options.ALPHA, options.REPLICATES, options.STATS_SEED,
            options.REPORT_FOLDER,
        ],
    )  # fmt: skip
    parser.set_defaults(run=_pairs, parser=parser)


def _pairs(parsed: argparse.Namespace) -> int:
    if parsed.layers < 1:
        parsed.parser.error("--layers must be 1 or more")
    given = options.CommandLine(parsed)
    found = screen(
        load_pairs(parsed.file),
        layers=parsed.layers,
        criteria=options.criteria(given),
        settings=options.analysis_settings(given),
    )
    folder = options.report_folder(given)
    for line in pairs_page.lines(found):
        print(printable(line))
    write_json(folder / FILE, plain(found))
    write_whole(folder / PAGE, pairs_page.page_html(found).encode())
    print(f"{PAGE} and {FILE}: {folder}/")
    return 1 if any(problem.weight == "wrong" for problem in found.problems) else 0
