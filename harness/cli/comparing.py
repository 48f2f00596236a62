"""`compare`: saved runs side by side."""

import argparse
import json
import sys

from gemma_mlx.system.files import write_whole
from gemma_mlx.system.terminal import printable
from harness import options
from harness.analysis.comparison import SavedRun, VersionComparison, compare_versions
from harness.analysis.gate import gate
from harness.report import depth, plots, sentences, tables
from harness.results.baseline import find_baseline, load_baseline
from harness.results.schema import plain
from harness.settings import BASELINES, Criteria


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "compare",
        help="compare saved runs",
        description=(
            "Compare runs saved with pytest artifact_checks --artifact-save: every later one with "
            "the first, layer by layer where they have the same layers, and all of them over "
            "relative depth. Exit code 1 where a layer changed, its direction turned, that is "
            "inconclusive, or a later run lacks layers of the first."
        ),
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help=f"two runs or more: names (the latest), numbers or files in {BASELINES}/",
    )
    options.add_arguments(
        parser, [options.MARGIN, options.COSINE, options.PARTIAL, options.REPORT_FOLDER]
    )
    parser.set_defaults(run=_compare, parser=parser)


def _compare(parsed: argparse.Namespace) -> int:
    if len(parsed.runs) < 2:
        parsed.parser.error("give two runs or more")
    given = options.CommandLine(parsed)
    folder = options.report_folder(given)
    criteria = Criteria(
        margin=options.MARGIN.read(given),
        cosine=options.COSINE.read(given),
        partial=options.PARTIAL.read(given),
    )
    runs = [load_baseline(find_baseline(name)) for name in parsed.runs]
    first, *others = runs
    compared: list[VersionComparison] = []
    for other in others:
        if not _same_layers(first, other):
            names = f"{other.name}: other layers than {first.name}"
            print(f"{printable(names)}, compared over depth only")
            continue
        found = compare_versions(first, other, criteria)
        compared.append(found)
        for warning in found.warnings:
            said = f"{first.name} and {other.name}: {warning}"
            print(f"warning: {printable(said)}", file=sys.stderr)
        for line in tables.comparison_table(found):
            print(line)
        print(printable(sentences.comparison_headline(found)))
    activations = depth.common_pairs(runs)
    figures = {
        "comparison_depth": depth.depth_figure(runs),
        "comparison_likeness": depth.likeness_figure(runs, activations),
    }
    for name, figure in figures.items():
        for kind in ("png", "svg"):
            write_whole(folder / f"{name}.{kind}", plots.to_bytes(figure, kind))
    content = json.dumps([plain(found) for found in compared], indent=1, allow_nan=False)
    write_whole(folder / "comparison.json", f"{content}\n".encode())
    print(f"figures and comparison.json: {folder}/")
    return 0 if all(gate(found, criteria) == "passed" for found in compared) else 1


def _same_layers(a: SavedRun, b: SavedRun) -> bool:
    return a.layer_count == b.layer_count and set(b.analysis) <= set(a.analysis)
