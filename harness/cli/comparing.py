"""`compare` and `history`: saved runs side by side, and over time."""

import argparse
import json
import sys

from gemma_mlx.system.files import write_whole
from gemma_mlx.system.terminal import printable
from harness import options
from harness.analysis.comparison import (
    BaselineError,
    VersionComparison,
    compare_versions,
    differences,
    of_one_kind,
)
from harness.analysis.gate import gate
from harness.analysis.history import OverTime, versions_of
from harness.report import depth, history, plots, sentences, tables
from harness.results.baseline import find_baseline, list_baselines, load_baseline, readable
from harness.results.schema import plain
from harness.settings import BASELINES, Criteria


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "compare",
        help="compare saved runs",
        description=(
            "Compare runs saved with pytest artifact_checks --artifact-save: every later one with "
            "the first, layer by layer where they have the same layers, and all of them over "
            "relative depth. Models of different kind, whatever their layers, widths and "
            "tokenizers, are shown side by side: claims, behaviour, and how alike their layers "
            "are. Exit code 1 where a layer changed, its direction turned, that is "
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

    over_time = commands.add_parser(
        "history",
        help="saved runs over time",
        description=(
            "d of every layer and the share of evaded prompts over the saved runs, each compared "
            "with the one before: table, figure and page. Nothing is judged: the exit code is 0."
        ),
    )
    over_time.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help=f"in this order (default: all in {BASELINES}/, by number)",
    )
    options.add_arguments(over_time, [options.MARGIN, options.COSINE, options.REPORT_FOLDER])
    over_time.set_defaults(run=_history)


def _history(parsed: argparse.Namespace) -> int:
    given = options.CommandLine(parsed)
    folder = options.report_folder(given)
    criteria = Criteria(
        margin=options.MARGIN.read(given), cosine=options.COSINE.read(given), partial=True
    )
    left_out: list[str] = []
    named = [find_baseline(name) for name in parsed.runs]
    runs = readable(list_baselines(), left_out.append) if not named else map(load_baseline, named)
    versions = versions_of(runs, criteria)
    shown = OverTime(versions, left_out)
    for reason in [f"left out: {each}" for each in left_out] + [text for _, text in shown.reasons]:
        print(f"warning: {printable(reason)}", file=sys.stderr)
    if not versions:
        raise BaselineError(
            f"no baselines in {BASELINES}/; make one with pytest artifact_checks "
            f"{options.SAVE.flag} {options.SAVE.metavar}"
        )
    for line in history.history_table(versions):
        print(printable(line))
    print(history.KEY)
    figure = history.history_figure(versions)
    for kind in ("png", "svg"):
        write_whole(folder / f"history.{kind}", plots.to_bytes(figure, kind))
    write_whole(folder / "history.html", history.history_page(shown).encode())
    print(f"history.html and figure: {folder}/")
    return 0


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
        if not of_one_kind(first, other):
            names = f"{other.name}: other layers than {first.name}"
            print(f"{printable(names)}, compared over depth only")
            for what in differences(first, other.analysis.provenance, template=False):
                said = f"{first.name} and {other.name}: different {what}"
                print(f"warning: {printable(said)}", file=sys.stderr)
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
    if len(compared) < len(others):
        for line in depth.side_by_side(runs, activations):
            print(printable(line))
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
