"""README and docs, and what stands in them."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXTS = sorted([ROOT / "README.md", ROOT / "SECURITY.md", *ROOT.glob("docs/*.md")])
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
