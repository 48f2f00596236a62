"""Saved runs over time as a table, a figure and a page."""

import base64
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from harness.analysis.behaviour import Rate, told_alike
from harness.analysis.history import Mark, OverTime, Version, layers_of
from harness.analysis.layers import layer_id
from harness.analysis.words import decimal
from harness.data.activations import LayerSite
from harness.data.pairs import CONDITIONS, Condition
from harness.report.plots import COLOURS, drawing, to_bytes
from harness.report.sentences import model_name
from harness.report.tables import aligned
from harness.report.templating import rendered

MARKS: dict[Mark, str] = {"changed": "▲", "turned": "↻", "inconclusive": "?"}
KEY = (
    "▲ d changed from the version before, ↻ its direction turned, ? d is shown neither to have "
    "changed nor to have stayed"
)
# Of layers, without the yellow that can't be seen on white.
_DEPTHS = mpl.colormaps["viridis"](np.linspace(0, 0.85, 64))
# Of sites.
_LINES = ("-", "--", ":", "-.")


def history_table(versions: Sequence[Version]) -> list[str]:
    """One line per layer and site, then the share of artifact prompts that is evaded; a column per
    version."""
    return aligned(_rows(versions), left={0})


def _rows(versions: Sequence[Version]) -> list[list[str]]:
    return [
        ["d", *(version.run.name for version in versions)],
        *([layer_id(*key), *(_cell(v, key) for v in versions)] for key in layers_of(versions)),
        ["evaded", *_evaded(versions)],
    ]


def _cell(version: Version, key: tuple[int, str]) -> str:
    result = version.result(key)
    if result is None:
        return "–"
    marks = "".join(MARKS[mark] for mark in version.marks(key))
    return f"{marks} {decimal(result.separation.d)}".strip()


def _evaded(versions: Sequence[Version]) -> list[str]:
    at, rates = _rates(versions, "artifact")
    known = {i: f"{rate.evaded:.0%}" for i, rate in zip(at, rates, strict=True)}
    return [known.get(i, "–") for i in range(len(versions))]


def history_figure(versions: Sequence[Version]) -> Figure:
    """d of every layer over the versions, one line each, coloured by depth; below it the share of
    responses that evade, with intervals. Lines are broken where two versions can't be compared."""
    x = np.arange(len(versions))
    colours = mpl.colors.LinearSegmentedColormap.from_list("depth", _DEPTHS)
    with drawing(9, 6.5, nrows=2, sharex=True, height_ratios=(2, 1)) as (figure, (top, bottom)):
        depth = max(version.run.layer_count for version in versions)
        styles = dict(zip(dict.fromkeys(s for _, s in layers_of(versions)), _LINES, strict=False))
        for key in layers_of(versions):
            found = [version.result(key) for version in versions]
            d = [np.nan if result is None else result.separation.d for result in found]
            colour, style = colours(key[0] / max(1, depth - 1)), styles.get(key[1], "-")
            for start, end in _stretches(versions):
                top.plot(x[start:end], d[start:end], style, marker="o", markersize=4,
                         linewidth=1, color=colour)  # fmt: skip
            changed = [i for i, version in enumerate(versions) if version.changed(key)]
            top.plot(x[changed], np.array(d)[changed], "o", markersize=11, fillstyle="none",
                     color=COLOURS[1])  # fmt: skip
        top.set_ylabel("d (standard deviations)")
        top.set_title("Effect size by version; rings: d or its direction changed")
        scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, max(1, depth - 1)), colours)
        figure.colorbar(scale, ax=top, label="layer")
        for number, condition in enumerate(CONDITIONS):
            at, rates = _rates(versions, condition)
            if at:
                y = np.array([rate.evaded for rate in rates])
                ends = np.array([rate.interval for rate in rates]).T
                bottom.errorbar(np.array(at) + 0.04 * number, y, abs(ends - y), fmt="o",
                                color=COLOURS[number], label=f"{condition} prompts")  # fmt: skip
        bottom.set_ylim(-0.05, 1.05)
        bottom.set_ylabel("evaded")
        if bottom.containers:
            bottom.legend(loc="best")
        bottom.set_xticks(x, [version.run.name for version in versions], rotation=30, ha="right")
    return figure


def _rates(versions: Sequence[Version], condition: Condition) -> tuple[list[int], list[Rate]]:
    """The share of responses that evade, and which versions it is known of, by the latest's
    patterns."""
    known = enumerate(told_alike([version.run.analysis.behaviour for version in versions]))
    there = [(i, behaviour.rate(condition)) for i, behaviour in known if behaviour is not None]
    return [i for i, _ in there], [rate for _, rate in there]


def _stretches(versions: Sequence[Version]) -> list[tuple[int, int]]:
    """First and one after the last of versions that can be compared one after the other."""
    starts = [i for i, version in enumerate(versions) if i == 0 or version.reason]
    return list(zip(starts, [*starts[1:], len(versions)], strict=True))


def history_page(shown: OverTime) -> str:
    """A self-contained page of `history_section`."""
    return rendered("history.html", section=history_section(shown))


def history_section(shown: OverTime) -> str:
    """HTML: the figure and everything that the table says, with intervals."""
    versions = shown.versions
    picture = to_bytes(history_figure(versions), "svg")
    return rendered(
        "over_time.html",
        shown=shown,
        model_name=model_name,
        picture=base64.b64encode(picture).decode(),
        key=KEY,
        rows=[
            (layer_id(*key), [_with_bounds(v, key) for v in versions])
            for key in layers_of(versions)
        ],
        evaded=_evaded(versions),
    )


def _with_bounds(version: Version, key: LayerSite) -> tuple[str, bool, tuple[float, float] | None]:
    """A cell, whether it is marked, and the interval of its d."""
    result = version.result(key)
    bounds = None if result is None else result.separation.d_interval
    return _cell(version, key), version.changed(key), bounds
