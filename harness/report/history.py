"""Saved runs over time as a table, a figure and a page."""

import base64
from collections.abc import Sequence
from html import escape

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from harness.analysis.behaviour import Rate
from harness.analysis.history import Mark, Version, layers_of
from harness.analysis.layers import layer_id
from harness.analysis.words import decimal, interval
from harness.data.pairs import CONDITIONS, Condition
from harness.report.plots import COLOURS, drawing, to_bytes
from harness.report.sentences import model_name
from harness.report.tables import aligned

MARKS: dict[Mark, str] = {"changed": "▲", "turned": "↻"}
KEY = "▲ d changed from the version before, ↻ its direction turned"
# Of sites.
_LINES = ("-", "--", ":", "-.")
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
.changed { font-weight: bold; }
.wide { overflow-x: auto; }
figure { margin: 1rem 0; background: white; }
img { max-width: 100%; }
"""


def history_table(versions: Sequence[Version]) -> list[str]:
    """One line per layer and site, then the share of artifact prompts that is evaded; a column per
    version."""
    return aligned(_rows(versions), left={0})


def _rows(versions: Sequence[Version]) -> list[list[str]]:
    return [
        ["d", *(version.run.name for version in versions)],
        *([layer_id(*key), *(_cell(v, key) for v in versions)] for key in layers_of(versions)),
        ["evaded", *map(_evaded, versions)],
    ]


def _cell(version: Version, key: tuple[int, str]) -> str:
    result = version.result(key)
    if result is None:
        return "–"
    marks = "".join(MARKS[mark] for mark in version.marks(key))
    return f"{marks} {decimal(result.separation.d)}".strip()


def _evaded(version: Version) -> str:
    behaviour = version.run.analysis.behaviour
    return "–" if behaviour is None else f"{behaviour.rate('artifact').evaded:.0%}"


def history_figure(versions: Sequence[Version]) -> Figure:
    """d of every layer over the versions, one line each, coloured by depth; below it the share of
    responses that evade, with intervals. Lines are broken where two versions can't be compared."""
    x = np.arange(len(versions))
    colours = mpl.colormaps["viridis"]
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
            changed = [i for i, version in enumerate(versions) if version.marks(key)]
            top.plot(x[changed], np.array(d)[changed], "o", markersize=11, fillstyle="none",
                     color=COLOURS[1])  # fmt: skip
        top.set_ylabel("d (standard deviations)")
        top.set_title("Effect size by version; rings: changed from the version before")
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
    """The share of responses that evade, and which versions it is known of."""
    known = [(i, v.run.analysis.behaviour) for i, v in enumerate(versions)]
    there = [(i, behaviour.rate(condition)) for i, behaviour in known if behaviour is not None]
    return [i for i, _ in there], [rate for _, rate in there]


def _stretches(versions: Sequence[Version]) -> list[tuple[int, int]]:
    """First and one after the last of versions that can be compared one after the other."""
    starts = [i for i, version in enumerate(versions) if i == 0 or version.reason]
    return list(zip(starts, [*starts[1:], len(versions)], strict=True))


def history_page(versions: Sequence[Version]) -> str:
    """A self-contained page with the figure and everything that the table says."""
    picture = base64.b64encode(to_bytes(history_figure(versions), "svg")).decode()
    described = "".join(
        f"<tr><td>{escape(v.run.name)}</td>"
        f"<td>{escape(model_name(v.run.analysis))}</td>"
        f"<td>{escape(str(v.run.analysis.provenance.get('date', '–'))[:10])}</td>"
        f"<td>{len(v.run.analysis.scored)}</td></tr>"
        for v in versions
    )
    head = "".join(f"<th scope=col>{escape(v.run.name)}</th>" for v in versions)
    body = "".join(
        f"<tr><td>{layer_id(*key)}</td>{''.join(_html_cell(v, key) for v in versions)}</tr>"
        for key in layers_of(versions)
    )
    rates = "".join(f"<td>{_evaded(version)}</td>" for version in versions)
    reasons = "".join(
        f"<li>{escape(v.run.name)}: {escape(v.reason)}</li>" for v in versions if v.reason
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Alignment artifacts over time</title>
<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>
<h1>Alignment artifacts over time</h1>
<div class="wide"><table><thead><tr><th scope=col>version</th><th scope=col>model</th>
<th scope=col>date</th><th scope=col>pairs</th></tr></thead><tbody>{described}</tbody></table></div>
<figure><img alt="d by layer and evaded responses, version by version; the table has the numbers"
src="data:image/svg+xml;base64,{picture}"></figure>
<p>{KEY}.</p>
<div class="wide"><table><thead><tr><th scope=col>d</th>{head}</tr></thead>
<tbody>{body}<tr><td>artifact prompts evaded</td>{rates}</tr></tbody></table></div>
{f"<h2>Not compared</h2><ul>{reasons}</ul>" if reasons else ""}
</body></html>
"""


def _html_cell(version: Version, key: tuple[int, str]) -> str:
    result = version.result(key)
    bounds = "" if result is None else interval(result.separation.d_interval)
    marked = " class=changed" if version.marks(key) else ""
    return f'<td{marked} title="{bounds}">{_cell(version, key)}</td>'
