"""`python -m harness history`: baselines over time, with what changed marked."""

import re

import matplotlib.image
import pytest

from harness.cli import main
from harness.report import history as report
from harness.report import plots
from harness.results import Results
from harness.settings import Criteria
from tests.support.measured import analysis_from, measured

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


def save(name, effects, **changes):
    analysis = analysis_from(measured(effects), changes=changes)
    return Results(analysis, Criteria()).save(name)


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
    assert page.count("<td class=changed") == 1
    assert 'src="data:image/svg+xml;base64,' in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert matplotlib.image.imread(tmp_path / "artifact_report" / "history.png").shape[0] > 400
    assert last == "history.html and figure: artifact_report/"


def test_what_cannot_be_compared_is_shown_and_said(history, tmp_path):
    save("v1", {ONE: 3.0})
    save("v2", {ONE: 3.0}, pairs_fingerprint="others")
    out, err = history()
    assert "can't be compared, different prompt pairs" in err
    assert err.count("\n") == 1
    assert "▲" not in out.splitlines()[1]
    page = (tmp_path / "artifact_report" / "history.html").read_text(encoding="utf-8")
    assert "<h2>Not compared</h2>" in page


def test_damaged_ones_are_left_out_and_said(history, tmp_path):
    save("v1", {ONE: 3.0})
    (tmp_path / ".artifact_baselines" / "0002_v2.safetensors").write_bytes(b"x")
    out, err = history()
    assert err.startswith("warning: left out: .artifact_baselines/0002_v2.safetensors")
    assert out.splitlines()[0].split() == ["d", "0001_v1"]


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
