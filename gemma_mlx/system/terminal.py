"""Text from files and models, without what a terminal takes as a command."""

import unicodedata

# The joiners of emoji and of several scripts are format characters too.
_KEPT = "\u200c\u200d"


def printable(text: object, *, keep: str = "") -> str:
    """Text in which control characters, line and paragraph separators, and characters that change
    the direction of writing are written as escapes, as in `\\x1b`.

    Args:
        keep: characters that stay as they are.
    """
    return "".join(
        c
        if c in keep or c in _KEPT or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else c.encode("unicode_escape").decode()
        for c in str(text)
    )
