"""`compare`: saved runs side by side."""

import argparse
import json
import sys
from pathlib import Path

from gemma_mlx.system.files import write_whole
from gemma_mlx.system.terminal import printable
from harness.analysis.comparison import Version, VersionComparison, compare_versions
from harness.report import depth as compare_models
from harness.report import page as report
from harness.report import plots, tables
from harness.results.baseline import DIRECTORY, find_baseline, load_baseline
from harness.results.schema import plain


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "compare",
        help="compare saved runs",
        description=(
            "Compare runs saved with pytest artifact_checks --artifact-save: every later one with "
            "the first, layer by layer where they have the same layers, and all of them over "
            "relative depth. Exit code 1 where a layer changed or the comparison is inconclusive."
        ),
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help=f"two runs or more: names (the latest), numbers or files in {DIRECTORY}/",
    )
    parser.add_argument(
        "--margin",
        type=_positive,
        default=0.5,
        help="largest change of d that counts as none (default: 0.5)",
    )
    parser.add_argument(
        "--report",
        type=Path,
        default=Path("artifact_report"),
        metavar="DIR",
        help="where comparison.json and the figures go (default: artifact_report)",
    )
    parser.set_defaults(run=_compare, parser=parser)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, not {text}")
    return value


def _compare(options: argparse.Namespace) -> int:
    if len(options.runs) < 2:
        options.parser.error("give two runs or more")
    versions = [load_baseline(find_baseline(name)) for name in options.runs]
    first, *others = versions
    compared: list[VersionComparison] = []
    for other in others:
        if not _same_layers(first, other):
            names = f"{other.name}: other layers than {first.name}"
            print(f"{printable(names)}, compared over depth only")
            continue
        found = compare_versions(first, other, margin=options.margin)
        compared.append(found)
        for warning in found.warnings:
            said = f"{first.name} and {other.name}: {warning}"
            print(f"warning: {printable(said)}", file=sys.stderr)
        for line in tables.comparison_table(found):
            print(line)
        print(printable(report.comparison_headline(found)))
    activations = compare_models.common_pairs(versions)
    figures = {
        "comparison_depth": compare_models.depth_figure(versions),
        "comparison_likeness": compare_models.likeness_figure(versions, activations),
    }
    for name, figure in figures.items():
        for kind in ("png", "svg"):
            write_whole(options.report / f"{name}.{kind}", plots.to_bytes(figure, kind))
    content = json.dumps([plain(found) for found in compared], indent=1, allow_nan=False)
    write_whole(options.report / "comparison.json", f"{content}\n".encode())
    print(f"figures and comparison.json: {options.report}/")
    verdicts = {c.comparison.verdict for found in compared for c in found.layers.values()}
    return 0 if verdicts <= {"equivalent"} else 1


def _same_layers(a: Version, b: Version) -> bool:
    return a.layer_count == b.layer_count and set(b.activations.keys) <= set(a.activations.keys)
