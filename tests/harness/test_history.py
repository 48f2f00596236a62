"""`python -m harness history`: baselines over time, with what changed marked."""

import re
from dataclasses import replace
from types import SimpleNamespace

import matplotlib.image
import pytest
from markupsafe import escape

from harness.analysis.history import Version
from harness.cli import main
from harness.report import history as report
from harness.report import plots
from harness.results import Results, value
from harness.settings import Criteria
from tests.support.measured import analysis_from, behaviour_of, measured, pairs_of, version_of

pytestmark = pytest.mark.filterwarnings("ignore:only .* pairs")
ONE, TWO = (0, "mlp_out"), (1, "mlp_out")


@pytest.fixture
def history(tmp_path, monkeypatch, capsys, request):
    """Run the command; gives what it said and what it complained about."""
    monkeypatch.chdir(tmp_path)
    if request.function is not test_changes_are_marked:
        for module in (plots, report):
            monkeypatch.setattr(module, "to_bytes", lambda *_: b"a picture")

    def run(*arguments):
        assert main(["history", *arguments]) == 0
        said = capsys.readouterr()
        return said.out, said.err

    return run


STRICT = Criteria(d_threshold=7)


def save(name, effects, *, criteria=None, behaviour=None, how=None, **changes):
    analysis = analysis_from(measured(effects, **(how or {})), changes=changes)
    found = replace(analysis, behaviour=behaviour)
    return Results(found, criteria or Criteria()).save(name)


TURNED = {"pairs": pairs_of(24), "axis": 1}
STRAIGHT = {"pairs": pairs_of(24)}
PATTERNS = (
    "shares of evaded prompts can't be compared, other patterns than patterns.json, ffffffff, told "
    "those of 0001_v1 (other.json, eeeeeeee)"
)
NOTE = "all are judged by d above 0.8 and p below 0.05; saved with others: 0001_v1 (d above 7 and"


@pytest.mark.slow
def test_changes_are_marked(history, tmp_path):
    save("v1", {ONE: 9.0, TWO: 3.0})
    save("v2", {ONE: 9.0, TWO: 3.0})
    save("v3", {ONE: 0.0, TWO: 3.0})
    out, err = history()
    header, first, second, evaded, _, last = out.splitlines()
    assert err == ""
    assert header.split() == ["d", "0001_v1", "0002_v2", "0003_v3"]
    assert re.fullmatch(r"layer_0-mlp_out +\d\.\d\d +\d\.\d\d +▲\S* +\S+", first)
    assert "▲" not in second
    assert evaded.split() == ["evaded", "–", "–", "–"]
    page = (tmp_path / "artifact_report" / "history.html").read_text(encoding="utf-8")
    assert page.count('<td class="number changed">▲') == 1
    assert 'src="data:image/svg+xml;base64,' in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert matplotlib.image.imread(tmp_path / "artifact_report" / "history.png").shape[0] > 400
    assert last == "history.html and figure: artifact_report/"


@pytest.mark.parametrize(
    ("verdict", "marks"),
    [("equivalent", ()), ("changed", ("changed",)), ("inconclusive", ("inconclusive",))],
)
def test_no_mark_says_that_a_layer_stayed(verdict, marks):
    layer = SimpleNamespace(separated=True, drift=None, comparison=SimpleNamespace(verdict=verdict))
    version = Version(SimpleNamespace(), SimpleNamespace(layers={ONE: layer}))
    assert version.marks(ONE) == marks
    assert version.changed(ONE) == (verdict == "changed")


def test_what_cannot_be_compared_is_shown_and_said(history, tmp_path):
    save("v1", {ONE: 3.0})
    save("v2", {ONE: 3.0}, pairs_fingerprint="others")
    out, err = history()
    assert "can't be compared, different prompt pairs" in err
    assert err.count("\n") == 1
    assert "▲" not in out.splitlines()[1]
    page = (tmp_path / "artifact_report" / "history.html").read_text(encoding="utf-8")
    assert "<h3>Not compared</h3>" in page


def test_damaged_ones_are_left_out_and_said(history, tmp_path):
    save("v1", {ONE: 3.0})
    (tmp_path / ".artifact_baselines" / "0002_v2.safetensors").write_bytes(b"x")
    out, err = history()
    assert err.startswith("warning: left out: .artifact_baselines/0002_v2.safetensors")
    assert out.splitlines()[0].split() == ["d", "0001_v1"]


def test_all_are_judged_by_the_thresholds_of_the_latest(history, tmp_path):
    save("v1", {ONE: 3.0}, criteria=STRICT, how=STRAIGHT)
    save("v2", {ONE: 3.0}, how=TURNED)
    out, _ = history()
    assert "↻" in out.splitlines()[1]
    assert out.splitlines()[-2].startswith(NOTE)
    page = (tmp_path / "artifact_report" / "history.html").read_text(encoding="utf-8")
    assert NOTE in page
    assert re.search(r'class="number changed">\S*↻', page)
    out, _ = history("v2", "v1")
    assert "↻" not in out.splitlines()[1]
    assert "all are judged by d above 7 and" in out


def test_shares_that_other_patterns_told_are_not_shown(history, tmp_path):
    save("v1", {ONE: 3.0}, behaviour=behaviour_of(0.5, "e" * 64, "some/other.json"))
    save("v2", {ONE: 3.0}, behaviour=behaviour_of(0.25))
    save("v3", {ONE: 3.0})
    out, _ = history()
    *_, evaded, _, note, _ = out.splitlines()
    assert evaded.split() == ["evaded", "–", "25%", "–"]
    assert note == PATTERNS
    page = (tmp_path / "artifact_report" / "history.html").read_text(encoding="utf-8")
    assert escape(PATTERNS) in page
    assert ">50%<" not in page
    out, _ = history("v2", "v3", "v1")
    assert out.splitlines()[2].split() == ["evaded", "–", "–", "50%"]
    assert "told those of 0002_v2 (patterns.json, ffffffff)" in out


def test_shares_that_other_patterns_told_are_not_drawn():
    told = [behaviour_of(0.5, "e" * 64), behaviour_of(0.25), behaviour_of(0.125)]
    runs = [version_of(name, measured({ONE: 3.0})) for name in "abc"]
    versions = [
        Version(replace(run, analysis=replace(run.analysis, behaviour=each)))
        for run, each in zip(runs, told, strict=True)
    ]
    bottom = report.history_figure(versions).axes[1]
    (_, artifact) = bottom.containers
    assert [round(x) for x in artifact.lines[0].get_xdata()] == [1, 2]
    assert list(artifact.lines[0].get_ydata()) == [0.25, 0.125]


def test_thresholds_that_are_the_same_are_not_said(history):
    save("v1", {ONE: 3.0}, criteria=STRICT)
    save("v2", {ONE: 3.0}, criteria=replace(STRICT, margin=0.2))
    assert "all are judged" not in history()[0]


def test_the_latest_that_can_be_read_has_the_thresholds(history, tmp_path):
    save("v1", {ONE: 3.0}), save("v2", {ONE: 3.0}, criteria=STRICT)
    (tmp_path / ".artifact_baselines" / "0003_v3.safetensors").write_bytes(b"x")
    out, err = history()
    assert "all are judged by d above 7 and" in out
    assert err.count("0003_v3") == 1


def test_the_order_can_be_given(history):
    save("v1", {ONE: 3.0})
    save("v2", {ONE: 3.0})
    out, _ = history("v2", "v1")
    assert out.splitlines()[0].split() == ["d", "0002_v2", "0001_v1"]


def test_none_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["history"]) == 2
    assert "no baselines in .artifact_baselines/; make one with" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_no_file_can_have_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["history", "x/" * 3000]) == 2
    assert capsys.readouterr().err.endswith(": no such baseline file\n")


class TestSection:
    """Of a run's page."""

    @pytest.fixture(autouse=True)
    def quick(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for module in (plots, report):
            monkeypatch.setattr(module, "to_bytes", lambda *_: b"a picture")

    @pytest.fixture
    def run(self):
        changes = {"model": "<b>of today"}
        return Results(analysis_from(measured({ONE: 0.0, TWO: 3.0}), changes=changes), Criteria())

    def test_ends_with_this_run(self, run):
        save("v1", {ONE: 9.0, TWO: 3.0})
        save("v2", {ONE: 9.0, TWO: 3.0})
        section = run.page(over_time=run.over_time()).split('<h2 id="time">')[1]
        names = re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', section)
        assert names[4:8] == ["d", "0001_v1", "0002_v2", "this run"]
        marked = re.findall(r'class="number changed">(▲[^<]*)<small>\[', section)
        assert len(marked) == 1
        assert "&lt;b&gt;of today" in section
        assert "Not compared" not in section

    def test_says_what_all_are_judged_by(self, run):
        save("v1", {ONE: 3.0, TWO: 3.0}, criteria=STRICT)
        assert NOTE in run.page(over_time=run.over_time())

    def test_says_whose_shares_other_patterns_told(self, run):
        told = replace(run.analysis, behaviour=behaviour_of(0.25))
        save("v1", {ONE: 3.0, TWO: 3.0}, behaviour=behaviour_of(0.5, "e" * 64, "some/other.json"))
        shown = replace(run, analysis=told).over_time()
        section = report.history_section(shown)
        assert escape(PATTERNS) in section
        assert [part in section for part in ("50%", "25%")] == [False, True]

    def test_is_bounded(self, run, monkeypatch):
        monkeypatch.setattr(value, "MOST_VERSIONS", 1)
        save("v1", {ONE: 9.0, TWO: 3.0})
        save("v2", {ONE: 9.0, TWO: 3.0})
        shown = run.over_time()
        assert [version.run.name for version in shown.versions] == ["0002_v2", "this run"]
        assert not shown.versions[0].run.analysis.activations.keys
        assert "1 earlier one isn't shown" in run.page(over_time=shown)

    def test_says_what_it_cannot_compare(self, run, tmp_path):
        save("v1", {ONE: 9.0, TWO: 3.0}, pairs_fingerprint="others")
        (tmp_path / ".artifact_baselines" / "0002_v2.safetensors").write_bytes(b"x")
        page = run.page(over_time=run.over_time())
        assert "<li>this run: .artifact_baselines/0001_v1.safetensors: can&#39;t be" in page
        assert "<li>left out: .artifact_baselines/0002_v2.safetensors: not a" in page

    def test_is_not_there_without_a_baseline(self, run):
        assert run.over_time() is None
        assert "Over time" not in run.page(over_time=None)

    def test_is_not_there_without_activations(self, run, tmp_path):
        save("v1", {ONE: 9.0, TWO: 3.0})
        run.write(tmp_path / "folder", page=False)
        (file,) = (tmp_path / "folder").glob("*.json")
        assert Results.read(file).over_time() is None
