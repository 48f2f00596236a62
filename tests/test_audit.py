"""What `make lint` says of known vulnerabilities, and of not knowing; nothing is asked here."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

AUDIT = Path(__file__).parents[1] / ".ci" / "audit.py"
REQUIREMENTS = sorted(AUDIT.parents[1].glob("requirements*.txt"))
GOOD = {"name": "numpy", "version": "2.0", "vulns": []}
BAD = {"name": "jinja2", "version": "3.1.0", "vulns": [{"id": "CVE-1", "fix_versions": ["3.1.6"]}]}
UNKNOWN = {"name": "mlx", "skip_reason": "Dependency not found"}


def audit(folder: Path, answer: str, code: int) -> subprocess.CompletedProcess[str]:
    """Run the audit with a stand-in for pip-audit."""
    (folder / "pip_audit.py").write_text(
        "import sys\n"
        "files = [b for a, b in zip(sys.argv, sys.argv[1:]) if a == '--requirement']\n"
        f"assert files == {[str(file) for file in REQUIREMENTS]!r}\n"
        f"sys.stdout.write({answer!r})\nsys.stderr.write('no route\\n')\nsys.exit({code})\n"
    )
    path = os.pathsep.join([str(folder), os.environ["PYTHONPATH"]])
    return subprocess.run(
        [sys.executable, AUDIT],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ([GOOD, GOOD], 0, ["audited 2 packages: no known vulnerability"]),
        ([GOOD, BAD, UNKNOWN], 1, ["jinja2 3.1.0: CVE-1, fixed in 3.1.6", "NOT AUDITED: 1 of 3"]),
        ([GOOD, UNKNOWN], 0, ["NOT AUDITED: 1 of 2 packages", "audited 1 packages: no known"]),
        ([UNKNOWN, UNKNOWN], 0, ["NOT AUDITED: 2 of 2 packages, unknown there: mlx, mlx"]),
    ],
    ids=["sound", "vulnerable", "partly unknown", "unknown"],
)
def test_what_is_known_and_what_is_not(
    tmp_path: Path, packages: list[dict[str, Any]], code: int, said: list[str]
) -> None:
    done = audit(tmp_path, json.dumps({"dependencies": packages}), code)
    assert done.returncode == code, done.stderr
    assert len(done.stdout.splitlines()) == len(said)
    for line in said:
        assert line in done.stdout


@pytest.mark.parametrize("answer", ["", "{", "{}"])
def test_a_service_that_is_not_reached(tmp_path: Path, answer: str) -> None:
    done = audit(tmp_path, answer, 1)
    assert done.returncode == 0
    assert "NOT AUDITED: the vulnerability service can't be asked" in done.stdout
    assert "(no route)" in done.stdout
