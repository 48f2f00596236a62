"""README, docs and what else is written for people, and what stands in it."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_TOP = ("CONTRIBUTING.md", "README.md", "SECURITY.md")
TEXTS = sorted([*(ROOT / name for name in _TOP), *ROOT.glob("docs/*.md")])
NAMES = [str(text.relative_to(ROOT)) for text in TEXTS]


def blocks(name: str, language: str) -> list[str]:
    """Fenced blocks of a language."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def spans(name: str) -> list[str]:
    """Inline code, outside of fenced blocks."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))


def commands(name: str) -> list[str]:
    return [line for block in blocks(name, "bash") for line in block.splitlines()]
