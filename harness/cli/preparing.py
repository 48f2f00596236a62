"""`prepare`: prompt pairs to the runner's input, and other people's prompts to prompt pairs."""

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gemma_mlx.system.files import json_bytes, read_text, write_json, write_whole
from gemma_mlx.system.terminal import printable
from harness import options
from harness.data import npz_layout
from harness.data.importing import (
    LONGEST,
    Columns,
    Imported,
    ImportingError,
    import_pairs,
    summary,
)
from harness.data.pairs import load_pairs
from harness.data.presets import Preset, presets
from harness.data.tables import read_tables

RUNNER_INPUT = Path("prompts_for_gemma_runner.json")
# Lines on rows that the terminal shows; the file has all.
_MOST_SHOWN = 20
# Options of the import that stand for a field of `Columns`, by name.
_COLUMNS = (
    "natural", "artifact", "template", "prompt", "condition", "match", "id", "category", "cluster",
    "where", "longest",
)  # fmt: skip


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    prepare = commands.add_parser(
        "prepare",
        help="prompt pairs to input for python -m gemma_mlx; CSV, JSONL or Parquet to prompt pairs",
        description=(
            "Write every prompt of the pairs as a group of its own, "
            '{"natural_<category>_<id>": {"prompt_list": [prompt]}, …}, as python -m gemma_mlx '
            "--process-by-group takes them; collect doesn't need this step. With --from, make a "
            "prompt pairs file of other people's rows instead."
        ),
    )
    options.add_arguments(prepare, [options.PAIRS])
    prepare.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help=f"where to write the runner's input (default: {RUNNER_INPUT})",
    )
    rows = prepare.add_argument_group(
        "from rows",
        "With --from, --pairs FILE is the prompt pairs file to write. A row holds both prompts of "
        "a pair (--natural, --artifact, or --template), or one of them (--prompt, --condition, "
        "--match). Columns 'file' and 'folder' are the names of the rows' file and folder.",
    )
    rows.add_argument(
        "--from",
        dest="sources",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="files of rows: .csv, .tsv, .json, .jsonl, .ndjson, .parquet",
    )
    rows.add_argument(
        "--preset", choices=presets(), help="columns of a published set; other options go first"
    )
    rows.add_argument(
        "--natural", metavar="COL", help="column of the natural prompt, or value of --condition"
    )
    rows.add_argument(
        "--artifact", metavar="COL", help="column of the artifact prompt, or value of --condition"
    )
    rows.add_argument(
        "--template",
        nargs=2,
        action="append",
        metavar=("NATURAL", "ARTIFACT"),
        help="texts of both prompts with columns in braces, 'Argue that {stance}'; may be "
        "repeated: pairs of one row are one cluster then",
    )
    rows.add_argument("--prompt", metavar="COL", help="column of the prompt, one a row")
    rows.add_argument("--condition", metavar="COL", help="column that says natural or artifact")
    rows.add_argument("--match", metavar="COL", help="column that both prompts of a pair share")
    joined: dict[str, Any] = {"nargs": "+", "metavar": "COL"}
    rows.add_argument(
        "--id", help="columns of the pair's id (default: the row's number, or --match)", **joined
    )
    rows.add_argument(
        "--category", help="columns of the category (default: the file's name)", **joined
    )
    rows.add_argument(
        "--cluster",
        help="columns of what pairs share that aren't independent: a topic, a source",
        **joined,
    )
    rows.add_argument(
        "--where",
        action="append",
        metavar="COL=VALUE",
        help="take only rows with this value; may be repeated",
    )
    rows.add_argument(
        "--longest",
        type=int,
        metavar="WORDS",
        help=f"leave out pairs with a longer prompt (default: {LONGEST} words)",
    )
    rows.add_argument("--licence", metavar="TEXT", help="of the rows, for the pairs' metadata")
    prepare.set_defaults(run=_prepare)


def _prepare(parsed: argparse.Namespace) -> int:
    given = options.CommandLine(parsed)
    if parsed.sources:
        return _import(parsed, given)
    unused = [f"--{n}" for n in ("preset", *_COLUMNS, "licence") if getattr(parsed, n) is not None]
    if unused:
        raise ImportingError(f"{', '.join(unused)}: only with --from")
    pairs = load_pairs(options.PAIRS.read(given))
    prompts = {group: {npz_layout.SUBCATEGORY: [p]} for group, p in pairs.prompts().items()}
    output = parsed.output or RUNNER_INPUT
    write_json(output, prompts)
    print(f"{len(prompts)} prompts: {output}")
    return 0


def _import(parsed: argparse.Namespace, given: options.CommandLine) -> int:
    if parsed.output or not given.flags([options.PAIRS]):
        raise ImportingError(
            "--from writes a prompt pairs file: name it with --pairs, not --output"
        )
    target = options.PAIRS.read(given)
    preset = presets()[parsed.preset] if parsed.preset else None
    tables = read_tables(parsed.sources)
    imported = import_pairs(
        tables,
        _columns(parsed, preset.columns if preset else Columns()),
        source=str(target),
        about=_about(parsed, preset),
    )
    _write_new(target, imported)
    lines = summary(imported.notes)
    for line in lines[:_MOST_SHOWN]:
        rows = f"{line['count']} {'row' if line['count'] == 1 else 'rows'}"
        said = f"{line['fate']}: {rows} of {line['file']}, {line['reason']}: {line['rows']}"
        print(printable(said))
    if len(lines) > _MOST_SHOWN:
        print(f"and {len(lines) - _MOST_SHOWN} lines more, all under left_out in {target}")
    print(f"{imported.pairs} pairs: {target}")
    if preset:
        print(f"{preset.title}, {preset.licence}: {preset.link}\n{preset.does_not}")
        if preset.read_at != options.POSITIONS.default[0]:
            print(f"Read them with --positions {preset.read_at}.")
    return 0


def _columns(parsed: argparse.Namespace, columns: Columns) -> Columns:
    """The preset's columns, or none, with what was given in their place."""
    found: dict[str, Any] = {n: v for n in _COLUMNS if (v := getattr(parsed, n)) is not None}
    if "template" in found:
        found["templates"] = tuple(map(tuple, found.pop("template")))
    if "where" in found:
        pairs = [text.partition("=") for text in found["where"]]
        if not all(name and equals for name, equals, _ in pairs):
            raise ImportingError("--where takes COL=VALUE")
        found["where"] = {**columns.where, **{name: value for name, _, value in pairs}}
    for name in ("id", "category", "cluster"):
        if name in found:
            found[name] = tuple(found[name])
    return replace(columns, **found)


def _about(parsed: argparse.Namespace, preset: Preset | None) -> dict[str, Any]:
    """What the pairs file says of where its prompts are from."""
    licence = parsed.licence or (preset.licence if preset else "not stated")
    about: dict[str, Any] = {"description": "Made of rows by python -m harness prepare."}
    if preset:
        facts = asdict(preset)
        about["description"] = f"{preset.title}. {preset.measures}"
        about["preset"] = parsed.preset
        about |= {key: facts[key] for key in ("link", "does_not", "read_at")}
    return {**about, "licence": licence}


def _write_new(target: Path, imported: Imported) -> None:
    """Write the pairs file, unless there is another one, which somebody may have edited."""
    written = json_bytes(imported.content)
    if target.exists() and read_text(target, error=ImportingError).encode() != written:
        raise ImportingError(f"{target}: is there already, with other contents")
    write_whole(target, written)
