"""`python -m harness compare`: saved runs side by side, and what the exit code says."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import pytest
from jsonschema import Draft202012Validator

from harness import __main__
from harness.cli import comparing
from harness.data.activations import AnalysisError, PairActivations
from harness.report import depth, plots, side_by_side
from harness.results import Results
from harness.results.baseline import load_baseline
from harness.settings import Criteria
from tests.support.measured import analysis_from, behaviour_of, measured, pairs_of, version_of

pytestmark = pytest.mark.filterwarnings("ignore:only .* pairs")
ROOT = Path(__main__.__file__).resolve().parent.parent
ONE, TWO = (0, "mlp_out"), (1, "mlp_out")
FIGURES = {f"comparison_{name}.{kind}" for name in ("depth", "likeness") for kind in ("png", "svg")}


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    if "real_pictures" not in request.fixturenames:
        monkeypatch.setattr(plots, "to_bytes", lambda *_: b"a picture")


@pytest.fixture
def real_pictures():
    """Figures are drawn, which takes its time."""


STRICT = Criteria(d_threshold=7)
JUDGED = "all are judged by d above {:g} and p below 0.05; saved with others: {} (d above {:g} and"


PATTERNS = (
    "shares of evaded prompts can't be compared, other patterns than patterns.json, ffffffff, told "
    "those of 0001_v1 (other.json, eeeeeeee)"
)


def save(
    name,
    effects=None,
    *,
    changes=None,
    failed=(),
    results=None,
    criteria=None,
    behaviour=None,
    **how,
):
    activations = measured(effects or {ONE: 3.0, TWO: 3.0}, **how)
    analysis = analysis_from(activations, failed=failed, changes=changes, **(results or {}))
    return Results(replace(analysis, behaviour=behaviour), criteria or Criteria()).save(name)


@pytest.fixture
def compare(capsys):
    """Run the command; gives the exit code, what it said and what it complained about."""

    def run(*arguments):
        try:
            code = __main__.main(["compare", *map(str, arguments)])
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return run


def written(tmp_path, folder="artifact_report"):
    def refuse(name):
        raise AssertionError(f"{name} isn't JSON")

    text = (tmp_path / folder / "comparison.json").read_text()
    found = json.loads(text, parse_constant=refuse)
    Draft202012Validator(comparing.schema()).validate(found)
    return found


def comparisons(tmp_path, folder="artifact_report"):
    return written(tmp_path, folder)["compared"]


class TestTwo:
    def test_same(self, compare, tmp_path):
        save("v1"), save("v2")
        code, out, err = compare("v1", "v2")
        assert code == 0
        assert err == ""
        header, first, second, headline, last = out.splitlines()
        assert header.split() == [
            "d", "then", "d", "now", "change", "d", "cosine", "direction",
        ]  # fmt: skip
        assert first.startswith("layer_0-mlp_out ")
        assert first.split()[-3:] == second.split()[-3:] == ["equivalent", "1.00", "same"]
        assert "+0.00  [0.00, 0.00]" in first
        assert "Against 0001_v1, of 2 layers 2 equivalent, 0 changed" in headline
        assert last == "figures and comparison.json: artifact_report/"
        (found,) = comparisons(tmp_path)
        assert (found["a"], found["b"], found["margin"]) == ("0001_v1", "0002_v2", 0.5)
        assert list(found["layers"]) == ["layer_0-mlp_out", "layer_1-mlp_out"]
        assert found["layers"]["layer_1-mlp_out"]["comparison"]["difference"] == 0
        files = {file.name for file in (tmp_path / "artifact_report").iterdir()}
        assert files == {*FIGURES, "comparison.json"}

    def test_changed(self, compare, tmp_path):
        save("v1", {ONE: 3.0, TWO: 9.0}), save("v2", {ONE: 3.0, TWO: 0.0}, failed=[TWO])
        code, out, _ = compare("v1", "v2")
        assert code == 1
        verdicts = [line.split() for line in out.splitlines()[1:3]]
        assert [row[-3] for row in verdicts] == ["equivalent", "changed"]
        assert [row[-1] for row in verdicts] == ["same", "inconclusive"]
        assert "1 equivalent, 1 changed, 0 inconclusive" in out
        assert "Separate no more: layer_1-mlp_out." in out
        assert comparisons(tmp_path)[0]["layers"]["layer_1-mlp_out"]["comparison"]["verdict"] == (
            "changed"
        )

    def test_the_other_way_round(self, compare):
        save("v1"), save("v2", {ONE: 3.0, TWO: 0.0}, failed=[TWO])
        code, out, _ = compare("v2", "v1")
        assert code == 1
        assert "Against 0002_v2" in out
        assert "Separate now: layer_1-mlp_out." in out

    def test_inconclusive(self, compare):
        save("v1", seed=1), save("v2", seed=2)
        code, out, _ = compare("v1", "v2")
        assert code == 1
        assert "2 inconclusive" in out

    def test_margin(self, compare):
        save("v1"), save("v2", {ONE: 3.0, TWO: 2.6})
        assert compare("v1", "v2", "--margin", "50")[0] == 0
        code, out, _ = compare("v1", "v2", "--margin", "0.01")
        assert code == 1
        assert "±0.01" in out

    def test_report(self, compare, tmp_path):
        save("v1"), save("v2")
        code, out, _ = compare("v1", "v2", "--report", "some/where")
        assert code == 0
        assert "some/where/" in out
        assert len(comparisons(tmp_path, "some/where")) == 1
        assert not (tmp_path / "artifact_report").exists()

    def test_by_number_and_by_file(self, compare, tmp_path):
        lost = {"effects": {ONE: 3.0, TWO: 0.0}, "failed": [TWO]}
        save("v1"), save("v2", **lost), save("v1", **lost)
        moved = (tmp_path / ".artifact_baselines" / "0001_v1.safetensors").rename("x.safetensors")
        assert compare("v1", "2")[0] == 0
        assert compare(moved, "0002_v2")[0] == 1
        assert compare(f"./{moved}", "v2")[0] == 1

    def test_other_circumstances_are_warnings(self, compare):
        save("v1"), save("v2", changes={"machine": "Darwin arm64, 10 cores"})
        code, out, err = compare("v1", "v2")
        assert code == 0
        assert err == (
            "warning: 0001_v1 and 0002_v2: machine: Linux x86_64, 2 cores then, "
            "Darwin arm64, 10 cores now\n"
        )
        assert "warning" not in out

    def test_all_are_judged_by_the_thresholds_of_the_last(self, compare, tmp_path):
        save("strict", criteria=STRICT), save("v1")
        code, out, err = compare("strict", "v1")
        assert code == 0
        assert "Separate" not in out
        assert "The direction is the same in 2 of the 2 layers" in out
        assert JUDGED.format(0.8, "0001_strict", 7) in err
        (found,) = comparisons(tmp_path)
        assert found["gained"] == found["lost"] == []
        assert [layer["separated"] for layer in found["layers"].values()] == [True, True]
        code, out, err = compare("v1", "strict")
        assert code == 0
        assert "Separate" not in out
        assert JUDGED.format(7, "0002_v1", 0.8) in err

    def test_behaviour_that_other_patterns_told(self, compare, tmp_path):
        save("v1", behaviour=behaviour_of(0.5, "e" * 64, "some/other.json"))
        save("v2", behaviour=behaviour_of(0.25))
        code, out, err = compare("v1", "v2")
        assert code == 0
        assert "Evaded" not in out
        assert err == f"warning: 0001_v1 and 0002_v2: {PATTERNS}\n"
        (found,) = comparisons(tmp_path)
        assert (found["behaviour"], found["warnings"]) == ([], [PATTERNS])

    def test_a_direction_that_turned_from_a_strict_baseline(self, compare):
        save("strict", criteria=STRICT, pairs=pairs_of(24)), save("v2", axis=1, pairs=pairs_of(24))
        code, out, _ = compare("strict", "v2", "--margin", "50")
        assert code == 1
        assert out.count("turned") == 2

    def test_fewer_layers_than_the_first(self, compare, tmp_path):
        save("v1"), save("v2", {TWO: 3.0})
        assert compare("v1", "v2")[0] == 1
        assert compare("v1", "v2", "--partial")[0] == 0
        assert list(comparisons(tmp_path)[0]["layers"]) == ["layer_1-mlp_out"]

    @pytest.mark.slow
    def test_d_that_is_not_defined(self, compare, tmp_path, real_pictures):
        """One layer is the same for all prompts; in another the conditions can't overlap."""
        activations = measured({ONE: 3.0, TWO: 3.0, (2, "mlp_out"): 3.0})
        activations.artifact[0][:] = activations.natural[0][:] = 1.0
        nan, infinity = float("nan"), float("inf")
        analysis = analysis_from(activations)
        for key, d in ((ONE, nan), (TWO, infinity)):
            analysis.results[key] = analysis_from(activations, d=d, d_interval=(d, d))[key]
        Results(analysis, Criteria()).save("v1")
        code, out, _ = compare("v1", "1")
        assert code == 1, "undecided is not equivalent"
        assert "2 equivalent, 0 changed, 1 inconclusive" in out
        assert comparisons(tmp_path)[0]["layers"]["layer_0-mlp_out"]["comparison"]["d_a"] is None
        assert (tmp_path / "artifact_report" / "comparison_depth.png").is_file()


class TestMore:
    def test_three_with_the_first(self, compare, tmp_path):
        save("v1"), save("v2", {ONE: 0.0, TWO: 3.0}), save("v3")
        code, out, _ = compare("v1", "v2", "v3")
        assert code == 1
        assert out.count("Against 0001_v1") == 2
        found = comparisons(tmp_path)
        assert [(c["a"], c["b"]) for c in found] == [("0001_v1", "0002_v2"), ("0001_v1", "0003_v3")]

    def test_other_depths(self, compare, tmp_path):
        save("small"), save("same")
        effects = {(layer, "mlp_out"): float(layer) for layer in range(5)}
        save("large", effects, changes={"model_layers": 5}, width=20)
        code, out, _ = compare("small", "large", "same")
        assert code == 0
        assert "0003_large: other layers than 0001_small, compared over depth only" in out
        assert [c["b"] for c in comparisons(tmp_path)] == ["0002_same"]

    @pytest.mark.slow
    def test_only_other_depths(self, compare, tmp_path, real_pictures):
        effects = {(layer, "mlp_out"): 3.0 for layer in range(5)}
        save("small"), save("large", effects, changes={"model_layers": 5}, width=20)
        code, out, _ = compare("small", "large")
        assert code == 0
        assert "figures and comparison.json" in out
        assert comparisons(tmp_path) == []
        for name in FIGURES:
            file = tmp_path / "artifact_report" / name
            if name.endswith("svg"):
                assert ElementTree.parse(file).getroot().tag.endswith("svg")
            else:
                assert matplotlib.image.imread(file).shape[0] > 300


def lines_of(runs):
    activations = [run.analysis.activations for run in runs]
    return side_by_side.table(runs, side_by_side.summarise(runs, activations))


class TestDifferentKinds:
    """Models whose layers don't correspond, side by side."""

    @pytest.fixture
    def said(self, compare):
        save("small")
        effects = {(layer, "mlp_out"): 3.0 for layer in range(5)}
        changes = {"model_layers": 5, "model": "another", "template_fingerprint": "0" * 64}
        save("large", effects, changes=changes, width=20, failed=[(4, "mlp_out")])
        code, out, err = compare("small", "large")
        assert (code, err) == (0, "")
        _, names, *rows = out.splitlines()[:-1]
        assert names.split() == ["0001_small", "0002_large"]
        return {title: cells for title, *cells in (re.split(" {2,}", row) for row in rows)}

    def test_what_each_is_and_claims(self, said):
        assert said["model"] == ["a/model (ffffffff)", "another (ffffffff)"]
        assert said["layers, width"] == ["2, 12", "5, 20"]
        assert said["pairs"] == ["16", "16"]
        assert said["separate"] == ["2 of 2", "4 of 5"]
        assert said["beyond the base model"] == ["not asked"] * 2
        assert said["natural prompts evaded"] == ["–"] * 2

    def test_claims_are_by_the_thresholds_of_the_last(self, compare, tmp_path):
        changes = {"template_fingerprint": "0" * 64}
        save("small", criteria=STRICT), save("large", width=20, changes=changes)
        save("strict", criteria=STRICT)
        _, out, _ = compare("small", "large")
        assert re.search(r"^separate +2 of 2 +2 of 2$", out, re.MULTILINE)
        note = JUDGED.format(0.8, "0001_small", 7)
        assert note in out.splitlines()[-2]
        found = written(tmp_path)
        assert [run["claims"]["separates"] for run in found["runs"]] == [{"passed": 2}] * 2
        assert [said.startswith(note) for said in found["notes"]] == [True]
        _, out, _ = compare("small", "large", "strict")
        assert re.search(r"^separate +0 of 2.* +0 of 2.* +0 of 2", out, re.MULTILINE)
        assert JUDGED.format(7, "0002_large", 0.8) in out

    def test_what_cannot_be_compared_says_so(self, said):
        assert said["cosine with 0001_small's direction"] == [
            "–",
            "can't be compared: other widths",
        ]

    def test_the_table_is_in_the_file_too(self, said, tmp_path):
        small, large = written(tmp_path)["runs"]
        assert (small["name"], small["layers"], small["widths"]) == ("0001_small", 2, [12])
        assert large["claims"]["separates"] == {"passed": 4, "failed": 1}
        assert large["claims"]["beyond_base"] == {}
        assert (large["largest"], large["depth"]) == ("layer_0-mlp_out", 0.0)
        assert (small["no_cosine"], large["no_cosine"]) == ("", "other widths")
        assert (small["pairs"], small["common_pairs"]) == (16, 16)
        assert small["likeness"] == []
        assert [(each["layer"], each["first_layer"]) for each in large["likeness"]] == [
            (0, 0), (1, 0), (2, 0), (3, 1), (4, 1),
        ]  # fmt: skip
        cka = [each["cka"] for each in large["likeness"]]
        assert said["CKA with 0001_small at equal depth"][1] == f"{min(cka):.2f} to {max(cka):.2f}"

    def test_layers_at_equal_depth(self, said):
        """Noise of the same seed by layer: only the first columns are the same numbers."""
        own, likeness = said["CKA with 0001_small at equal depth"]
        assert own == "–"
        low, _, high = likeness.partition(" to ")
        assert 0 < float(low) <= float(high) < 1

    def test_the_layer_of_equal_depth_is_the_nearest(self):
        one = measured({ONE: 0.0, TWO: 0.0}, seed=1)
        effects = {(layer, "mlp_out"): 0.0 for layer in range(3)}
        other = measured(effects, seed=2, width=7)
        turn = np.linalg.qr(np.random.default_rng(0).standard_normal((12, 12)))[0] * 3
        arms = [
            (arm[0] @ turn, others[1], arm[1] @ turn)
            for arm, others in ((one.artifact, other.artifact), (one.natural, other.natural))
        ]
        other = PairActivations(other.pairs, other.keys, *arms, other.clusters)
        runs = [version_of("a", one), version_of("b", other, changes={"model_layers": 3})]
        lines = lines_of(runs)
        (row,) = (line for line in lines if line.startswith("CKA"))
        # Ends match exactly; the middle, of equal distance to both, is noise.
        assert re.search(r" (-0\.\d\d|0\.[0-4]\d) to 1\.00$", row)

    def test_pairs_that_not_all_have_are_counted(self):
        pairs = pairs_of(16)
        whole = measured({ONE: 1.0}, pairs=pairs)
        some = version_of("b", whole.select(pairs[:12], whole.keys))
        runs = [version_of("a", whole), some]
        lines = side_by_side.table(runs, side_by_side.summarise(runs, depth.common_pairs(runs)))
        (row,) = (line for line in lines if line.startswith("pairs"))
        assert re.split(" {2,}", row) == ["pairs", "16, 12 in all runs", "12"]

    def test_settings_that_differ_are_warned_of(self, compare):
        save("small"), save("large", width=20, changes={
            "template_fingerprint": "0" * 64, "collection.max_tokens": 5,
        })  # fmt: skip
        code, out, err = compare("small", "large")
        assert code == 0
        assert "compared over depth only" in out
        assert "0001_small and 0002_large: different number of tokens (20 there, 5 here)" in err
        assert "template" not in err

    def test_behaviour(self, tmp_path):
        run = version_of("a", measured({ONE: 1.0}))
        found = replace(run, analysis=replace(run.analysis, behaviour=behaviour_of(0.25)))
        lines = lines_of([found, found])
        (row,) = (line for line in lines if line.startswith("artifact prompts evaded"))
        assert row.count("25% [0%, 50%]") == 2

    def test_behaviour_that_other_patterns_told(self, compare, tmp_path):
        changes = {"template_fingerprint": "0" * 64}
        save("v1", behaviour=behaviour_of(0.5, "e" * 64, "some/other.json"))
        save("v2", behaviour=behaviour_of(0.25), width=20, changes=changes)
        _, out, _ = compare("v1", "v2")
        assert re.search(r"^artifact prompts evaded +– +25% \[0%, 50%\]$", out, re.MULTILINE)
        assert f"\n{PATTERNS}\n" in out
        found = written(tmp_path)
        assert [len(run["evaded"]) for run in found["runs"]] == [0, 2]
        assert found["notes"] == [PATTERNS]


class TestRefused:
    def test_one_run(self, compare):
        save("v1")
        code, _, err = compare("v1")
        assert code == 2
        assert "give two runs or more" in err

    def test_no_run(self, compare):
        assert compare()[0] == 2

    def test_no_such_baseline(self, compare, tmp_path):
        save("v1")
        code, out, err = compare("v1", "v9")
        assert code == 2
        assert out == ""
        assert err.startswith("error: no baseline 'v9' in .artifact_baselines/ (there: 0001_v1)")
        assert "--artifact-save v9" in err
        assert not (tmp_path / "artifact_report").exists()

    def test_no_such_file(self, compare):
        code, _, err = compare("v1.safetensors", "v2.safetensors")
        assert code == 2
        assert err == "error: v1.safetensors: no such baseline file\n"

    def test_damaged(self, compare):
        save("v1")
        broken = save("v2")
        broken.write_bytes(broken.read_bytes()[:-100])
        code, _, err = compare("v1", "v2")
        assert code == 2
        assert err.startswith(f"error: {broken}: not a baseline, or damaged")

    def test_settings_that_differ(self, compare, tmp_path):
        save("v1"), save("v2", changes={"collection.max_tokens": 5, "collection.seed": 1})
        code, _, err = compare("v1", "v2")
        assert code == 2
        assert "0001_v1.safetensors: can't be compared" in err
        assert "number of tokens (20 there, 5 here)" in err
        assert "sampling seed (0 there, 1 here)" in err
        assert not (tmp_path / "artifact_report").exists()

    def test_too_few_pairs_in_common(self, compare):
        effects = {(layer, "mlp_out"): 3.0 for layer in range(3)}
        save("v1", pairs=pairs_of(20)[:12])
        save("v2", effects, pairs=pairs_of(20)[6:], changes={"model_layers": 3})
        code, _, err = compare("v1", "v2")
        assert code == 2
        assert "only 6 pairs are in all of the runs" in err

    def test_report_that_cannot_be_written(self, compare, tmp_path):
        save("v1"), save("v2")
        (tmp_path / "report" / "comparison.json").mkdir(parents=True)
        code, _, err = compare("v1", "v2", "--report", "report")
        assert code == 2
        assert err.startswith("error: report/comparison.json: cannot be written")

    def test_report_in_a_file(self, compare, tmp_path):
        (tmp_path / "file").write_text("")
        code, out, err = compare("v1", "v2", "--report", "file/report")
        assert code == 2
        assert out == ""
        assert err == f"error: --report file/report: {tmp_path / 'file'} is a file, not a folder\n"

    @pytest.mark.parametrize("margin", ["0", "-1", "x", "", "inf", "nan"])
    def test_margin(self, compare, margin):
        code, _, err = compare("v1", "v2", f"--margin={margin}")
        assert code == 2
        assert err == f"error: --margin {margin!r}: must be a finite number above 0\n"

    def test_interrupted(self, compare, monkeypatch):
        def interrupt(_name):
            raise KeyboardInterrupt

        monkeypatch.setattr(comparing, "find_baseline", interrupt)
        assert compare("v1", "v2")[0] == 130


class TestHelp:
    def test_of_the_program(self, capsys):
        with pytest.raises(SystemExit) as stop:
            __main__.main(["--help"])
        assert stop.value.code == 0
        text = " ".join(capsys.readouterr().out.split())
        assert "usage: python -m harness" in text
        assert "compare saved runs" in text
        assert "0 done, 1 a comparison or verify failed, or pairs are wrong, 2 bad" in text

    def test_of_compare(self, capsys):
        with pytest.raises(SystemExit) as stop:
            __main__.main(["compare", "--help"])
        assert stop.value.code == 0
        text = " ".join(capsys.readouterr().out.split())
        for part in (
            "pytest artifact_checks --artifact-save", "names (the latest), numbers or files in",
            ".artifact_baselines", "--margin", "(default: 0.5)", "--report DIR",
            "(default: artifact_report)", "Exit code 1 where a layer changed",
        ):  # fmt: skip
            assert part in text

    @pytest.mark.parametrize("arguments", [[], ["nonsense"], ["compare", "a", "b", "--nonsense"]])
    def test_usage_errors(self, arguments):
        with pytest.raises(SystemExit) as stop:
            __main__.main(arguments)
        assert stop.value.code == 2

    @pytest.mark.slow
    def test_as_a_module(self):
        save("v1", {ONE: 9.0, TWO: 3.0}), save("v2", {ONE: 0.0, TWO: 3.0})
        command = [sys.executable, "-m", "harness", "compare", "v1", "v2"]
        ran = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True
        )
        assert ran.returncode == 1
        assert b"1 changed" in ran.stdout


def loaded(*paths):
    return [load_baseline(path) for path in paths]


class TestFigures:
    def test_depth_runs_from_0_to_1(self):
        effects = {(layer, "mlp_out"): 1.0 for layer in range(5)}
        versions = loaded(
            save("small"), save("large", effects, changes={"model_layers": 5}),
            save("middle", {(2, "mlp_out"): 1.0}, changes={"model_layers": 5}),
        )  # fmt: skip
        (axes,) = depth.depth_figure(versions).axes
        curves = {line.get_label(): line for line in axes.lines if "_" in str(line.get_label())}
        x = {
            name: curves[f"{name}, mlp_out"].get_xdata()
            for name in ("0001_small", "0002_large", "0003_middle")
        }
        np.testing.assert_allclose(x["0001_small"], [0, 1], atol=0.01)
        np.testing.assert_allclose(x["0002_large"], [0, 0.25, 0.5, 0.75, 1], atol=0.01)
        np.testing.assert_allclose(x["0003_middle"], [0.5], atol=0.01)

    def test_depth_has_a_curve_for_each_version_and_site(self):
        effects = {(layer, site): 1.0 for site in ("mlp_out", "attn_out") for layer in range(2)}
        versions = loaded(
            save("v1", effects, results={"d": 2.0, "d_interval": (1.75, 2.5)}), save("v2")
        )
        (axes,) = depth.depth_figure(versions).axes
        labels = {line.get_label() for line in axes.lines}
        assert {"0001_v1, mlp_out", "0001_v1, attn_out", "0002_v2, mlp_out"} <= labels
        drawn = {
            (low, high)
            for collection in axes.collections
            for (_, low), (_, high) in collection.get_segments()
        }
        assert drawn == {(1.75, 2.5), (1.0, 2.0)}

    def test_a_model_of_one_layer(self):
        versions = loaded(save("v1", {ONE: 1.0}, changes={"model_layers": 1}), save("v2"))
        assert depth.depth_figure(versions).axes

    def test_likeness_of_every_two(self):
        one = measured({ONE: 0.0, TWO: 0.0}, seed=1)
        effects = {(layer, "mlp_out"): 0.0 for layer in range(3)}
        other = measured(effects, seed=2, width=7)
        # Its last layer is the first one's first, turned around and stretched.
        turn = np.linalg.qr(np.random.default_rng(0).standard_normal((12, 12)))[0] * 3
        other = PairActivations(
            other.pairs,
            other.keys,
            (*other.artifact[:2], one.artifact[0] @ turn),
            (*other.natural[:2], one.natural[0] @ turn),
            other.clusters,
        )
        versions = [version_of(n, a) for n, a in (("a", one), ("b", other), ("c", one))]
        figure = depth.likeness_figure(versions, [v.analysis.activations for v in versions])
        panels = [axes for axes in figure.axes if axes.images]
        found = {
            (axes.get_xlabel(), axes.get_ylabel()): np.asarray(axes.images[0].get_array())
            for axes in panels
        }
        assert [label.get_text() for label in panels[0].get_yticklabels()] == ["0", "1", "2"]
        first, second, _ = found
        assert first == ("layer of a", "layer of b")
        assert second == ("layer of a", "layer of c")
        assert found[first].shape == (3, 2)
        assert found[first][2, 0] == pytest.approx(1)
        assert np.abs(found[first][:2]).max() < 0.5
        np.testing.assert_allclose(np.diagonal(found[second]), 1)

    @pytest.mark.parametrize(
        ("keys", "names"),
        [
            ([(n, "mlp_out") for n in (5, 12, 17)], ["5", "12", "17"]),
            ([(n, "mlp_out") for n in range(30)], ["0", "4", "8", "12", "16", "20", "24", "28"]),
            ([(3, "mlp_out"), (3, "attn_out")], ["3, mlp_out", "3, attn_out"]),
        ],
    )
    def test_layers_go_by_their_own_numbers(self, keys, names):
        run = version_of("a", measured(dict.fromkeys(keys, 1.0)))
        figure = depth.likeness_figure([run, run], [run.analysis.activations] * 2)
        assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == names

    def test_pairs_that_all_have(self):
        pairs = pairs_of(16)
        whole = measured({ONE: 1.0}, pairs=pairs)
        some = [
            version_of("v", whole.select([p for p in pairs if p.id not in out], whole.keys))
            for out in ((), ("q01", "q02"), ("q02", "q09"))
        ]
        found = depth.common_pairs(some)
        left = tuple(p for p in pairs if p.id not in ("q01", "q02", "q09"))
        assert [activations.pairs for activations in found] == [left] * 3
        for activations in found:
            np.testing.assert_array_equal(activations.artifact[0], found[0].artifact[0])

    def test_too_few_pairs_that_all_have(self):
        pairs = pairs_of(16)
        whole = measured({ONE: 1.0}, pairs=pairs)
        halves = [version_of("v", whole.select(part, whole.keys)) for part in
                  (pairs[:11], pairs[4:])]  # fmt: skip
        with pytest.raises(AnalysisError, match="only 7 pairs"):
            depth.common_pairs(halves)
