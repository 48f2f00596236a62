"""What measurements write: their help, their tables, the machine, their section of a page."""

import argparse
import os
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]


def command_line(name: str, text: str | None) -> argparse.ArgumentParser:
    """The parser of `python -m benchmarks.NAME`; `text`, the module's docstring, is its help."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def machine(*packages: str) -> str:
    """Processor, number of cores, system, and the versions of Python and of these packages."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":", 1)[1].strip() if names else cpu
    versions = [f"Python {platform.python_version()}", *(f"{p} {version(p)}" for p in packages)]
    return f"{cpu} ({os.cpu_count()} cores), {platform.system()}, {', '.join(versions)}"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table without a newline at its end."""
    first, *others = (f"| {' | '.join(map(str, cells))} |" for cells in (head, *rows))
    return "\n".join((first, "|---" * len(head) + "|", *others))


def spread(values: Sequence[float], form: str = ",.0f") -> str:
    """Median and, in brackets, the smallest and the largest value, in this format."""
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def split(page: Path, title: str) -> tuple[str, str]:
    """The text of a page before the section of this title, and from there to the end.

    The second is empty where there is no such section, both where there is no page.
    """
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    start = text.find(f"\n## {title}\n")
    return (text, "") if start < 0 else (text[:start], text[start:])


def write(page: Path, title: str, text: str) -> None:
    """Put the text under the title, in place of what was there."""
    before, after = split(page, title)
    end = after.find("\n## ", 1)
    rest = after[end:] if end > 0 else ""
    page.write_text(f"{before}\n## {title}\n\n{text}{rest}", encoding="utf-8")
