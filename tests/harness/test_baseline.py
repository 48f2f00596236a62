"""Saved runs: kept to the last bit, never overwritten, refused by name where they are damaged."""

import contextlib
import json
import math
import os
import random
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from gemma_mlx.errors import UserError
from harness.analysis.layers import layer_id
from harness.data.activations import PairActivations
from harness.data.pairs import Pair
from harness.results import Results, baseline
from harness.results.baseline import (
    BaselineError,
    check_name,
    compare_with,
    find_baseline,
    load_baseline,
    save_baseline,
)
from harness.settings import AnalysisSettings, Criteria
from tests.support.measured import analysis_from, measured

pytestmark = pytest.mark.filterwarnings("ignore:only .* pairs")
CRITERIA = Criteria(d_threshold=0.7, alpha=0.01)
KEYS = ((0, "mlp_out"), (1, "mlp_out"))
MEASURED = measured(dict.fromkeys(KEYS, 2.0))
RESULTS = Results(analysis_from(MEASURED, failed=[KEYS[1]]), CRITERIA)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


class TestRoundTrip:
    def test_to_the_last_bit(self, tmp_path):
        pairs = tuple(
            Pair("ärzt", f"q{n}", f"naïve “{n}”\n", f'quote " \\ 😀 {n}') for n in range(3)
        )
        wide = np.array([[1 / 3, -0.0, 5e-324], [1e300, -1e-300, 0.1], [np.pi, 2**53 + 1, 0.0]])
        narrow = np.asfortranarray([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
        activations = PairActivations(
            pairs,
            ((3, "mlp_post"), (12, "resid_post")),
            (wide, narrow),
            (-wide, np.random.default_rng(0).standard_normal((3, 4))[:, ::2]),
            (0, 1, 1),
        )
        file = save_baseline("v1", Results(analysis_from(activations), CRITERIA), tmp_path)
        found = load_baseline(file)
        assert found.path == file
        assert found.name == "0001_v1"
        assert found.analysis.activations.pairs == pairs
        assert found.analysis.activations.keys == activations.keys
        for there, here in zip(
            (*found.analysis.activations.artifact, *found.analysis.activations.natural),
            (*activations.artifact, *activations.natural),
            strict=True,
        ):
            assert there.dtype == np.float64
            assert there.shape == here.shape
            assert there.tobytes() == here.tobytes(), "in C order"

    def test_results_are_inside(self, tmp_path):
        odd = {"d_z": math.inf, "p_se": math.nan}
        analysis = analysis_from(MEASURED, **odd, changes={"model": "ä/model"})
        results = Results(analysis, CRITERIA)
        path = save_baseline("v1", results, tmp_path)
        with safe_open(path, framework="numpy") as file:
            there = json.loads(file.metadata()["baseline"])["results"]
        assert there == json.loads(json.dumps(results.to_json()))
        assert there["criteria"] == asdict(CRITERIA)
        assert there["layers"][0]["separation"]["d_z"] == "inf"
        assert there["layers"][0]["separation"]["p_se"] is None
        found = load_baseline(path)
        assert Results(found.analysis, CRITERIA).to_json() == there
        assert found.analysis.provenance["model"] == "ä/model"
        assert found.layer_count == 2

    def test_layers_that_separate(self, tmp_path):
        found = load_baseline(save_baseline("v1", RESULTS, tmp_path))
        assert found.criteria == CRITERIA
        assert found.separates(CRITERIA) == {KEYS[0]}
        assert found.separates(Criteria(d_threshold=99)) == set()

    def test_same_run_same_bytes(self, tmp_path):
        one, other = (save_baseline(name, RESULTS, tmp_path) for name in ("a", "b"))
        assert one.read_bytes() == other.read_bytes()

    def test_where_they_lie(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert save_baseline("v1", RESULTS) == Path(".artifact_baselines/0001_v1.safetensors")
        assert find_baseline("v1").is_file()


class TestNumbers:
    @pytest.fixture
    def folder(self, tmp_path):
        for name in ("one", "two", "one", "v1.2_x-y", "7"):
            save_baseline(name, RESULTS, tmp_path)
        return tmp_path

    def test_go_up(self, folder):
        assert sorted(contents(folder)) == [
            "0001_one.safetensors",
            "0002_two.safetensors",
            "0003_one.safetensors",
            "0004_v1.2_x-y.safetensors",
            "0005_7.safetensors",
        ]

    @pytest.mark.parametrize(
        ("asked", "number"),
        [
            ("one", 3),
            ("two", 2),
            ("v1.2_x-y", 4),
            ("1", 1),
            ("0001", 1),
            ("4", 4),
            ("0002_two", 2),
            ("0001_one", 1),
            ("7", 5),
        ],
    )
    def test_find(self, folder, asked, number):
        assert find_baseline(asked, folder).name.startswith(f"{number:04d}_")

    def test_path(self, folder, tmp_path_factory, monkeypatch):
        moved = tmp_path_factory.mktemp("elsewhere") / "kept.safetensors"
        shutil.copy(folder / "0002_two.safetensors", moved)
        assert find_baseline(str(moved), folder) == moved
        monkeypatch.chdir(moved.parent)
        assert find_baseline("kept.safetensors", folder) == Path("kept.safetensors")
        assert load_baseline(moved).name == "kept"

    def test_other_files_are_no_baselines(self, folder):
        for name in ("0009.safetensors", "x_0009_y.safetensors", "0009_x.safetensors.12.tmp",
                     "009_x.safetensors", "0009_x.txt"):  # fmt: skip
            (folder / name).write_text("")
        assert save_baseline("next", RESULTS, folder).name == "0006_next.safetensors"

    def test_gaps_are_not_filled(self, folder):
        (folder / "0002_two.safetensors").unlink()
        assert save_baseline("next", RESULTS, folder).name == "0006_next.safetensors"

    def test_beyond_four_digits(self, folder):
        (folder / "0005_7.safetensors").rename(folder / "9999_old.safetensors")
        assert save_baseline("new", RESULTS, folder).name == "10000_new.safetensors"
        assert save_baseline("new", RESULTS, folder).name == "10001_new.safetensors"
        assert find_baseline("new", folder).name == "10001_new.safetensors"

    def test_nothing_is_overwritten(self, folder):
        before = contents(folder)
        new = save_baseline("one", Results(analysis_from(MEASURED), CRITERIA), folder)
        assert new.name not in before
        assert before.items() <= contents(folder).items()

    def test_none(self, tmp_path):
        with pytest.raises(BaselineError) as caught:
            find_baseline("v1", tmp_path / "none")
        message = str(caught.value)
        assert "no baseline 'v1' in" in message
        assert "there: none" in message
        assert message.endswith("pytest artifact_checks --artifact-model PATH --artifact-save v1")

    @pytest.mark.parametrize("asked", ["three", "9", "0", "²", "", "ONE"])
    def test_another(self, folder, asked):
        with pytest.raises(BaselineError, match=r"0001_one, 0002_two, .*--artifact-save"):
            find_baseline(asked, folder)

    def test_no_command_that_would_be_refused(self, folder):
        with pytest.raises(BaselineError, match=r"--artifact-save NAME$"):
            find_baseline("not a name", folder)

    @pytest.mark.parametrize("asked", ["kept.safetensors", "some/where", "/no/such/file"])
    def test_no_such_file(self, folder, asked):
        with pytest.raises(BaselineError, match="no such baseline file") as caught:
            find_baseline(asked, folder)
        assert asked in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".x", "-x", "_x", "a/b", "../x", "a b", "ü", "a\n", "a\0", "a:b", "x" * 101],
)
def test_bad_names(tmp_path, name):
    with pytest.raises(BaselineError, match="use letters, digits, dots, dashes"):
        check_name(name)
    with pytest.raises(BaselineError):
        save_baseline(name, RESULTS, tmp_path)
    assert contents(tmp_path) == {}


def test_good_names():
    for name in ("a", "7", "v1.2_x-Y", "x" * 100):
        check_name(name)


def rewritten(path: Path, change_header=lambda header: None, change_tensors=lambda t: None):
    """A baseline at `path` whose parts were changed after it was made."""
    tensors = {}
    for arm, arrays in (("artifact", MEASURED.artifact), ("natural", MEASURED.natural)):
        for key, array in zip(KEYS, arrays, strict=True):
            tensors[f"{arm}/{layer_id(*key)}"] = array.copy()
    header = {
        "format": baseline.FORMAT,
        "pairs": [
            [p.category, p.id, p.natural, p.artifact, n] for n, p in enumerate(MEASURED.pairs)
        ],
        "keys": [list(key) for key in KEYS],
        "results": RESULTS.to_json(),
    }
    changed = change_header(header)
    change_tensors(tensors)
    save_file(tensors, path, {"baseline": json.dumps(header if changed is None else changed)})
    return path


def put(name, how):
    """A change to one tensor."""

    def change(tensors):
        tensors[name] = np.ascontiguousarray(how(tensors[name]))

    return change


def nan_at_the_end(array):
    array[-1, -1] = np.nan
    return array


def infinite(array):
    array[0, 0] = -np.inf
    return array


BAD_HEADERS = {
    "is a list": (lambda h: [h], ""),
    "is nothing": (lambda h: {}, ""),
    "other format": (lambda h: {**h, "format": 99}, "format 99, this version reads 5"),
    "no format": (lambda h: h.pop("format") and None, "format"),
    "no pairs": (lambda h: h.pop("pairs") and None, "pairs"),
    "no keys": (lambda h: h.pop("keys") and None, "keys"),
    "no results": (lambda h: h.pop("results") and None, "results"),
    "pair of three texts": (lambda h: h["pairs"][2].pop() and None, ""),
    "a cluster of a text": (lambda h: h["pairs"][2].__setitem__(4, "x"), ""),
    "pair too few": (lambda h: h["pairs"].pop() and None, "16, 12"),
    "pair too many": (lambda h: h["pairs"].append(["one", "q99", "x", "y", 16]), "17 pairs"),
    "a key of one part": (lambda h: h.update(keys=[[0], [1]]), ""),
    "a key of no layer": (lambda h: h.update(keys=[["x", "mlp_out"], [1, "mlp_out"]]), ""),
    "a key too many": (lambda h: h["keys"].append([2, "mlp_out"]), "layer_2-mlp_out"),
    "a key too few": (lambda h: h["keys"].pop() and None, "name other layers"),
    "another key": (lambda h: h.update(keys=[[0, "mlp_out"], [1, "attn_out"]]), "layer_1-attn_out"),
    "results of other layers": (
        lambda h: h["results"]["layers"][0].update(id="layer_5-mlp_out", layer=5),
        "name other layers",
    ),
    "a layer by the name of another": (
        lambda h: h["results"]["layers"][0].update(layer=5),
        "layer_0-mlp_out is said to be layer 5",
    ),
    "a d that is a text": (
        lambda h: h["results"]["layers"][0]["separation"].update(d="large"),
        "separation/d",
    ),
    "a d beyond any float": (
        lambda h: h["results"]["layers"][0]["separation"].update(d=10**400),
        "an integer of 401 digits",
    ),
    "a transfer without its category": (
        lambda h: h["results"]["layers"][0].update(transfer=[{"d": 1.0}]),
        "transfer/0",
    ),
    "half a surrogate pair": (
        lambda h: h["results"]["provenance"].update(model="\ud800"),
        "half a surrogate pair",
    ),
    "a model of no layers": (
        lambda h: h["results"]["provenance"].update(model_layers=0),
        "model_layers can't be 0",
    ),
    "a model of many layers": (
        lambda h: h["results"]["provenance"].update(model_layers=10**9),
        "model_layers can't be 1000000000",
    ),
    "results without layers": (lambda h: h["results"].pop("layers") and None, "layers"),
    "results without a verdict": (
        lambda h: h["results"]["layers"][0].pop("verdict") and None,
        "verdict",
    ),
    "results without provenance": (lambda h: h["results"].pop("provenance") and None, "provenance"),
}
BAD_TENSORS = {
    "absent": (lambda t: t.pop("natural/layer_1-mlp_out") is None, "natural/layer_1-mlp_out"),
    "one pair less": (
        put("artifact/layer_1-mlp_out", lambda a: a[1:]),
        "layer_1-mlp_out has shapes",
    ),
    "arms of two widths": (put("natural/layer_0-mlp_out", lambda a: a[:, 1:]), "(16, 11)"),
    "whole numbers": (
        put("natural/layer_0-mlp_out", lambda a: a.astype(np.int64)),
        "layer_0-mlp_out holds float64 and int64, not floats",
    ),
    "flat": (put("artifact/layer_0-mlp_out", np.ravel), "(192,)"),
    "flat in the other arm": (put("natural/layer_0-mlp_out", np.ravel), "(192,)"),
    "three axes": (put("artifact/layer_0-mlp_out", lambda a: a[None]), "(1, 16, 12)"),
    "a single number": (put("artifact/layer_0-mlp_out", lambda a: a[0, 0]), "shapes (1,)"),
    "NaN": (put("natural/layer_1-mlp_out", nan_at_the_end), "layer_1-mlp_out holds NaN"),
    "infinity": (put("artifact/layer_0-mlp_out", infinite), "layer_0-mlp_out holds NaN"),
}
BAD_BYTES = {
    "empty": lambda whole: b"",
    "one byte": lambda whole: whole[:1],
    "header alone": lambda whole: whole[: 8 + int.from_bytes(whole[:8], "little")],
    "half": lambda whole: whole[: len(whole) // 2],
    "last byte lost": lambda whole: whole[:-1],
    "a byte too much": lambda whole: whole + b"x",
    "header that never ends": lambda whole: b"\xff" * 8 + whole[8:],
    "something else": lambda whole: b"PK\x03\x04" + whole,
    "noise": lambda whole: random.Random(0).randbytes(5000),
    "text": lambda whole: b"see the other folder\n" * 100,
}


class TestDamage:
    @pytest.fixture
    def file(self, tmp_path):
        return tmp_path / "0001_mine.safetensors"

    def refused(self, file, part=""):
        with pytest.raises(BaselineError) as caught:
            load_baseline(file)
        assert str(file) in str(caught.value)
        assert part in str(caught.value)

    def test_none(self, file):
        """What the other tests change is sound before."""
        found = load_baseline(rewritten(file))
        assert found.analysis.activations.pairs == MEASURED.pairs
        np.testing.assert_array_equal(found.analysis.activations.natural[1], MEASURED.natural[1])

    @pytest.mark.parametrize("name", BAD_HEADERS)
    def test_header(self, file, name):
        change, part = BAD_HEADERS[name]
        self.refused(rewritten(file, change_header=change), part)

    def test_format_of_before(self, file):
        """Refused in one line, and left as it is."""
        rewritten(file, change_header=lambda h: {**h, "format": 1})
        before = file.read_bytes()
        with pytest.raises(BaselineError) as caught:
            load_baseline(file)
        assert str(caught.value) == f"{file}: baseline format 1, this version reads 5"
        assert file.read_bytes() == before

    @pytest.mark.parametrize("name", BAD_TENSORS)
    def test_activations(self, file, name):
        change, part = BAD_TENSORS[name]
        self.refused(rewritten(file, change_tensors=change), part)

    @pytest.mark.parametrize("name", BAD_BYTES)
    def test_bytes(self, file, name):
        file.write_bytes(BAD_BYTES[name](rewritten(file).read_bytes()))
        self.refused(file)

    def test_no_metadata(self, file):
        save_file({"x": np.zeros(3)}, file)
        self.refused(file)

    def test_other_metadata(self, file):
        save_file({"x": np.zeros(3)}, file, {"format": "pt"})
        self.refused(file)

    @pytest.mark.parametrize("text", ["", "{", "null", "3", '"text"', "[" * 100_000])
    def test_metadata_that_is_no_object(self, file, text):
        save_file({"x": np.zeros(3)}, file, {"baseline": text})
        self.refused(file)

    def test_no_file(self, file):
        self.refused(file)

    def test_a_folder(self, file):
        file.mkdir()
        self.refused(file)

    def test_flipped_bits_are_refused_or_harmless(self, file):
        """Whatever happens, it is no other error."""
        whole = rewritten(file).read_bytes()
        chance = random.Random(1)
        header = int.from_bytes(whole[:8], "little")
        refused = 0
        for _ in range(80):
            spoilt = bytearray(whole)
            spoilt[chance.randrange(8 + header)] ^= 1 << chance.randrange(8)
            file.write_bytes(spoilt)
            with contextlib.suppress(BaselineError):
                load_baseline(file)
                continue
            refused += 1
        assert refused > 10


SAVE_MANY = """
import os, sys, time
from pathlib import Path
from harness.results import Results
from harness.results.baseline import save_baseline
from harness.settings import Criteria
from tests.support.measured import analysis_from, measured

results = Results(analysis_from(measured({(0, "mlp_out"): 2.0})), Criteria())
folder, name, ready = sys.argv[1:]
Path(ready, str(os.getpid())).touch()
while len(list(Path(ready).iterdir())) < 3:
    time.sleep(0.001)
for _ in range(15):
    save_baseline(name, results, Path(folder))
"""


class TestAtomic:
    @pytest.mark.parametrize("call", ["fsync", "replace"])
    def test_nothing_is_left_of_a_failed_one(self, tmp_path, monkeypatch, call):
        save_baseline("v1", RESULTS, tmp_path)
        before = contents(tmp_path)

        def full(*_args, **_kwargs):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), full)
        with pytest.raises(UserError, match="No space left"):
            save_baseline("v1", RESULTS, tmp_path)
        assert contents(tmp_path) == before

    def test_interrupted(self, tmp_path, monkeypatch):
        def interrupt(*_args):
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save_baseline("v1", RESULTS, tmp_path)
        assert contents(tmp_path) == {}

    @pytest.mark.slow
    def test_two_processes_at_once(self, tmp_path):
        """Every run is kept, under a number of its own, whatever its name."""
        ready = tmp_path / "ready"
        ready.mkdir()
        savers = [
            subprocess.Popen([sys.executable, "-c", SAVE_MANY, str(tmp_path), name, str(ready)])
            for name in ("same", "same", "other")
        ]
        assert [saver.wait() for saver in savers] == [0, 0, 0]
        saved = [file.name for file in tmp_path.glob("*.safetensors")]
        assert sorted(int(name[:4]) for name in saved) == list(range(1, 46))
        assert len(list(tmp_path.glob("*_same.safetensors"))) == 30

    def test_folder_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="cannot be written"):
            save_baseline("v1", RESULTS, tmp_path / "file")


class TestCompareWith:
    @pytest.fixture
    def saved(self, tmp_path):
        return load_baseline(save_baseline("v1", RESULTS, tmp_path))

    def test_itself(self, saved):
        found = compare_with(saved, RESULTS)
        assert (found.a, found.b) == ("0001_v1", "this run")
        assert {c.comparison.verdict for c in found.layers.values()} == {"equivalent"}
        assert {c.comparison.difference for c in found.layers.values()} == {0.0}
        assert found.gained == found.lost == found.warnings == ()

    def test_both_are_judged_by_the_criteria_of_this_run(self, saved):
        found = compare_with(saved, Results(analysis_from(MEASURED), CRITERIA))
        assert found.gained == ("layer_1-mlp_out",)
        strict = compare_with(saved, replace(RESULTS, criteria=Criteria(d_threshold=99)))
        assert strict.gained == strict.lost == ()
        assert not any(layer.separated for layer in strict.layers.values())

    def test_names_the_file_and_what_differs(self, saved):
        other = analysis_from(MEASURED, changes={"collection.max_tokens": 7})
        with pytest.raises(
            BaselineError, match=r"0001_v1\.safetensors: .*number of tokens \(20 .* 7"
        ):
            compare_with(saved, Results(other, CRITERIA))

    def test_level_is_that_of_this_run(self, saved):
        other = analysis_from(measured(dict.fromkeys(KEYS, 2.0), seed=1))
        narrow, wide = (
            compare_with(
                saved, Results(replace(other, settings=AnalysisSettings(level=level)), CRITERIA)
            )
            .layers[KEYS[0]]
            .comparison.interval
            for level in (0.8, 0.99)
        )
        assert wide[0] < narrow[0] < narrow[1] < wide[1]
