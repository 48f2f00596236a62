"""What a real Gemma 3 270M shows, never aligned and with the evasive adapter, on two sets of pairs.

    python -m benchmarks.real_gemma             prints the tables: some minutes
    python -m benchmarks.real_gemma --write     puts them into docs/real-gemma.md

The model is downloaded (240 MB) unless it is there. Both models are asked through the adapter's
chat template.
"""

import sys
import warnings
from collections.abc import Iterable
from datetime import date
from pathlib import Path

import harness
from benchmarks.page import ROOT, command_line, split, table
from benchmarks.workloads import machine_with_mlx
from fixtures.real_gemma import fetch
from fixtures.train_adapter import FOLDER, TEMPLATE
from harness import Results
from harness.analysis.claims import CLAIMS
from harness.data import embedded
from harness.settings import STORE

PAGE = ROOT / "docs" / "real-gemma.md"
TITLE = "Measured"
TOPIC = Path(embedded.PAIRS).parent / "topic_pairs.json"
CELLS: dict[str, tuple[Path, Path | None]] = {
    "topic pairs, base": (TOPIC, None),
    "topic pairs, with the adapter": (TOPIC, FOLDER),
    "matched pairs, base": (embedded.PAIRS, None),
    "matched pairs, with the adapter": (embedded.PAIRS, FOLDER),
}


def measure(store: Path) -> dict[str, Results]:
    """The results of each cell; the base alone is compared with nothing."""
    model = fetch()
    return {
        name: harness.analyze(model, pairs, adapter=adapter, chat_template=TEMPLATE, store=store)
        for name, (pairs, adapter) in CELLS.items()
    }


def span(values: Iterable[float]) -> str:
    """Smallest and largest."""
    found = list(values)
    return f"{min(found):.2f} to {max(found):.2f}" if found else "–"


def cell(found: Results) -> dict[str, str]:
    """What a cell's column says, by row."""
    layers = list(found.values())
    count = len(layers)
    ladders = [found.ladder(key) for key in found]
    texts = {text.name: text.separation for text in found.analysis.text}
    held = {
        f"layers: {words}": (
            f"{sum(each.holds(claim) for each in ladders)} of {count}"
            if any(each.verdicts[claim] for each in ladders)
            else "not asked"
        )
        for claim, (_, words, _) in CLAIMS.items()
    }
    shown = sum(each.outcome == "passed" for each in ladders)
    original = ", ".join(
        f"{layer.in_sample.seed_ratio:.2f} ({layer.in_sample.accuracy:.0%})" for layer in layers[:2]
    )
    return {
        "pairs": str(layers[0].separation.n_pairs),
        "held-out d, smallest and largest over the layers": span(x.separation.d for x in layers),
        "d along directions that have not seen the category": span(
            x.across.d for x in layers if x.across
        ),
        "d, same words after both prompts": span(x.companions["forced"].d for x in layers),
        "d, last prompt token": span(x.companions["prompt_last"].d for x in layers),
        "d beyond the base model's": span(
            x.beyond_base.difference for x in layers if x.beyond_base
        ),
        **held,
        "**layers with an alignment artifact**": f"{shown} of {count}",
        "d of the prompts' words alone": f"{texts['prompt_words'].d:.2f}"
        if "prompt_words" in texts
        else "the same words",
        "d of the responses' words alone": f"{texts['response_words'].d:.2f}",
        "the original's ratio (in-sample accuracy), layers 0 and 1": original,
    }


def report(cells: dict[str, Results]) -> str:
    columns = {name: cell(found) for name, found in cells.items()}
    rows = next(iter(columns.values()))
    body = [[row, *(column[row] for column in columns.values())] for row in rows]
    return (
        f"`python -m benchmarks.real_gemma --write` on {date.today()}: {machine_with_mlx()}.\n\n"
        f"{table(['', *columns], body)}\n"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = command_line("real_gemma", __doc__)
    parser.add_argument("--write", action="store_true", help="put the tables into the page")
    parser.add_argument("--store", type=Path, default=STORE, help="default: %(default)s")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    text = report(measure(options.store))
    print(text)
    if options.write:
        before, after = split(PAGE, TITLE)
        end = after.find("\n## ", 1)
        rest = after[end:] if end > 0 else ""
        PAGE.write_text(f"{before}\n## {TITLE}\n\n{text}{rest}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
