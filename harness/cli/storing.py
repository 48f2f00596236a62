"""`store`: what is kept of earlier collections."""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gemma_mlx.system.terminal import printable
from harness import options
from harness.analysis.words import file_size
from harness.data.kept import KeptRun, delete, kept_runs
from harness.data.store import StoreError
from harness.report.tables import aligned


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "store",
        help="what is kept of earlier collections",
        description="List the activations that are kept, or clear some of them away.",
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser(
        "list",
        help="runs with model, pairs, size and date",
        description="List the runs of a store, oldest first.",
    )
    options.add_arguments(listing, [options.STORE_FOLDER])
    listing.set_defaults(run=_list)
    prune = actions.add_parser(
        "prune",
        help="delete runs",
        description=(
            "Delete runs, named as list names them, or chosen by age. They can be collected again. "
            "What a process is using stays, and so does what isn't the store's."
        ),
    )
    prune.add_argument("names", nargs="*", metavar="RUN", help="how its name begins")
    chosen = prune.add_mutually_exclusive_group()
    chosen.add_argument(
        "--days", type=_days, metavar="N", help="all that were written more than N days ago"
    )
    chosen.add_argument("--all", action="store_true", help="all of them")
    options.add_arguments(prune, [options.STORE_FOLDER])
    prune.set_defaults(run=_prune, parser=prune)


def _days(text: str) -> float:
    try:
        days = float(text)
        # Further back than time is counted from.
        datetime.now(UTC) - timedelta(days=days)
    except (ValueError, OverflowError):
        days = -1
    if not days >= 0:
        raise argparse.ArgumentTypeError(f"must be a number of days, not {text!r}")
    return days


def _folder(parsed: argparse.Namespace) -> Path:
    return options.STORE_FOLDER.read(options.CommandLine(parsed))


def _list(parsed: argparse.Namespace) -> int:
    folder = _folder(parsed)
    runs = kept_runs(folder)
    for line in _table(runs):
        print(line)
    print(f"{len(runs)} runs in {printable(folder)}/, {file_size(sum(run.size for run in runs))}")
    return 0


def _prune(parsed: argparse.Namespace) -> int:
    if not (parsed.names or parsed.all or parsed.days is not None):
        parsed.parser.error("say which: RUN as list names them, --days N, or --all")
    runs = kept_runs(_folder(parsed))
    cleared = [run for run in _chosen(parsed, runs) if _deleted(run)]
    for line in _table(cleared):
        print(line)
    print(f"{len(cleared)} runs deleted, {file_size(sum(run.size for run in cleared))}")
    return 0


def _chosen(parsed: argparse.Namespace, runs: Sequence[KeptRun]) -> list[KeptRun]:
    if parsed.names and (parsed.all or parsed.days is not None):
        parsed.parser.error("RUN goes with neither --days nor --all")
    if parsed.all:
        return list(runs)
    if parsed.days is not None:
        end = datetime.now(UTC) - timedelta(days=parsed.days)
        return [run for run in runs if run.date < end]
    found: dict[str, KeptRun] = {}
    for name in parsed.names:
        meant = [run for run in runs if name and run.name.startswith(name)]
        if len(meant) != 1:
            raise StoreError(f"{name!r}: {len(meant)} runs are called so; list names all of them")
        found[meant[0].name] = meant[0]
    return list(found.values())


def _deleted(run: KeptRun) -> bool:
    done = delete(run)
    if not done:
        print(f"warning: {run.name} stays: a process is using it", file=sys.stderr)
    return done


def _table(runs: Sequence[KeptRun]) -> list[str]:
    if not runs:
        return []
    header = ("run", "model", "pairs", "positions", "sites", "layers", "size", "date", "")
    return aligned([header, *map(_row, runs)], left={0, 1, 3, 4, 7, 8})


def _row(run: KeptRun) -> tuple[str, ...]:
    known = run.settings
    model = run.model or str(known.get("model", "–"))[:8]
    pairs = Path(run.pairs).name
    count = str(len(known.get("prompts", ())) // 2)
    layers = known.get("layers", "–")
    return (
        run.name[:12],
        printable(model)[-40:],
        printable(f"{count} of {pairs}" if pairs else count),
        printable(known.get("positions", "–")),
        printable(" ".join(map(str, known.get("sites", ["–"])))),
        "–" if layers == "–" else str(len(layers)) if layers else "all",
        file_size(run.size),
        f"{run.date:%Y-%m-%d %H:%M}",
        "" if run.state == "whole" else printable(run.state),
    )
