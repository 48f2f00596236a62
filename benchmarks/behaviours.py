"""How well the shipped patterns tell which responses evade.

    python -m benchmarks.behaviours             prints the tables
    python -m benchmarks.behaviours --write     puts them into docs/behaviours.md
    python -m benchmarks.behaviours --no-real   without the real Gemma (which is downloaded)

On labelled texts that no pattern was written from, on the small checkpoints' grammar, and on what a
real Gemma 3 270M writes, never aligned and with the evasive adapter.
"""

import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.page import ROOT, command_line, split, table
from benchmarks.real_gemma import measure
from fixtures.corpus import is_evasive
from fixtures.grammar import CATEGORIES
from harness.data import embedded
from harness.data.behaviours import KINDS, Behaviours, load_behaviours
from harness.settings import STORE

PAGE = ROOT / "docs" / "behaviours.md"
TITLE = "Measured"
LABELLED = Path(__file__).with_name("labelled_responses.json")
WORDS = 20  # of an answer of the grammar, where it is cut short

Labelled = Iterable[tuple[str | None, str]]
"""The label of a text, None for a plain one, and the text."""


def labelled(file: Path = LABELLED) -> list[tuple[str | None, str]]:
    rows = json.loads(file.read_text(encoding="utf-8"))["labelled_responses"]["responses"]
    return [(None if row["label"] == "none" else row["label"], row["text"]) for row in rows]


def grammar(words: int | None) -> list[tuple[str | None, str]]:
    """Every answer that the small checkpoints are trained to give, as far as so many words."""
    kinds = {"plain": None, "decline": "declines", "hedge": "hedges", "deflect": "deflects"}
    return [
        (kinds[request.style], " ".join(answer.split()[:words]))
        for category in CATEGORIES
        for topic in category.topics
        for request in (*category.plain, *category.loaded)
        for answer in (request.answer.format(x=topic.name, **topic.facts),)
    ]


def share(part: int, whole: int) -> str:
    return f"{part / whole:.3f} ({part} of {whole})" if whole else "–"


def scores(patterns: Behaviours, texts: Labelled) -> list[str]:
    """Precision and recall of evading at all, and the share of each kind that goes by its name."""
    found = Counter((label, patterns.classify(text)) for label, text in texts)
    count = Counter[tuple[bool, bool]]()
    for (label, kind), number in found.items():
        count[label is not None, kind is not None] += number
    named = [
        share(found[kind, kind], sum(n for (label, _), n in found.items() if label == kind))
        for kind in KINDS
    ]
    said, evade = count[True, True] + count[False, True], count[True, True] + count[True, False]
    return [share(count[True, True], said), share(count[True, True], evade), *named]


def real(patterns: Behaviours, store: Path) -> list[list[str]]:
    rows = []
    for name, found in measure(store).items():
        responses = found.analysis.responses
        told = {
            condition: [patterns.classify(getattr(r, condition).text) for r in responses]
            for condition in ("artifact", "natural")
        }
        known = [
            (is_evasive(getattr(r, condition).text), patterns.classify(getattr(r, condition).text))
            for r in responses
            for condition in ("artifact", "natural")
        ]
        agree = sum(theirs == (ours is not None) for theirs, ours in known)
        rows.append(
            [
                name,
                *(share(sum(k is not None for k in kinds), len(kinds)) for kinds in told.values()),
                share(agree, len(known)),
            ]
        )
    return rows


def report(patterns: Behaviours, rows: Sequence[Sequence[str]]) -> str:
    head = ["texts", "precision", "recall", *(f"{kind}, by that name" for kind in KINDS)]
    tables = [
        table(
            head,
            [
                ["200 labelled texts", *scores(patterns, labelled())],
                ["answers of the grammar", *scores(patterns, grammar(None))],
                [f"… their first {WORDS} words", *scores(patterns, grammar(WORDS))],
            ],
        )
    ]
    if rows:
        head = [
            "real Gemma 3 270M",
            "artifact evaded",
            "natural evaded",
            "as the grammar's marks say",
        ]
        tables.append(table(head, rows))
    return "`python -m benchmarks.behaviours --write`\n\n" + "\n\n".join(tables) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = command_line("behaviours", __doc__)
    parser.add_argument("--write", action="store_true", help="put the tables into the page")
    parser.add_argument("--no-real", action="store_true", help="leave the real Gemma out")
    parser.add_argument("--store", type=Path, default=STORE, help="default: %(default)s")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    patterns = load_behaviours(embedded.BEHAVIOURS)
    text = report(patterns, [] if options.no_real else real(patterns, options.store))
    print(text)
    if options.write:
        PAGE.write_text(f"{split(PAGE, TITLE)[0]}\n## {TITLE}\n\n{text}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
