"""Figures as text, the same in checks, tables and the page."""

from collections.abc import Collection


def decimal(value: float) -> str:
    """Two decimals, and no "-0.00"."""
    return "0.00" if abs(value) < 0.005 else f"{value:.2f}"


def interval(bounds: tuple[float, float]) -> str:
    """Both ends in brackets, two decimals each."""
    return f"[{decimal(bounds[0])}, {decimal(bounds[1])}]"


def p_value(p: float) -> str:
    """Four decimals, or the power of ten where they would all be zero."""
    return f"{p:.4f}" if p >= 0.0001 else f"{p:.1e}"


def span(name: str, values: Collection[float]) -> str:
    """A figure by its name, with its least and its largest value; empty where none is defined."""
    text = p_value if name == "p" else decimal
    defined = [value for value in values if value == value]
    if not defined:
        return ""
    low, high = text(min(defined)), text(max(defined))
    return f"{name} {low}" if low == high else f"{name} {low} to {high}"


def error(se: float) -> str:
    """A Monte Carlo error, to stand behind its figure; empty where there is none or it isn't
    known."""
    return f" ± {se:.1g}" if se > 0 else ""


def counted(count: int, one: str, many: str = "") -> str:
    """How many there are of something, in the number that the count asks for."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def file_size(count: float) -> str:
    """A number of bytes in the unit that suits it."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
