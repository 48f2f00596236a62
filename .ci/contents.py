#!/usr/bin/env python3
"""Compare what a wheel holds with this repository: `.ci/contents.py WHEEL`.

It has to hold every file of the three packages and the embedded data as a part of `harness`, byte
for byte, and nothing else. Exit code 1 where it doesn't, with a line for each difference.
"""

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("artifact_checks", "gemma_mlx", "harness")
FIXTURES = ROOT / "fixtures"
NEEDED = (
    "gemma_mlx/py.typed",
    "harness/py.typed",
    "harness/embedded/alignment_artifact_prompt_pairs.json",
    "harness/embedded/tiny-gemma3-aligned/model.safetensors",
    "harness/report/templates/page.html",
)


def expected() -> dict[str, Path]:
    """Names in the wheel, and the files of this repository that they stand for."""
    code = [path for package in PACKAGES for path in (ROOT / package).rglob("*")]
    data = [*FIXTURES.glob("*.json"), *FIXTURES.glob("*gemma*-*/*")]
    return {
        path.relative_to(ROOT).as_posix(): path
        for path in code
        if path.is_file() and "__pycache__" not in path.parts
    } | {f"harness/embedded/{path.relative_to(FIXTURES).as_posix()}": path for path in data}


def differences(wheel: Path) -> list[str]:
    """A line for each file that is missing, too many, or of other contents."""
    files = expected()
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if not n.partition("/")[0].endswith(".dist-info")}
        return [
            *(f"missing: {name}" for name in sorted({*files, *NEEDED} - names)),
            *(f"doesn't belong there: {name}" for name in sorted(names - set(files))),
            *(
                f"differs from {files[name].relative_to(ROOT)}: {name}"
                for name in sorted(names & set(files))
                if archive.read(name) != files[name].read_bytes()
            ),
        ]


def main() -> int:
    wheel = Path(sys.argv[1])
    found = differences(wheel)
    for line in found:
        print(f"{wheel.name}: {line}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
