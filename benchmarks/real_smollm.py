"""What a real SmolLM2-135M-Instruct shows, a chat model that others aligned, on our sets of pairs.

    python -m benchmarks.real_smollm                 prints the table: some minutes
    python -m benchmarks.real_smollm --write         puts it into docs/real-smollm.md

The model is downloaded (93 MB) unless it is there, and asked through its own chat template.
"""

import sys
import warnings
from pathlib import Path

import harness
from benchmarks.page import ROOT, command_line, write
from benchmarks.real_gemma import TITLE, TOPIC, report
from fixtures.real_smollm import fetch
from harness.data import embedded
from harness.settings import STORE

PAGE = ROOT / "docs" / "real-smollm.md"
CELLS = {"topic pairs": TOPIC, "matched pairs": embedded.PAIRS}


def main(arguments: list[str] | None = None) -> int:
    parser = command_line("real_smollm", __doc__)
    parser.add_argument("--write", action="store_true", help="put the table into the page")
    parser.add_argument("--store", type=Path, default=STORE, help="default: %(default)s")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    model = fetch()
    found = {
        name: harness.analyze(model, pairs, store=options.store) for name, pairs in CELLS.items()
    }
    text = report(found, "real_smollm --write")
    print(text)
    if options.write:
        write(PAGE, TITLE, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
