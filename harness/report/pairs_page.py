"""The page and the lines that say what a set of pairs can show."""

from collections.abc import Iterator

from harness.analysis.screening import SHARED, Screening
from harness.analysis.words import counted, decimal, interval
from harness.report.templating import rendered

# They are as many as the pairs make them; the JSON file has all.
_MOST_LINKS = 100


def verdict(found: Screening) -> str:
    """How many problems there are, in a sentence."""
    wrong = sum(problem.weight == "wrong" for problem in found.problems)
    weak = len(found.problems) - wrong
    categories = counted(len(found.categories), "category", "categories")
    units = f"{found.n_pairs} pairs, {counted(found.n_units, 'unit')}, {categories}"
    if not found.problems:
        return f"{units}: nothing wrong or weak was found."
    parts = [
        f"{count} {word} point{'s' if count > 1 else ''}"
        for count, word in ((wrong, "wrong"), (weak, "weak"))
        if count
    ]
    return f"{units}: {' and '.join(parts)}."


def lines(found: Screening) -> Iterator[str]:
    """What the terminal shows."""
    yield verdict(found)
    for problem in found.problems:
        yield f"{problem.weight}: {problem.said} {problem.advice}"
    for text in found.texts:
        if text.separation is not None:
            d, bounds = decimal(text.separation.d), interval(text.separation.d_interval)
            yield f"{text.description}: d = {d} {bounds}, without a model"
    for reach in found.reach:
        many = counted(reach.layers, "layer", "independent layers")
        yield (
            f"with {many}, a d of {decimal(reach.detectable)} or more is told from 0 in 4 runs of "
            f"5, and one of {decimal(reach.passing)} or more clears the threshold"
        )


def page_html(found: Screening) -> str:
    """A page of its own; every text in it is escaped."""
    return rendered(
        "pairs.html",
        found=found,
        verdict=verdict(found),
        shared=SHARED,
        links=found.links[:_MOST_LINKS],
    )
