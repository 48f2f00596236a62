"""What a run gives: one value that is written, read, saved and shown."""

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from html import escape
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemma_mlx.errors import UserError
from gemma_mlx.system.files import read_json, write_whole
from harness.analysis.findings import Findings
from harness.analysis.history import OverTime, versions_of
from harness.analysis.words import file_size
from harness.report import plots, sentences, tables
from harness.report.checks import Reported
from harness.report.page import page_html
from harness.results import file, tokens
from harness.results.baseline import list_baselines, readable, save_baseline, saved_run
from harness.settings import BASELINES

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

PLOT_NAME = "alignment_artifact_analysis_plot"
PAGE_NAME = "report.html"
#: What a run leaves in its folder, and the folder in it where that goes when the next one comes.
FILES = (file.FILE_NAME, tokens.TOKENS_NAME, f"{PLOT_NAME}.png", f"{PLOT_NAME}.svg", PAGE_NAME)
EARLIER = "earlier"
#: So many runs there are told of by number and size.
MANY = 10
#: Saved runs that a page compares; `python -m harness history` has no such limit.
MOST_VERSIONS = 5


def kept_sentence(earlier: Path) -> str:
    """Where an earlier run's files went; from `MANY` runs on, how many are kept there and how large
    they are."""
    files = [path for path in earlier.parent.glob("*/*") if path.name in FILES]
    runs = len({path.parent for path in files})
    said = f"the earlier ones: {earlier}/"
    if runs < MANY:
        return said
    size = file_size(sum(path.lstat().st_size for path in files))
    return f"{said} ({runs} runs are in {earlier.parent}/, {size}, safe to delete)"


def _move_earlier(folder: Path) -> Path | None:
    """Move an earlier run's files, if there are any, into a folder of their own; returns it."""
    there = [path for name in FILES if (path := folder / name).is_file()]
    if not there:
        return None
    # That of the run: its results file is written first.
    written = datetime.fromtimestamp(min(path.stat().st_mtime for path in there), UTC)
    place = folder / EARLIER / f"{written:%Y-%m-%dT%H%M%S.%f}"
    try:
        place.mkdir(parents=True, exist_ok=True)
        for path in there:
            path.rename(place / path.name)
    except OSError as error:
        raise UserError(f"{place}: cannot be written ({error.strerror})") from error
    return place


def single_values(figures: Any) -> dict[str, Any]:
    """The numbers, texts and truth values of a dataclass by name; an interval is two of them,
    `…_lower` and `…_upper`."""
    found: dict[str, Any] = {}
    for name, value in asdict(figures).items():
        if name.endswith("_interval"):
            found[f"{name}_lower"], found[f"{name}_upper"] = value
        elif isinstance(value, int | float | str | bool):
            found[name] = value
    return found


@dataclass(frozen=True, repr=False)
class Results(Findings):
    """What was found, layer by layer, and its ways out: files, baselines, pages, tables.

    A mapping from (layer, site) to `harness.analysis.LayerResult`. Fields are called as in the
    results file. One that was read from such a file has no activations, and can't be saved as a
    baseline.
    """

    @classmethod
    def read(cls, path: str | Path) -> "Results":
        """Read a results file, and the tokens' scores beside it, if they are there.

        Raises:
            harness.results.file.ResultsError: it can't be read, is damaged, or of another version.
        """
        content = read_json(Path(path), error=file.ResultsError)
        found = file.from_json(content, str(path))
        beside = tokens.read_tokens(Path(path).parent / tokens.TOKENS_NAME, found.analysis)
        return cls(**{**vars(found), "analysis": replace(found.analysis, tokens=beside)})

    def to_json(self) -> dict[str, Any]:
        """The results file's content: NaN is null, infinities are "inf" and "-inf"."""
        return file.to_json(self)

    def write(
        self,
        folder: str | Path,
        *,
        page: bool = True,
        checks: Sequence[Reported] = (),
        over_time: OverTime | None = None,
    ) -> Path | None:
        """Write results file, tokens' scores, plot (PNG and SVG) and report.html, each whole or not
        at all.

        What an earlier run left in `folder` under these names is moved into a folder of its own,
        `earlier/<its date>/`.

        Args:
            page: without it no report.html.
            checks: what checks found that pytest ran and that aren't the harness' own.
            over_time: what `over_time` gives, for the page's section of that name.

        Returns:
            Where the files of an earlier run are now; None if there were none.

        Raises:
            gemma_mlx.errors.UserError: the folder can't be written.
        """
        path = Path(folder) / file.FILE_NAME
        content = file.to_bytes(self, str(path))
        scores = tokens.to_bytes(self.analysis)
        earlier = _move_earlier(Path(folder))
        write_whole(path, content)
        if scores is not None:
            write_whole(Path(folder) / tokens.TOKENS_NAME, scores)
        self.draw(folder, page=page, checks=checks, over_time=over_time)
        return earlier

    def draw(
        self,
        folder: str | Path,
        *,
        page: bool = True,
        checks: Sequence[Reported] = (),
        over_time: OverTime | None = None,
    ) -> None:
        """`write` without the results file and the tokens' scores.

        Raises:
            harness.results.file.ResultsError: figures that no run gives, from a results file that
                was edited.
        """
        try:
            figure = plots.separation_figure(self)
            drawn = {f"{PLOT_NAME}.{kind}": plots.to_bytes(figure, kind) for kind in ("png", "svg")}
            if page:
                drawn[PAGE_NAME] = self.page(checks, over_time).encode()
        except (ValueError, OverflowError) as error:
            raise file.ResultsError(f"the results can't be drawn ({error})") from error
        for name, content in drawn.items():
            write_whole(Path(folder) / name, content)

    def save(self, name: str, directory: str | Path = BASELINES) -> Path:
        """Keep this run as a baseline, under the next number; returns its file.

        Raises:
            harness.results.baseline.BaselineError: a name that can't name one, or no activations.
            gemma_mlx.errors.UserError: the directory can't be written.
        """
        return save_baseline(name, self, Path(directory))

    def page(self, checks: Sequence[Reported] = (), over_time: OverTime | None = None) -> str:
        """The report, a self-contained HTML page; `checks` and `over_time` as in `write`."""
        return page_html(self, checks, over_time)

    def over_time(
        self,
        directory: str | Path = BASELINES,
        *,
        progress: Callable[[Iterable[Path]], Iterable[Path]] = iter,
    ) -> OverTime | None:
        """The project's latest saved runs, and then this one, each compared with the one before.

        Args:
            directory: where baselines are.
            progress: wraps the iteration over baselines.

        Returns:
            None where none are saved, and for results without activations or model.
        """
        files = list_baselines(Path(directory))
        here = self.analysis.activations.keys and "model_layers" in self.analysis.provenance
        if not files or not here:
            return None
        left_out: list[str] = []
        latest = files[-MOST_VERSIONS:]
        saved = readable(progress(latest), left_out.append)
        runs = chain(saved, [saved_run(Path("this run"), self)])
        criteria = replace(self.criteria, partial=True)
        versions = versions_of(runs, criteria)
        return OverTime(versions, criteria, left_out, len(files) - len(latest))

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per layer and site with its verdict, one column per figure; needs pandas.

        An interval is two columns, `…_lower` and `…_upper`; scores of single pairs are left out.
        """
        import pandas

        return pandas.DataFrame([self._row(key) for key in self])

    def _row(self, key: tuple[int, str]) -> dict[str, Any]:
        result = self[key]
        in_sample = single_values(result.in_sample)
        return {
            "layer": result.layer,
            "site": result.site,
            "verdict": self.outcome(key),
            **single_values(result.separation),
            **{f"in_sample_{name}": value for name, value in in_sample.items()},
            **{f"{name}_d": other.d for name, other in result.companions.items()},
            **{
                name: change.difference
                for name in ("beyond_base", "beyond_base_same_words")
                if (change := getattr(result, name))
            },
        }

    def __str__(self) -> str:
        """The terminal's table and the verdict in a sentence."""
        lines = [line for line, _ in tables.terminal_table(self)]
        return "\n".join([*lines, "", sentences.headline(self)])

    def __repr__(self) -> str:
        return f"<Results: {sentences.headline(self)}>"

    def plot(self) -> "Plot":
        """Effect size and accuracy by layer, with intervals: a figure that notebooks show."""
        return Plot(plots.separation_figure(self))

    def _repr_html_(self) -> str:
        """As notebooks show it: the verdict, the table, the figure."""
        titles, *rows = tables.layer_rows(self)
        head = "".join(f"<th>{escape(title)}</th>" for title in titles)
        table = "".join(
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
        )
        picture = base64.b64encode(self.plot()._repr_png_()).decode()
        return (
            f"<p><strong>{escape(sentences.headline(self))}</strong></p>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{table}</tbody></table>"
            f'<img alt="effect size and accuracy by layer" src="data:image/png;base64,{picture}">'
        )


@dataclass(frozen=True, repr=False)
class Plot:
    """A figure that notebooks show by itself; `figure` is matplotlib's, to be changed at will."""

    figure: "Figure"

    def save(self, path: str | Path) -> None:
        """Write it, as the name's ending says: .png or .svg.

        Raises:
            gemma_mlx.errors.UserError: another ending, or the file can't be written.
        """
        kind = Path(path).suffix.removeprefix(".").lower()
        if kind not in ("png", "svg"):
            raise UserError(f"path: {str(path)!r}; must end in .png or .svg")
        write_whole(Path(path), plots.to_bytes(self.figure, kind))

    def _repr_png_(self) -> bytes:
        return plots.to_bytes(self.figure, "png")
