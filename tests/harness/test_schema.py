"""Results as JSON, their schema, and the way back."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest

import harness
from gemma_mlx.npz import step_file, write_steps
from harness.analysis.causality import Effect
from harness.analysis.comparison import compare_versions
from harness.analysis.estimating import analyze
from harness.cli import comparing
from harness.results import Results
from harness.results.file import FILE_NAME, ResultsError, check, from_json, schema, to_bytes
from harness.results.schema import from_plain, plain, schema_of
from harness.settings import AnalysisSettings, Criteria
from tests.support.builders import (
    layer_result,
    noise,
    parsed,
    planted,
    results_of,
    run_of,
    two_categories,
)
from tests.support.measured import measured, version_of

pytestmark = pytest.mark.filterwarnings("ignore:only .* pairs")
ROOT = Path(harness.__file__).resolve().parent.parent
CRITERIA = Criteria(d_threshold=0.7)
EFFECT = Effect("add", 0.5, (0.1, 0.9), 0.6, 0.1, 0.02, 0.04, 0.3, math.inf, 12, 50)


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """Results in which no part is empty."""
    folder = tmp_path_factory.mktemp("runs")
    pairs = parsed(two_categories(16))
    runs = [
        run_of(folder / str(seed), pairs, planted(0.7, noise(seed)), layers=(0, 3))
        for seed in range(3)
    ]
    analysis = analyze(
        runs[0],
        pairs,
        layers=(0, 3),
        sites=("mlp_out",),
        settings=AnalysisSettings(replicates=100),
        companions={"forced": runs[1]},
        base=runs[2],
        provenance={"model": "m", "collection": {"positions": "generated"}},
    )
    keys = {(0, "mlp_out"): 1.0, (3, "mlp_out"): 2.0}
    versions = [version_of(name, measured(keys, seed=seed)) for seed, name in enumerate("ab")]
    return Results(
        analysis,
        CRITERIA,
        compare_versions(*versions, Criteria()),
        {(3, "mlp_out"): (EFFECT,) * 2},
    )


@pytest.fixture
def content(everything):
    return copy.deepcopy(everything.to_json())


@pytest.mark.slow
def test_there_and_back(everything, tmp_path):
    everything.write(tmp_path)
    found = Results.read(tmp_path / FILE_NAME)
    assert found.to_json() == everything.to_json()
    assert isinstance(found.comparison, type(everything.comparison))
    assert found.interventions[3, "mlp_out"][0] == EFFECT
    for key, result in everything.items():
        assert plain(found[key]) == plain(result)
        assert isinstance(found[key].separation.scores_natural, tuple)


def test_numbers_that_json_has_not():
    odd = results_of(layer_result(d=math.nan, d_z=math.inf, d_se=-math.inf))
    content = json.loads(to_bytes(odd, "results.json"))
    (result,) = from_json(content, "results.json").values()
    assert math.isnan(result.separation.d)
    assert (result.separation.d_z, result.separation.d_se) == (math.inf, -math.inf)


@pytest.mark.parametrize(
    ("name", "expected"), [("results", schema()), ("comparison", comparing.schema())]
)
def test_schema_in_docs_is_the_schema(name, expected):
    there = json.loads((ROOT / f"docs/{name}.schema.json").read_text(encoding="utf-8"))
    assert there == expected


def test_no_figure_can_be_left_out(content):
    for name in content["layers"][0]["separation"]:
        damaged = copy.deepcopy(content)
        del damaged["layers"][0]["separation"][name]
        with pytest.raises(ResultsError, match=f"layers/0/separation: '{name}'"):
            check(damaged, "results.json")
    for part in ("criteria", "settings"):
        for name in content[part]:
            damaged = copy.deepcopy(content)
            del damaged[part][name]
            with pytest.raises(ResultsError, match=f"{part}: '{name}'"):
                check(damaged, "results.json")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda c: c.pop("layers"), "the top"),
        (lambda c: c.update(more=1), "the top"),
        (lambda c: c["layers"].clear(), "layers"),
        (lambda c: c["layers"][1].update(verdict="fine"), "layers/1/verdict"),
        (lambda c: c["layers"][0]["separation"].update(d="large"), "layers/0/separation/d"),
        (lambda c: c["layers"][0]["separation"].update(d=[1]), "layers/0/separation/d"),
        (lambda c: c["layers"][0]["separation"].update(n_pairs=2.5), "layers/0/separation/n_pairs"),
        (
            lambda c: c["layers"][0]["separation"]["d_interval"].pop(),
            "layers/0/separation/d_interval",
        ),
        (lambda c: c["interventions"].update({"layer_x": []}), "interventions"),
        (lambda c: c["responses"][0]["natural"].update(text=None), "responses/0/natural/text"),
    ],
)
def test_what_is_not_of_the_schema_is_named(content, tmp_path, change, place):
    check(content, "results.json")
    change(content)
    (tmp_path / "results.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ResultsError, match=f"results.json: not a results file: at {place}: "):
        Results.read(tmp_path / "results.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["pairs"]["scored"].pop(), "layer_0-mlp_out has other scores than pairs"),
        (lambda c: c["pairs"]["scored"].__setitem__(0, "one/none"), "one/none"),
        (lambda c: c["layers"][0].update(layer=5), "layer_0-mlp_out is said to be layer 5, mlp_o"),
        (lambda c: c["provenance"].update(model="\ud800"), "half a surrogate pair"),
        (lambda c: c["layers"][0]["separation"].update(d=10**400), "an integer of 401 digits"),
    ],
)
def test_parts_that_contradict_each_other(content, tmp_path, change, message):
    change(content)
    (tmp_path / "results.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ResultsError, match=message):
        Results.read(tmp_path / "results.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not readable as JSON"),
        ("[]", "at the top"),
        ('{"schema_version": 2}', "schema version 2; this harness reads version 6"),
        ('{"schema_version": true}', "not a results file"),
    ],
)
def test_files_that_are_none(tmp_path, text, message):
    (tmp_path / "results.json").write_text(text, encoding="utf-8")
    with pytest.raises(ResultsError, match=message):
        Results.read(tmp_path / "results.json")


def test_a_file_of_the_first_version_is_refused_and_left_as_it_is(content, tmp_path):
    path = tmp_path / FILE_NAME
    path.write_text(json.dumps({**content, "schema_version": 1}), encoding="utf-8")
    before = path.read_bytes()
    with pytest.raises(ResultsError) as caught:
        Results.read(path)
    assert str(caught.value) == f"{path}: schema version 1; this harness reads version 6"
    assert path.read_bytes() == before


def test_nothing_that_is_not_of_the_schema_is_written(tmp_path):
    with pytest.raises(ResultsError, match=f"{FILE_NAME}: not a results file: at layers/0"):
        results_of(layer_result(d_s="large")).write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_kinds_without_a_schema():
    with pytest.raises(TypeError, match="no schema for"):
        schema_of(np.ndarray)


def test_optional():
    assert from_plain(float | None, None) is None
    plain = {"d_threshold": 1, "alpha": 0.1, "margin": 1, "cosine": 0, "partial": True}
    assert from_plain(Criteria | None, plain) == Criteria(1.0, 0.1, 1.0, 0.0, True)


def test_rows_of_a_batch_that_ended_early_hold_nan(tmp_path):
    """No mean may take them for zeros."""
    batch = {
        "long": {"mlp_out": np.ones((2, 3, 4), np.float32)},
        "short": {"mlp_out": np.ones((2, 1, 4), np.float32)},
    }
    write_steps(tmp_path, batch, [5, 7])
    facts = json.loads((tmp_path / "prompt_metadata.json").read_text(encoding="utf-8"))
    assert facts == {"rows": ["long", "short"], "steps": [3, 1]}
    for step in range(3):
        with np.load(tmp_path / step_file(step)) as content:
            assert content.files == ["model.layers.5.mlp.output", "model.layers.7.mlp.output"]
            array = content["model.layers.7.mlp.output"]
        assert array.shape == (2, 1, 4)
        assert (array[0] == 1).all()
        assert (array[1] == 1).all() if step == 0 else np.isnan(array[1]).all()
