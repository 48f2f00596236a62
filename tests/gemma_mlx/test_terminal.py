"""Text of files and models is shown on a terminal, and not obeyed."""

import pytest

from gemma_mlx.system.terminal import printable


@pytest.mark.parametrize(
    "text",
    ["plain text", "naïve 日本 مرحبا שלום", "👩\u200d🔬 🙂", "\u00a0wide", "<script>", "\\x1b", ""],
)
def test_text_stays(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b31m", r"\x9b31m"),
        ("a\rb\nc\td\0", r"a\rb\nc\td\x00"),
        ("\x07\x08\x7f", r"\x07\x08\x7f"),
        ("\u202eevil\u2066", r"\u202eevil\u2066"),
        ("\u2028\u2029\ufeff", r"\u2028\u2029\ufeff"),
        ("\udcff", r"\udcff"),
    ],
)
def test_what_moves_the_cursor_or_turns_the_line_is_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_lines_may_be_kept() -> None:
    assert printable("a\n\tb\x1b", keep="\n\t") == "a\n\tb\\x1b"


def test_whatever_has_a_text() -> None:
    assert printable(ValueError("a\x1b")) == r"a\x1b"
