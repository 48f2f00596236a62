#!/usr/bin/env python3
"""Look up the pinned packages in a vulnerability service, with pip-audit.

Exit code 1 where a vulnerability is known. Where the service can't be asked, that is said, and is
no failure: a machine without it can still lint. pip-audit alone says "no known vulnerabilities
found" of packages that its service has never heard of.
"""

import json
import subprocess
import sys
from pathlib import Path

# What a user runs, MLX's back ends, tests and tools; what isn't for this platform is left out.
REQUIREMENTS = sorted(Path(__file__).resolve().parent.parent.glob("requirements*.txt"))


def main() -> int:
    asked = [sys.executable, "-m", "pip_audit"]
    for file in REQUIREMENTS:
        asked += ["--requirement", str(file)]
    how = ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run([*asked, *how], capture_output=True, text=True, timeout=300)
        packages = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        print("NOT AUDITED: the vulnerability service doesn't answer")
        return 0
    except (ValueError, KeyError):
        why = (done.stderr.strip() or "no output").splitlines()[-1][:200]
        print(f"NOT AUDITED: the vulnerability service can't be asked from here ({why})")
        return 0
    found = [(p, vulnerability) for p in packages for vulnerability in p.get("vulns", [])]
    for package, vulnerability in found:
        fixed = ", ".join(vulnerability["fix_versions"]) or "no version"
        print(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if unknown:
        some = ", ".join(unknown[:3]) + (", …" if len(unknown) > 3 else "")
        print(f"NOT AUDITED: {len(unknown)} of {len(packages)} packages, unknown there: {some}")
    if not found and len(unknown) < len(packages):
        print(f"audited {len(packages) - len(unknown)} packages: no known vulnerability")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
