"""The results: strict JSON with every figure in it, and what is shown of them elsewhere."""

import json
import math
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from gemma_mlx.errors import UserError
from harness import settings
from harness.data.activations import Dropped
from harness.report import tables
from harness.results import Results, value
from harness.results.baseline import BaselineError
from harness.results.file import FILE_NAME, SCHEMA_VERSION
from harness.settings import Criteria
from tests.support.builders import PAIRS, SEPARATION, layer_result, responses, results_of
from tests.support.measured import change_of

pytestmark = pytest.mark.usefixtures("quick_pictures")

CRITERIA = Criteria(d_threshold=0.7, alpha=0.01)


def strictly(text: str):
    """Parse JSON, refusing the NaN and Infinity that Python alone takes."""

    def refuse(name):
        raise AssertionError(f"{name} isn't JSON")

    return json.loads(text, parse_constant=refuse)


def written(path, *results, **changes):
    results_of(*results, criteria=CRITERIA, **changes).write(path, page=False)
    return strictly((path / FILE_NAME).read_text(encoding="utf-8"))


class TestContent:
    def test_schema(self, tmp_path):
        content = written(tmp_path, layer_result())
        assert content["schema_version"] == SCHEMA_VERSION
        assert {"provenance", "criteria", "pairs", "layers", "responses"} <= set(content)

    def test_criteria_and_provenance(self, tmp_path):
        content = written(tmp_path, layer_result(), provenance={"model": "m", "nested": {"a": 1}})
        assert content["criteria"]["d_threshold"] == 0.7
        assert content["criteria"]["alpha"] == 0.01
        assert content["provenance"] == {"model": "m", "nested": {"a": 1}}

    def test_each_layer_has_its_own_figures(self, tmp_path):
        layers = [
            layer_result(1, "mlp_out", d=0.1, d_interval=(-1.0, 0.2), p_adjusted=0.5),
            layer_result(12, "resid_post", d=1 / 3, d_interval=(0.75, 2.25)),
        ]
        content = written(tmp_path, *layers)
        assert [entry["id"] for entry in content["layers"]] == [
            "layer_1-mlp_out",
            "layer_12-resid_post",
        ]
        for entry, layer in zip(content["layers"], layers, strict=True):
            assert (entry["layer"], entry["site"]) == (layer.layer, layer.site)
            assert entry["separation"]["d"] == layer.separation.d
            assert entry["separation"]["d_interval"] == list(layer.separation.d_interval)
            assert entry["separation"]["p_adjusted"] == layer.separation.p_adjusted
            assert entry["in_sample"]["d"] == layer.in_sample.d
        assert [entry["verdict"] for entry in content["layers"]] == ["failed", "inconclusive"]

    def test_verdicts_with_their_explanations(self, tmp_path):
        (entry,) = written(tmp_path, layer_result(d_interval=(0.5, 2.0)))["layers"]
        assert entry["criteria"]["d"]["outcome"] == "inconclusive"
        assert "lies between the bound" in entry["criteria"]["d"]["explanation"]
        assert entry["claims"]["separates"]["outcome"] == "inconclusive"
        assert entry["claims"]["beyond_base"] is None
        assert entry["criteria"]["accuracy"]["outcome"] == "passed"
        assert entry["criteria"]["p"]["outcome"] == "passed"

    def test_what_became_of_the_pairs(self, tmp_path):
        content = written(
            tmp_path,
            layer_result(),
            dropped=(Dropped(PAIRS[0], "NaN"),),
            dropped_beside=(Dropped(PAIRS[1], "at positions forced: empty"),),
            merged=2,
            cut=(PAIRS[3],),
        )
        assert content["pairs"]["scored"] == [f"one/q{number}" for number in range(8)]
        assert content["pairs"]["dropped"] == [{"pair": "one/q0", "reason": "NaN"}]
        assert content["pairs"]["dropped_beside"] == [
            {"pair": "one/q1", "reason": "at positions forced: empty"}
        ]
        assert content["pairs"]["merged"] == 2
        assert content["pairs"]["cut"] == ["one/q3"]

    def test_responses(self, tmp_path):
        content = written(tmp_path, layer_result(), responses=(responses(PAIRS[1], "yes", "no"),))
        (entry,) = content["responses"]
        assert entry["pair"] == "one/q1"
        assert entry["natural"]["prompt"] == "natural 1"
        assert entry["natural"]["text"] == "yes"
        assert entry["artifact"]["text"] == "no"
        assert entry["artifact"]["token_ids"] == [8, 9]


class TestJson:
    def test_what_json_has_no_number_for(self, tmp_path):
        layer = layer_result(
            d=math.nan, d_interval=(-math.inf, math.inf), d_z=math.inf, null_mean=math.nan
        )
        (entry,) = written(tmp_path, layer, provenance={"x": math.nan})["layers"]
        assert entry["separation"]["d"] is None
        assert entry["separation"]["d_interval"] == ["-inf", "inf"]
        assert entry["separation"]["d_z"] == "inf"
        assert entry["separation"]["null_mean"] is None

    @pytest.mark.parametrize("text", ["</script>", "\x1b[31m", '"\\', "שלום 🧪", "\0", "\u2028"])
    def test_any_text(self, tmp_path, text):
        content = written(tmp_path, layer_result(), responses=(responses(PAIRS[0], text),))
        assert content["responses"][0]["natural"]["text"] == text

    def test_same_results_same_bytes(self, tmp_path):
        for name in ("1", "2"):
            results_of(layer_result()).write(tmp_path / name)
        one, two = ({f.name: f.read_bytes() for f in (tmp_path / n).iterdir()} for n in ("1", "2"))
        assert len(one) == 4
        assert one == two

    def test_values_are_plain(self):
        json.dumps(results_of(layer_result()).to_json(), allow_nan=False)

    def test_folder_is_made(self, tmp_path):
        results_of(layer_result()).write(tmp_path / "a" / "b")
        assert (tmp_path / "a" / "b" / FILE_NAME).exists()

    def test_place_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match="cannot be written"):
            results_of(layer_result()).write(tmp_path / "file")


class TestRead:
    def test_cannot_be_saved(self, tmp_path):
        """A file has no activations; what could be compared with it?"""
        results_of(layer_result()).write(tmp_path)
        found = Results.read(tmp_path / FILE_NAME)
        with pytest.raises(BaselineError) as caught:
            found.save("v1", tmp_path / "baselines")
        assert str(caught.value) == (
            "can't save 'v1': results that were read from a file have no activations; save the "
            "run that made them"
        )
        assert not (tmp_path / "baselines").exists()

    def test_shows_what_the_run_showed(self, tmp_path):
        made = results_of(layer_result(0), layer_result(1, d_interval=(0.5, 2.0)))
        made.write(tmp_path)
        found = Results.read(tmp_path / FILE_NAME)
        assert type(found) is Results
        assert found.verdicts() == made.verdicts()
        assert found.page() == made.page()
        assert str(found) == str(made)


class Cells(HTMLParser):
    """Cells of a table, row by row, and every tag."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows:
            self.rows[-1][-1] += data


class TestShown:
    @pytest.fixture
    def large(self):
        """26 layers, 65 pairs."""
        pairs = tuple(replace(PAIRS[0], id=f"q{number}") for number in range(65))
        scores = tuple(number + 1 / 3 for number in range(65))
        sizes = {"n_pairs": 65, "pairs": tuple(range(65))}
        layers = [
            layer_result(n, **sizes, d_interval=(n / 13, 3.0),
                         scores_artifact=scores, scores_natural=scores)
            for n in range(26)
        ]  # fmt: skip
        return results_of(*layers, scored=pairs, responses=tuple(map(responses, pairs)))

    def test_repr_is_a_sentence(self, large):
        assert repr(large) == (
            "<Results: 15 of 26 layers separate artifact from natural prompts beyond d = 0.8; 15 "
            "across the categories. Topic is not ruled out: no base model was asked. Held-out d is "
            "1.50, n = 65 pairs.>"
        )
        assert len(repr(large)) < 220

    def test_print_gives_the_table_and_the_verdict(self, large):
        header, *rows, empty, headline = str(large).splitlines()
        assert header.split()[:3] == ["d", "accuracy", "p"]
        assert len(rows) == 26
        assert rows[-1].startswith("layer_25-mlp_out ")
        assert rows[-1].split()[-6:] == ["✓", "✓", "–", "–", "–", "–"]
        assert empty == ""
        assert headline.startswith("15 of 26 layers")

    def test_html_in_notebooks(self, large):
        shown = Cells(large._repr_html_())
        titles, *rows = shown.rows
        assert titles[1:3] == ["d", "interval"]
        assert titles[-1] == "used"
        assert shown.tags.count("th") == len(titles)
        assert len(rows) == 26
        assert {len(row) for row in rows} == {len(titles)}
        assert rows[3][:3] == ["layer_3-mlp_out", "1.50", "[0.23, 3.00]"]
        assert [row[-6] for row in rows] == ["?"] * 11 + ["✓"] * 15

    def test_html_is_escaped(self):
        evil = "<img src=x onerror=alert(1)>"
        shown = Cells(results_of(layer_result(0, evil))._repr_html_())
        assert shown.tags.count("img") == 1, "its own figure"
        assert shown.rows[1][0] == f"layer_0-{evil}"

    def test_columns_that_the_settings_know_are_those_there_are(self):
        assert tuple(tables.COLUMNS) == settings.COLUMNS


class TestTable:
    @pytest.fixture
    def frame(self):
        pytest.importorskip("pandas", reason="pandas isn't installed")
        layers = [
            replace(
                layer_result(0),
                companions={"forced": replace(SEPARATION, d=0.25)},
                beyond_base=change_of(0.25, 0.75),
            ),
            layer_result(3, "resid_post", d_interval=(0.5, 2.0), d=math.nan),
            layer_result(4, d_interval=(0.5, 2.0)),
        ]
        return results_of(*layers).to_dataframe()

    def test_one_row_per_layer_and_site_with_its_verdict(self, frame):
        assert list(frame.columns[:3]) == ["layer", "site", "verdict"]
        assert list(frame["layer"]) == [0, 3, 4]
        assert list(frame["site"]) == ["mlp_out", "resid_post", "mlp_out"]
        assert list(frame["verdict"]) == ["passed", "failed", "inconclusive"]

    def test_figures_are_columns(self, frame):
        assert list(frame["d"].isna()) == [False, True, False]
        assert list(frame["d_interval_lower"]) == [1.0, 0.5, 0.5]
        assert list(frame["accuracy_interval_upper"]) == [0.9] * 3
        assert list(frame["p_adjusted"]) == [0.002] * 3
        assert list(frame["in_sample_d"]) == [4.0] * 3
        assert frame["n_pairs"].dtype.kind == "i"

    def test_what_only_some_layers_have_is_nan_elsewhere(self, frame):
        assert frame["forced_d"][0] == 0.25
        assert frame["beyond_base"][0] == 0.5
        assert list(frame["forced_d"].isna()) == [False, True, True]
        assert list(frame["beyond_base"].isna()) == [False, True, True]

    def test_no_cell_holds_an_array(self, frame):
        kinds = {type(value) for column in frame for value in frame[column].tolist()}
        assert kinds == {int, float, str}

    def test_without_activations(self, tmp_path):
        pandas = pytest.importorskip("pandas", reason="pandas isn't installed")
        made = results_of(layer_result())
        made.write(tmp_path)
        found = Results.read(tmp_path / FILE_NAME).to_dataframe()
        pandas.testing.assert_frame_equal(found, made.to_dataframe())


class TestEarlierRuns:
    def test_are_kept(self, tmp_path):
        """Each in a folder of its own; what isn't a run's stays where it is."""
        (tmp_path / "mine.txt").write_text("mine")
        made = results_of(layer_result())
        assert made.write(tmp_path) is None
        first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        places = [made.write(tmp_path) for _ in range(2)]
        assert len(set(places)) == 2
        for place in places:
            assert place.parent == tmp_path / "earlier"
            kept = {path.name: path.read_bytes() for path in place.iterdir()}
            assert {**kept, "mine.txt": b"mine"} == first
        assert {path.name for path in tmp_path.iterdir()} == {*first, "earlier"}

    def test_many_are_told_of(self, tmp_path, monkeypatch):
        """How many and how large; nothing of somebody else's counts."""
        monkeypatch.setattr(value, "MANY", 2)
        places = []
        for content in ("1", "22", "333"):
            (tmp_path / "report.html").write_text(content)
            places.append(value._move_earlier(tmp_path))
            (tmp_path / "earlier" / "mine.txt").write_text("mine")
            (places[-1] / "mine.txt").symlink_to("nowhere")
            if len(places) == 1:
                assert value.kept_sentence(places[0]) == f"the earlier ones: {places[0]}/"
        assert value.kept_sentence(places[2]) == (
            f"the earlier ones: {places[2]}/ (3 runs are in {tmp_path}/earlier/, 6 bytes, safe to "
            "delete)"
        )
