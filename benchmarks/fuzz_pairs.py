"""Look for prompt pairs files that `pairs_of` neither takes nor refuses as it should.

    .venv/bin/pip install atheris
    .venv/bin/python -m benchmarks.fuzz_pairs                          half a million inputs
    .venv/bin/python -m benchmarks.fuzz_pairs -runs=50000 -seed=1 DIR  options of libFuzzer

Guided by coverage, with atheris, which is no dependency of this repository. It stops at the first
finding, prints it and keeps the input as crash-<sha1>.
"""

import json
import sys
import tempfile
from pathlib import Path, PurePosixPath, PureWindowsPath

import atheris

with atheris.instrument_imports(include=["harness.data.pairs", "json"]):
    from gemma_mlx.system.files import parse_json
    from harness.data.pairs import PairsError, pairs_of

_PAIR = {"id": "q1", "natural": "n", "artifact": "a"}
_START = {
    "alignment_artifact_prompt_pairs": {
        "metadata": {"version": "1.0"},
        "categories": {
            "one": {"description": "d", "pairs": [_PAIR, {**_PAIR, "id": "q2"}]},
            "two": {"pairs": [_PAIR]},
        },
    }
}
_WORDS = [*_START, "metadata", "categories", "pairs", *_PAIR, "\\ud800", "\\u0000", "..", "nul"]


class FindingError(Exception):
    """Text that is handled in no way that it should be."""


def check(content: bytes) -> None:
    """Raise what `pairs_of` must not raise, or a `FindingError`."""
    try:
        text = content.decode("utf-8", "replace")
        pairs = pairs_of(parse_json(text, "pairs.json", error=PairsError), "pairs.json")
    except PairsError as error:
        message = str(error)
        if not message.startswith("pairs.json: ") or len(message.splitlines()) != 1:
            raise FindingError(message) from error
        return
    for group in pairs.prompts():
        for kind in (PurePosixPath, PureWindowsPath):
            if kind(group).parts != (group,):
                raise FindingError(f"unsafe as a path: {group!r}")
    # As they are written and read later.
    json.dumps([pairs.prompts(), pairs.categories, pairs.metadata], ensure_ascii=False).encode()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        start, words = Path(folder, "start"), Path(folder, "words")
        start.mkdir()
        (start / "pairs.json").write_text(json.dumps(_START), encoding="utf-8")
        words.write_text("".join(f"{json.dumps(word)}\n" for word in _WORDS), encoding="utf-8")
        runs = [] if any(option.startswith("-runs=") for option in sys.argv) else ["-runs=500000"]
        atheris.Setup([*sys.argv, *runs, f"-dict={words}", str(start)], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
