"""What the measurements share, and that each of them starts."""

import importlib
import re

import pytest

from benchmarks import real_gemma
from benchmarks.measure import in_turn, peak
from benchmarks.page import ROOT, machine, split, spread, table

# Fuzzing needs atheris, which is no dependency.
NAMES = sorted(
    path.parent.name if path.name == "__main__.py" else path.stem
    for path in (ROOT / "benchmarks").rglob("*.py")
    if '__name__ == "__main__"' in path.read_text() and path.stem != "fuzz_pairs"
)


@pytest.mark.parametrize("name", NAMES)
def test_every_measurement_starts(name, capsys, monkeypatch):
    package = (ROOT / "benchmarks" / name).is_dir()
    module = importlib.import_module(f"benchmarks.{name}{'.__main__' if package else ''}")
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m benchmarks.{name} [-h]")


def test_table():
    assert table(("a", "b"), [(1, "x"), ("", 2.5)]) == "| a | b |\n|---|---|\n| 1 | x |\n|  | 2.5 |"


def test_spread():
    assert spread([3.0, 1200.4, 2.0]) == "3 (2 to 1,200)"
    assert spread([1.0, 2.0], ".2f") == "1.50 (1.00 to 2.00)"


def test_machine_names_the_versions():
    assert re.search(
        r" \(\d+ cores\), \w+, Python 3\.\d+\.\S+, NumPy \d\S+, SciPy \d\S+$",
        machine("NumPy", "SciPy"),
    )


@pytest.mark.parametrize("section", ["", "\n## Last one\n\nA table.\n"])
def test_the_rest_of_the_page_is_kept(tmp_path, section):
    page = tmp_path / "page.md"
    assert split(page, "Last one") == ("", "")
    page.write_text(f"# Title\n\nText.\n{section}", encoding="utf-8")
    assert split(page, "Last one") == ("# Title\n\nText.\n", section)


def test_what_the_page_about_pairs_says_stands_in_the_measured_table():
    _, measured = split(real_gemma.PAGE, real_gemma.TITLE)
    lines = [line[2:-2].split(" | ") for line in measured.splitlines() if line.startswith("| ")]
    # Up to the next table.
    (_, *names), *rows = lines[: next(i for i, line in enumerate(lines) if len(line) != 5)]
    columns = {name: {row[0]: row[i] for row in rows} for i, name in enumerate(names, start=1)}
    _, there = split(real_gemma.PAIRS_PAGE, real_gemma.EXCERPT_TITLE)
    expected = f"\n## {real_gemma.EXCERPT_TITLE}\n\n{real_gemma.excerpt(columns)}"
    assert there.startswith(f"{expected}\n## ")


def test_everyone_goes_first_in_turn():
    called = []
    found = in_turn({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, 3)
    assert called == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": [None] * 3, "b": [None] * 3}


def test_peak_is_in_mebibytes():
    assert 10 < peak() < 100_000
