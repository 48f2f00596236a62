"""What a run gives: one value that is written, read, saved and shown."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemma_mlx.system.files import read_json, write_whole
from harness.analysis.findings import Findings
from harness.report import plots, sentences, tables
from harness.report.checks import Reported
from harness.report.page import page_html
from harness.results import file, tokens
from harness.results.baseline import save_baseline
from harness.settings import BASELINES

if TYPE_CHECKING:
    import pandas

PLOT_NAME = "alignment_artifact_analysis_plot"
PAGE_NAME = "report.html"


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
        self, folder: str | Path, *, page: bool = True, checks: Sequence[Reported] = ()
    ) -> None:
        """Write results file, tokens' scores, plot (PNG and SVG) and report.html, each whole or not
        at all.

        What is in `folder` under these names is replaced.

        Args:
            page: without it no report.html.
            checks: what checks found that pytest ran and that aren't the harness' own.

        Raises:
            gemma_mlx.errors.UserError: the folder can't be written.
        """
        path = Path(folder) / file.FILE_NAME
        write_whole(path, file.to_bytes(self, str(path)))
        scores = tokens.to_bytes(self.analysis)
        if scores is not None:
            write_whole(Path(folder) / tokens.TOKENS_NAME, scores)
        self.draw(folder, page=page, checks=checks)

    def draw(
        self, folder: str | Path, *, page: bool = True, checks: Sequence[Reported] = ()
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
                drawn[PAGE_NAME] = self.page(checks).encode()
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

    def page(self, checks: Sequence[Reported] = ()) -> str:
        """The report, a self-contained HTML page; `checks` as in `write`."""
        return page_html(self, checks)

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per layer and site with its verdict, one column per figure; needs pandas.

        An interval is two columns, `…_lower` and `…_upper`; scores of single pairs are left out.
        """
        import pandas

        return pandas.DataFrame([self._row(key) for key in self])

    def _row(self, key: tuple[int, str]) -> dict[str, Any]:
        result = self[key]
        figures = {
            **asdict(result.separation),
            **{f"in_sample_{name}": value for name, value in asdict(result.in_sample).items()},
            **{f"{name}_d": other.d for name, other in result.companions.items()},
            **({"beyond_base": result.beyond_base.difference} if result.beyond_base else {}),
        }
        row: dict[str, Any] = {
            "layer": result.layer, "site": result.site, "verdict": self.outcome(key),
        }  # fmt: skip
        for name, value in figures.items():
            if name.endswith("_interval"):
                row[f"{name}_lower"], row[f"{name}_upper"] = value
            elif isinstance(value, int | float | str | bool):
                row[name] = value
        return row

    def __str__(self) -> str:
        """The terminal's table and the verdict in a sentence."""
        lines = [line for line, _ in tables.terminal_table(self)]
        return "\n".join([*lines, "", sentences.headline(self)])

    def __repr__(self) -> str:
        return f"<Results: {sentences.headline(self)}>"

    def _repr_html_(self) -> str:
        """As notebooks show it."""
        titles, *rows = tables.layer_rows(self)
        head = "".join(f"<th>{escape(title)}</th>" for title in titles)
        table = "".join(
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
        )
        return (
            f"<p><strong>{escape(sentences.headline(self))}</strong></p>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{table}</tbody></table>"
        )
