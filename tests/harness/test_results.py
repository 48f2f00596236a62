"""The results file: strict JSON with every figure in it."""

import json
import math

import pytest

from gemma_mlx.errors import UserError
from harness.data.activations import Dropped
from harness.results.file import FILE_NAME, SCHEMA_VERSION
from harness.settings import Criteria
from tests.support.builders import PAIRS, layer_result, responses, results_of

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
        assert [entry["verdict"] for entry in content["layers"]] == ["failed", "passed"]

    def test_verdicts_with_their_explanations(self, tmp_path):
        (entry,) = written(tmp_path, layer_result(d_interval=(0.5, 2.0)))["layers"]
        assert entry["criteria"]["d"]["outcome"] == "inconclusive"
        assert "straddles" in entry["criteria"]["d"]["explanation"]
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
