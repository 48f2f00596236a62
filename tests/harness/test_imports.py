"""What an import takes along, in a process of its own."""

import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("harness.defaults", "numpy"),
        # A second of its own, for what scipy.special has as well.
        ("harness.analysis", "scipy.stats"),
    ],
)
def test_nothing_heavy_comes_along(module, absent):
    code = f"import json, sys, {module}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert module in json.loads(done.stdout)
    assert absent not in json.loads(done.stdout)
