"""Runs of the checks in processes of their own."""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.support import forked

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "fixtures" / "tiny-gemma3-base"
ALIGNED = ROOT / "fixtures" / "tiny-gemma3-aligned"
PAIRS = ROOT / "fixtures" / "alignment_artifact_prompt_pairs.json"
RESULTS = "alignment_artifact_analysis_results.json"
PLOT = "alignment_artifact_analysis_plot.png"
VECTOR = "alignment_artifact_analysis_plot.svg"
# The options' short names, as this repository's conftest has them, wherever the tests lie.
SHORT = ("-p", "harness.short_options")
QUICK = ("--max-tokens", "4", "--replicates", "200")


@dataclass(frozen=True)
class Run:
    """A finished run of the checks in a process of its own."""

    code: int
    output: str
    folder: Path

    @property
    def results(self):
        def refuse(name):
            raise AssertionError(f"{name} isn't JSON")

        text = (self.folder / RESULTS).read_text(encoding="utf-8")
        return json.loads(text, parse_constant=refuse)

    @property
    def page(self) -> str:
        return (self.folder / "report.html").read_text(encoding="utf-8")


# Hypothesis would be imported by every run.
OPTIONS = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", *SHORT)


def run_pytest(folder: Path, *arguments, **environment: str) -> tuple[int, str]:
    """pytest in a process of its own, from within `folder`; exit code and output."""
    with tempfile.TemporaryDirectory() as place:
        output = Path(place, "output")
        process = forked.start(
            forked.tests,
            ["-p", "no:cacheprovider", *map(str, arguments)],
            output=output,
            folder=folder,
            environment=environment,
        )
        process.join()
        assert process.exitcode is not None
        return process.exitcode, output.read_text(encoding="utf-8", errors="replace")


def run_checks(folder: Path, *arguments) -> Run:
    """The checks, from within `folder`, with all that they leave where they leave it."""
    done = run_pytest(folder, *OPTIONS, ROOT / "artifact_checks", *arguments)
    return Run(*done, folder / "artifact_report")


def run_checks_anew(folder: Path, *arguments) -> Run:
    """The same by `python -m pytest`, everything imported anew."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS, ROOT / "artifact_checks", *map(str, arguments)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return Run(done.returncode, done.stdout, folder / "artifact_report")
