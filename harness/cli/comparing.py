"""`compare` and `history`: saved runs side by side, and over time."""

import argparse
import json
import sys
from dataclasses import replace
from typing import Any

from gemma_mlx.system.files import write_whole
from gemma_mlx.system.terminal import printable
from harness import options
from harness.analysis.comparison import (
    BaselineError,
    VersionComparison,
    compare_versions,
    differences,
    notes,
    of_one_kind,
)
from harness.analysis.gate import gate
from harness.analysis.history import OverTime, versions_of
from harness.report import depth, history, plots, sentences, side_by_side, tables
from harness.report.side_by_side import Comparisons, summarise
from harness.results.baseline import find_baseline, list_baselines, load_baseline, readable
from harness.results.schema import plain, schema_of
from harness.settings import BASELINES, Criteria

FILE_NAME = "comparison.json"


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the file that `compare` writes."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": FILE_NAME,
        **schema_of(Comparisons),
    }


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "compare",
        help="compare saved runs",
        description=(
            "Compare runs saved with pytest artifact_checks --artifact-save: every later one with "
            "the first, layer by layer where they have the same layers, and all of them over "
            "relative depth. Models of different kind, whatever their layers, widths and "
            "tokenizers, are shown side by side: claims, behaviour, and how alike their layers "
            "are. All are judged by the thresholds that the last one was saved with. Exit code 1 "
            "where a layer changed, its direction turned, that is inconclusive, or a later run "
            "lacks layers of the first."
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
            "with the one before, all by the thresholds that the last one was saved with: table, "
            "figure and page. Nothing is judged: the exit code is 0."
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
    margin, cosine = options.MARGIN.read(given), options.COSINE.read(given)
    left_out: list[str] = []
    files = [find_baseline(name) for name in parsed.runs] or list_baselines()
    # Read once more: of so many runs, two at a time are in memory.
    saved_with = next((run.criteria for run in readable(reversed(files), str)), Criteria())
    criteria = replace(saved_with, margin=margin, cosine=cosine, partial=True)
    runs = map(load_baseline, files) if parsed.runs else readable(files, left_out.append)
    versions = versions_of(runs, criteria)
    shown = OverTime(versions, criteria, left_out)
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
    for note in shown.notes:
        print(printable(note))
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
    margin, cosine = options.MARGIN.read(given), options.COSINE.read(given)
    partial = options.PARTIAL.read(given)
    runs = [load_baseline(find_baseline(name)) for name in parsed.runs]
    first, *others = runs
    criteria = replace(runs[-1].criteria, margin=margin, cosine=cosine, partial=partial)
    compared: list[VersionComparison] = []
    for other in others:
        if not of_one_kind(first, other):
            names = f"{other.name}: other layers than {first.name}"
            print(f"{printable(names)}, compared over depth only")
            for what in differences(first, other.analysis.provenance, template=False):
                said = f"{first.name} and {other.name}: different {what}"
                print(f"warning: {printable(said)}", file=sys.stderr)
            continue
        versions = compare_versions(first, other, criteria)
        compared.append(versions)
        for warning in versions.warnings:
            said = f"{first.name} and {other.name}: {warning}"
            print(f"warning: {printable(said)}", file=sys.stderr)
        for line in tables.comparison_table(versions):
            print(line)
        print(printable(sentences.comparison_headline(versions)))
    activations = depth.common_pairs(runs)
    found = Comparisons(tuple(compared), summarise(runs, activations), notes(runs, criteria))
    if len(compared) < len(others):
        for line in [*side_by_side.table(runs, found.runs), *found.notes]:
            print(printable(line))
    figures = {
        "comparison_depth": depth.depth_figure(runs),
        "comparison_likeness": depth.likeness_figure(runs, activations),
    }
    for name, figure in figures.items():
        for kind in ("png", "svg"):
            write_whole(folder / f"{name}.{kind}", plots.to_bytes(figure, kind))
    content = json.dumps(plain(found), indent=1, allow_nan=False)
    write_whole(folder / FILE_NAME, f"{content}\n".encode())
    print(f"figures and {FILE_NAME}: {folder}/")
    return 0 if all(gate(each, criteria) == "passed" for each in compared) else 1
