"""Text from files and models, made harmless for a terminal."""

import unicodedata

# The joiners of emoji and of several scripts are format characters too.
_KEPT = "\u200c\u200d"


def printable(text: object, *, keep: str = "") -> str:
    """Text that a terminal shows and doesn't obey.

    Control characters, line and paragraph separators, and those that turn the direction of
    writing round become their escapes, as in `\\x1b`; those in `keep` stay.
    """
    return "".join(
        c
        if c in keep or c in _KEPT or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else c.encode("unicode_escape").decode()
        for c in str(text)
    )
