"""The whole way from Python, and the controls, versions and causes as pytest runs them."""

import json
import re
import shutil
from collections import Counter
from dataclasses import FrozenInstanceError, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import gemma_mlx
import harness
from gemma_mlx import CheckpointError, RequestError
from harness.analysis.judges import effect_size
from harness.cli import main
from harness.data.activations import AnalysisError
from harness.data.pairs import PairsError, load_pairs
from harness.experiment import Experiment
from harness.plugin import GIVEN_BY
from harness.report.sentences import behaviour_sentence
from harness.results import Results
from harness.results.baseline import find_baseline, load_baseline
from harness.settings import STORE, AnalysisSettings, Criteria
from harness.testing.plan import Plan
from tests.support import builders
from tests.support.builders import document, entry, parsed, two_categories, written
from tests.support.measured import tiny_checkpoint
from tests.support.runs import SHORT, run_pytest

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.filterwarnings("ignore:only .* pairs")

ROOT = Path(harness.__file__).resolve().parent.parent
RESULTS = "alignment_artifact_analysis_results.json"
SETTINGS = AnalysisSettings(replicates=200)
CATEGORIES = ("one", "two", "three")
ALONE = (
    "-p", "no:html", "-p", "no:hypothesispytest", *SHORT, "-c", ROOT / "pytest.ini",
    "--rootdir", ROOT,
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, another of the same shape, a shallower one, and twelve pairs."""
    folder = tmp_path_factory.mktemp("made")
    for name, changes in {
        "model": {},
        "other": {"seed": 2},
        "shallow": {"num_hidden_layers": 1},
    }.items():
        tiny_checkpoint(folder / name, **changes)
    entries = {name: [entry(n) for n in range(i, 12, 3)] for i, name in enumerate(CATEGORIES)}
    written(folder / "pairs.json", document(entries))
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One store for all, so that each thing is collected once."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def analyze(made, store):
    """`harness.analyze` of the small model, in small."""

    def run(model="model", **how):
        defaults = {
            "pairs": made / "pairs.json",
            "max_tokens": 3,
            "settings": SETTINGS,
            "store": store,
        }
        return harness.analyze(made / model, **{**defaults, **how})

    return run


@pytest.fixture(scope="module")
def whole(analyze):
    return analyze()


class TestAnalyze:
    def test_results(self, whole, made):
        assert list(whole) == [(0, "mlp_out"), (1, "mlp_out")]
        assert whole.analysis.settings == SETTINGS
        assert [pair.category for pair in whole.analysis.scored] == [
            pair.category for pair in load_pairs(made / "pairs.json")
        ]
        for (layer, site), result in whole.items():
            assert (result.layer, result.site) == (layer, site)
            assert result.separation.n_pairs == 12
            assert set(result.companions) == {"forced", "prompt_last"}
            assert [transfer.category for transfer in result.transfer] == sorted(CATEGORIES)
            assert len(result.steps) == 3
            assert len(result.quality.cosines) == 12
            assert result.beyond_base is None
        assert {"prompt_words", "response_words"} <= {text.name for text in whole.analysis.text}
        assert whole.analysis.dropped == ()

    def test_activations_are_those_of_the_model(self, whole, made):
        """From the model, a prompt at a time."""
        gemma = gemma_mlx.load(made / "model")
        for row, response in list(enumerate(whole.analysis.responses))[::5]:
            for condition, arm in (("artifact", whole.analysis.activations.artifact),
                                   ("natural", whole.analysis.activations.natural)):  # fmt: skip
                (generation,) = gemma_mlx.generate(
                    gemma, [response.pair.prompt(condition)], max_tokens=3
                )
                assert getattr(response, condition).token_ids == tuple(generation.token_ids)
                for (layer, site), values in zip(whole.analysis.activations.keys, arm, strict=True):
                    expected = generation.activations[site][layer].mean(axis=0)
                    np.testing.assert_allclose(values[row], expected, atol=1e-4)

    def test_provenance(self, whole, made, store):
        facts = whole.analysis.provenance
        assert facts["model"] == str(made / "model")
        assert facts["model_layers"] == 2
        assert facts["unknown_config_keys"] == []
        assert facts["pairs_file"] == "pairs.json"
        assert facts["collection"]["positions"] == "generated"
        assert facts["collection"]["max_tokens"] == 3
        assert facts["analysis"]["replicates"] == 200
        assert (store / facts["run_key"][:24]).is_dir()

    def test_again_from_the_store(self, whole, analyze, monkeypatch):
        def load(*_args, **_kwargs):
            raise AssertionError("the model is loaded")

        monkeypatch.setattr(gemma_mlx, "load_checkpoint", load)
        found = analyze()
        assert found.analysis.results == whole.analysis.results
        assert found.analysis.responses == whole.analysis.responses
        assert whole.analysis.provenance["origin"] == "collected by this run"
        assert found.analysis.provenance["origin"] == "taken from the store"

    @pytest.mark.slow
    def test_a_second_run_in_other_batches(self, whole, analyze, made, tmp_path):
        found = analyze(noise=True)
        for key, result in whole.items():
            noise = found[key].noise
            assert noise.d_b == pytest.approx(result.separation.d, abs=1e-9)
            assert noise.difference == pytest.approx(0, abs=1e-3)
            assert result.noise is None
        experiment = Experiment(
            made / "model", made / "pairs.json", store=tmp_path, max_tokens=3, noise=True
        )
        one, other = (run.plan() for run in (experiment.activations, experiment.noise_activations))
        assert {g for batch in one for g in batch} == {g for batch in other for g in batch}
        assert one != other

    def test_pairs_that_were_loaded_already(self, whole, analyze, made):
        assert (
            analyze(pairs=load_pairs(made / "pairs.json")).analysis.results
            == whole.analysis.results
        )

    def test_layers_and_sites(self, whole, analyze):
        found = analyze(layers=[1, 0], sites=("resid_post", "mlp_out"))
        assert list(found) == [
            (0, "resid_post"), (1, "resid_post"), (0, "mlp_out"), (1, "mlp_out"),
        ]  # fmt: skip
        for key, result in whole.items():
            assert found[key].separation.d == pytest.approx(result.separation.d, abs=1e-6)
            assert found[key].steps == result.steps
        (last,) = analyze(layers=[1])
        assert last == (1, "mlp_out")

    def test_settings(self, analyze):
        settings = AnalysisSettings(replicates=300, level=0.8, seed=3, scale="raw")
        found = analyze(settings=settings)
        assert found.analysis.settings == settings
        assert found.analysis.provenance["analysis"] == {
            "replicates": 300, "level": 0.8, "seed": 3, "scale": "raw", "direction": "mean",
        }  # fmt: skip

    def test_progress(self, analyze):
        seen = []
        analyze(progress=lambda layers: [*seen, *(seen.append(layer) or layer for layer in layers)])
        assert len(seen) == 2

    def test_store_in_the_working_directory(self, analyze, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        analyze(positions="prompt_last", store=STORE)
        assert [file.name for file in tmp_path.iterdir()] == [".artifact_store"]

    def test_is_frozen(self, whole):
        with pytest.raises(FrozenInstanceError):
            whole.criteria = None
        with pytest.raises(FrozenInstanceError):
            whole.analysis.settings = None
        with pytest.raises(FrozenInstanceError):
            whole[0, "mlp_out"].layer = 5
        with pytest.raises(TypeError):
            whole[0, "mlp_out"] = None
        with pytest.raises(KeyError):
            whole[2, "mlp_out"]

    @pytest.mark.skipif(find_spec("pandas") is not None, reason="pandas is installed")
    def test_table_without_pandas(self, whole):
        with pytest.raises(ImportError, match="pandas"):
            whole.to_dataframe()

    def test_table(self, whole):
        pytest.importorskip("pandas")
        frame = whole.to_dataframe()
        assert list(frame["layer"]) == [0, 1]
        assert list(frame["d"]) == [result.separation.d for result in whole.values()]
        assert list(frame["d_forced"]) == [r.companions["forced"].d for r in whole.values()]
        assert list(frame["in_sample_d"]) == [r.in_sample.d for r in whole.values()]

    def test_name_of_the_package(self):
        from harness.experiment import analyze

        assert harness.analyze is analyze
        with pytest.raises(AttributeError, match="nonsense"):
            harness.nonsense  # noqa: B018


class TestPositions:
    def test_forced(self, whole, analyze):
        found = analyze(positions="forced")
        for (key, result), before in zip(found.items(), whole.values(), strict=True):
            assert result.companions == {}
            assert result.separation == before.companions["forced"], key
        for one, before in zip(found.analysis.responses, whole.analysis.responses, strict=True):
            assert one.artifact.token_ids == one.natural.token_ids == before.natural.token_ids
        assert "response_words" not in {text.name for text in found.analysis.text}

    def test_what_was_only_read_is_no_behaviour(self, whole, analyze, tmp_path):
        """Neither terminal, page nor file say that the model wrote the forced text."""
        found = analyze(positions="forced")
        assert whole.analysis.behaviour is not None
        assert found.analysis.behaviour is None
        assert behaviour_sentence(found) == ""
        assert {r.artifact.finish_reason for r in found.analysis.responses} == {"forced"}
        page = found.page()
        assert "What did the model do?" not in page
        assert "The model didn't write these words" in page
        assert page.count("read, not written") == 2 * len(found.analysis.responses)
        assert "read, not written" not in whole.page()
        found.write(tmp_path)
        content = json.loads((tmp_path / RESULTS).read_text())
        assert content["behaviour"] is None
        assert {r["natural"]["finish_reason"] for r in content["responses"]} == {"forced"}
        for result in found.values():
            assert "Look next" not in effect_size(result, Criteria(d_threshold=99)).explanation
        for result in whole.values():
            assert "Look next" in effect_size(result, Criteria(d_threshold=99)).explanation

    def test_prompt_last(self, whole, analyze):
        """Nothing is written, and so nothing is said about responses."""
        found = analyze(positions="prompt_last")
        assert found.analysis.behaviour is None
        assert not any(result.written for result in found.values())
        for result, before in zip(found.values(), whole.values(), strict=True):
            assert result.separation == before.companions["prompt_last"]
            assert len(result.steps) == 1
        assert {response.natural.token_ids for response in found.analysis.responses} == {()}
        assert {text.name for text in found.analysis.text} == {"prompt_words", "prompt_length"}

    def test_companions(self, monkeypatch):
        asked = []
        monkeypatch.setattr(
            Experiment, "collect", lambda self, positions=None: asked.append(positions)
        )
        for positions in ("generated", "forced"):
            experiment = Experiment(positions=positions, companions=("prompt_last",))
            asked.append(tuple(experiment.beside))
        assert asked == [
            "prompt_last", "forced", ("prompt_last", "forced"), "prompt_last", ("prompt_last",),
        ]  # fmt: skip


class TestBaseModel:
    def test_change_from_it(self, analyze, whole):
        base = analyze("other")
        found = analyze(base_model=base.analysis.provenance["model"])
        for key, result in found.items():
            change = result.beyond_base
            assert change.d_b == pytest.approx(whole[key].separation.d)
            assert change.d_a == pytest.approx(base[key].separation.d)
            assert change.difference == pytest.approx(change.d_b - change.d_a)
            assert result.separation == whole[key].separation

    def test_itself(self, analyze, made):
        for result in analyze(base_model=made / "model").values():
            assert result.beyond_base.difference == 0
            assert result.beyond_base.verdict == "equivalent"

    def test_reads_what_the_model_answered(self, made, store):
        experiment = Experiment(
            made / "model",
            made / "pairs.json",
            max_tokens=3,
            base_model=made / "other",
            store=store,
        )
        own, read = experiment.activations.responses(), experiment.base_same_words.responses()
        for pair in experiment.prompt_pairs:
            answer = own[pair.group("natural")].token_ids
            assert read[pair.group("natural")].token_ids == answer
            assert read[pair.group("artifact")].token_ids == answer
        assert read != experiment.base_activations.responses()
        forced = replace(experiment, positions="forced")
        assert forced.base_activations.path == experiment.base_same_words.path
        assert forced.base_same_words is None

    def test_change_from_it_with_the_same_words(self, analyze, made):
        found = analyze(base_model=made / "other")
        forced = analyze(base_model=made / "other", positions="forced")
        for key, result in found.items():
            change = result.beyond_base_same_words
            assert change.d_b == pytest.approx(result.companions["forced"].d)
            assert change.d_a == pytest.approx(forced[key].beyond_base.d_a)
            assert change.d_a != pytest.approx(result.beyond_base.d_a)

    def test_of_another_vocabulary(self, analyze, made, tmp_path):
        other = shutil.copytree(made / "other", tmp_path / "foreign")
        file = other / "tokenizer.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        vocabulary = content["model"]["vocab"]
        words = [word for word in vocabulary if word.isalpha()]
        turned = dict(zip(words, words[1:] + words[:1], strict=True))
        content["model"]["vocab"] = {w: vocabulary[turned.get(w, w)] for w in vocabulary}
        file.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(RequestError, match="a base model needs the model's own vocabulary"):
            analyze(base_model=other)

    def test_of_another_depth(self, analyze, made):
        with pytest.raises(RequestError, match=r"layer 1 doesn't exist; .*/shallow has .* 0 to 0"):
            analyze(base_model=made / "shallow")
        found = analyze(base_model=made / "shallow", layers=[0])
        assert found[0, "mlp_out"].beyond_base.n_pairs == 12


class TestEmbeddedBase:
    def test_is_what_an_embedded_model_was_trained_from(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        experiment = Experiment("tiny-gemma3-aligned")
        assert experiment.base == "tiny-gemma3-base"
        assert replace(experiment, base_model="none").base is None
        assert Experiment("tiny-gemma3-base").base is None

    def test_a_folder_of_its_name_has_none(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "tiny-gemma3-aligned").mkdir()
        assert Experiment("tiny-gemma3-aligned").base is None


class TestAdapter:
    @pytest.fixture(scope="class")
    @classmethod
    def adapter(cls, made):
        return builders.adapter(made / "adapter", made / "model")

    def test_the_base_is_the_model_without_it(self, analyze, whole, adapter):
        found = analyze(adapter=adapter)
        for key, result in found.items():
            change = result.beyond_base
            assert change.d_a == pytest.approx(whole[key].separation.d)
            assert change.d_b == pytest.approx(result.separation.d)
            assert change.d_a != pytest.approx(change.d_b)
        facts = found.analysis.provenance
        assert facts["adapter"] == str(adapter)
        assert facts["base_fingerprint"] == whole.analysis.provenance["model_fingerprint"]
        assert facts["model_fingerprint"] != facts["base_fingerprint"]
        assert len(facts["adapter_fingerprint"]) == 64

    def test_or_another_one_or_none(self, analyze, made, adapter):
        alone = analyze(adapter=adapter, base_model="none")
        other = analyze(adapter=adapter, base_model=made / "other")
        for key, result in alone.items():
            assert result.beyond_base is None
            assert other[key].beyond_base.d_b == pytest.approx(result.separation.d)
        assert alone.analysis.provenance["base_model"] is None

    def test_the_base_is_asked_through_the_adapters_template(self, made, adapter, tmp_path):
        with_template = shutil.copytree(adapter, tmp_path / "adapter")
        template = "{{ bos_token }}Q: {{ messages[0]['content'] }} A:"
        (with_template / "chat_template.jinja").write_text(template)
        experiment = Experiment(made / "model", adapter=with_template)
        for checkpoint in (experiment.checkpoint, experiment.base_checkpoint):
            assert checkpoint.chat_template.text == template


class TestChatTemplate:
    @pytest.fixture
    def bare(self, made, tmp_path):
        """A model without a template, whose weights can't be read."""
        folder = shutil.copytree(made / "model", tmp_path / "bare")
        file = folder / "tokenizer_config.json"
        config = json.loads(file.read_text())
        del config["chat_template"]
        file.write_text(json.dumps(config))
        (folder / "model.safetensors").write_bytes(b"damaged")
        return folder

    @pytest.mark.slow
    def test_without_one_it_is_said_before_weights_are_read(self, checks, bare):
        result = checks("--model", bare)
        assert result.ret == 4
        (line,) = [line for line in result.outlines + result.errlines if "no chat template" in line]
        assert f"{bare}: no chat template" in line
        assert " --chat-template FILE" in line
        assert " --no-chat," in line

    @pytest.mark.slow
    def test_the_options_are_named_as_they_are_typed(self, made, bare, pytester, capsys):
        given = ["--artifact-model", bare, "--artifact-pairs", made / "pairs.json"]
        result = pytester.runpytest_inprocess(
            "-p", "no:cacheprovider", "-p", "harness.plugin", ROOT / "artifact_checks",
            *map(str, given), "--rootdir", str(pytester.path), "--noconftest",
        )  # fmt: skip
        assert " --artifact-chat-template FILE" in errors(result)
        assert " --artifact-no-chat," in errors(result)
        assert main(["collect", *map(str, given)]) == 2
        assert "--chat-template FILE, or turn it off with --no-chat," in capsys.readouterr().err

    def test_in_python_by_their_names_there(self, analyze, bare):
        with pytest.raises(CheckpointError, match=r"chat_template=FILE, .* chat=False,"):
            analyze(bare)

    def test_from_a_file(self, analyze, whole, made):
        file = made / "template.jinja"
        file.write_text("{{ bos_token }}{{ messages[0]['content'] | trim }}")
        found = analyze(chat_template=file).analysis
        facts, before = found.provenance, whole.analysis.provenance
        for name in ("template_fingerprint", "model_fingerprint", "run_key"):
            assert facts[name] != before[name]
        (_, key), *_ = found.keys()
        assert (found.activations.artifact[0] != whole.analysis.activations.artifact[0]).any(), key

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (b"\xff\xfe", "not UTF-8 text"),
            (b"{% if %}", "the chat template fails"),
            (b"{{ raise_exception('no') }}", "the chat template fails"),
            (b"{{ bos_token }}hello", "holds the prompt 0 times"),
        ],
    )
    def test_a_bad_one_is_named(self, analyze, made, tmp_path, text, message):
        file = tmp_path / "bad.jinja"
        file.write_bytes(text)
        with pytest.raises(CheckpointError, match=message) as caught:
            analyze(chat_template=file)
        assert str(file) in str(caught.value)

    def test_none_there(self, analyze, tmp_path):
        with pytest.raises(CheckpointError, match=r"there\.jinja: no such file"):
            analyze(chat_template=tmp_path / "there.jinja")


class TestBadInput:
    def test_no_pairs_file(self, analyze):
        with pytest.raises(PairsError, match=r"nosuch\.json: no such"):
            analyze(pairs="nosuch.json")

    def test_no_model(self, analyze):
        with pytest.raises(CheckpointError, match=r"nosuch: no such folder, .* either$"):
            analyze("nosuch")
        with pytest.raises(CheckpointError, match="the embedded models are tiny-gemma3-aligned, "):
            _ = Experiment("tiny-gemma3-alinged").checkpoint

    def test_layer(self, analyze):
        with pytest.raises(
            RequestError, match=r"layer 2 doesn't exist; .*/model has layers 0 to 1"
        ):
            analyze(layers=[2])

    def test_site(self, analyze):
        with pytest.raises(RequestError, match="nonsense"):
            analyze(sites=["nonsense"])

    def test_too_few_pairs(self, analyze):
        with pytest.raises(AnalysisError, match="7 distinct pairs are too few"):
            analyze(pairs=parsed(two_categories(7)), positions="prompt_last")


@pytest.fixture(scope="module")
def options(made, store):
    return ["--model", made / "model", "--pairs", made / "pairs.json", "--artifact-store", store,
            "--max-tokens", "3", "--replicates", "200"]  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory, options):
    """A directory with a baseline of the model, as a run of pytest left it."""
    folder = tmp_path_factory.mktemp("project")
    code, output = run_pytest(
        folder, *ALONE, ROOT / "artifact_checks", *options, "--artifact-save", "v1",
        "-k", "test_significance",
    )  # fmt: skip
    assert "saved as baseline .artifact_baselines/0001_v1.safetensors" in output
    return folder, code, output


@pytest.fixture(scope="module")
def warm(made):
    """Import what is imported late: runs in this process forget their imports."""
    import matplotlib.backends.backend_agg

    assert matplotlib.backends.backend_agg
    gemma_mlx.load(made / "model")


@pytest.fixture
def checks(pytester, warm, project, options, monkeypatch, quick_pictures):
    """Run checks in this process, in a directory that has the baseline."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.copytree(project[0] / ".artifact_baselines", pytester.path / ".artifact_baselines")

    def run(*arguments, tests="artifact_checks"):
        given = list(map(str, arguments))
        defaults = [part for flag, value in zip(options[::2], options[1::2], strict=True)
                    if flag not in given for part in (flag, str(value))]  # fmt: skip
        return pytester.runpytest_inprocess(
            "-p", "no:cacheprovider", *ALONE, ROOT / tests, *defaults, *given
        )  # fmt: skip

    return run


def results(pytester):
    return json.loads((pytester.path / "artifact_report" / RESULTS).read_text())


def errors(result):
    """What a run that was refused says, on one line."""
    text = f"{result.stdout.str()}\n{result.stderr.str()}"
    assert "Traceback" not in text
    assert "INTERNALERROR" not in text
    found = re.findall(r"^(?:ERROR: |!+ _pytest\.outcomes\.Exit: )(.*?)!*$", text, re.M)
    assert len(found) == 1, text
    return found[0]


def listed(result):
    """Checks that --collect-only lists, how often each."""
    return Counter(
        re.search(r"::(test_\w+)", line)[1] for line in result.outlines if "::test_" in line
    )


REGRESSION = "artifact_checks/test_regression.py"


@pytest.mark.slow
class TestSave:
    def test_run(self, project, made):
        folder, code, output = project
        assert code in (0, 1), output
        found = load_baseline(folder / ".artifact_baselines" / "0001_v1.safetensors")
        assert found.analysis.activations.keys == ((0, "mlp_out"), (1, "mlp_out"))
        assert found.analysis.activations.pairs == load_pairs(made / "pairs.json").pairs
        assert found.analysis.provenance["collection"]["max_tokens"] == 3
        report = Results.read(folder / "artifact_report" / RESULTS)
        assert found.analysis.results == report.analysis.results

    def test_same_as_from_python(self, project, whole):
        found = load_baseline(project[0] / ".artifact_baselines" / "0001_v1.safetensors")
        for there, here in zip(
            found.analysis.activations.natural, whole.analysis.activations.natural, strict=True
        ):
            np.testing.assert_array_equal(there, here)
        for there, here in zip(found.analysis.values(), whole.values(), strict=True):
            assert there.separation.d == here.separation.d
            assert there.separation.p_adjusted == here.separation.p_adjusted

    def test_a_selection_saves_the_whole_family(self, checks, pytester):
        result = checks("--artifact-save", "v1", "-k", "layer_1 and test_significance")
        result.stdout.fnmatch_lines(["saved as baseline .artifact_baselines/0002_v1.safetensors"])
        found = load_baseline(find_baseline("v1", pytester.path / ".artifact_baselines"))
        assert len(found.analysis.activations.keys) == 2

    def test_nothing_is_saved_of_a_run_without_results(self, checks, pytester):
        checks("--artifact-save", "v2", "--collect-only")
        checks("--artifact-save", "v2", "-k", "nosuchcheck")
        assert [f.name for f in (pytester.path / ".artifact_baselines").iterdir()] == [
            "0001_v1.safetensors"
        ]


@pytest.mark.slow
class TestCompare:
    def test_itself_in_a_process_of_its_own(self, project, options):
        folder, *_ = project
        code, output = run_pytest(
            folder, *ALONE, ROOT / REGRESSION, *options, "--artifact-compare", "v1"
        )
        assert code == 0, output
        assert "5 passed" in output
        assert "Against 0001_v1, of 2 layers 2 equivalent, 0 changed, 0 inconclusive" in output
        content = json.loads((folder / "artifact_report" / RESULTS).read_text())
        assert {
            c["comparison"]["difference"] for c in content["comparison"]["layers"].values()
        } == {0}
        page = (folder / "artifact_report" / "report.html").read_text()
        (shown,) = re.findall(r'<h2 id="time">.*?<h2', page, re.DOTALL)
        assert [name in shown for name in ("0001_v1", "this run", "0002")] == [True, True, False]

    @pytest.mark.parametrize("name", ["1", ".artifact_baselines/0001_v1.safetensors"])
    def test_other_names(self, checks, name):
        checks("--artifact-compare", name, tests=REGRESSION).assert_outcomes(passed=5)

    @pytest.fixture
    def other(self, checks, made, pytester):
        """The regression checks of another model, and how its layers compare."""

        def run(*arguments):
            result = checks("--model", made / "other", "--artifact-compare", "v1",
                            "--artifact-margin", "0.01", *arguments, tests=REGRESSION)  # fmt: skip
            layers = results(pytester)["comparison"]["layers"].values()
            assert all(layer["separated"] for layer in layers)
            return result, Counter(
                layer[part]["verdict"] for layer in layers for part in ("comparison", "drift")
            )

        return run

    def test_another_model(self, other):
        result, verdicts = other()
        assert verdicts["inconclusive"] >= 1
        assert verdicts["equivalent"] == 0
        result.assert_outcomes(passed=1 + verdicts["same"], failed=4 - verdicts["same"])
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.re_match_lines(
            [r"layer \d, mlp_out: d went from .*neither within ±0\.01 nor"]
        )

    def test_inconclusive_may_be_skipped(self, other):
        result, verdicts = other("--artifact-inconclusive", "skip", "-rs")
        result.assert_outcomes(
            passed=1 + verdicts["same"],
            failed=verdicts["changed"] + verdicts["turned"],
            skipped=verdicts["inconclusive"],
        )
        result.stdout.re_match_lines([r"SKIPPED .*layer \d, mlp_out: d went from .*more pairs, or"])

    def test_among_all_checks(self, checks, pytester):
        result = checks("--artifact-compare", "v1", "--artifact-save", "v2")
        assert result.parseoutcomes().get("passed", 0) >= 2
        result.stdout.fnmatch_lines(
            ["Against 0001_v1, of 2 layers 2 equivalent*", "saved as baseline *0002_v2*"]
        )

    def test_other_machines_are_a_warning(self, checks, monkeypatch):
        monkeypatch.setattr("platform.python_version", lambda: "3.99.0")
        result = checks("--artifact-compare", "v1", tests=REGRESSION)
        result.assert_outcomes(passed=5, warnings=1)
        result.stdout.fnmatch_lines(["*comparing with 0001_v1: python: * then, 3.99.0 now*"])


@pytest.mark.slow
class TestRefused:
    @pytest.fixture
    def nothing_is_collected(self, monkeypatch):
        def collect(*_args, **_kwargs):
            raise AssertionError("it collects")

        monkeypatch.setattr("harness.experiment.collect", collect)

    @pytest.mark.parametrize("tests", ["artifact_checks", REGRESSION])
    def test_no_such_baseline(self, checks, nothing_is_collected, tests):
        result = checks("--artifact-compare", "v9", tests=tests)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        message = errors(result)
        assert message.startswith("no baseline 'v9' in .artifact_baselines/ (there: 0001_v1)")
        assert message.endswith("pytest artifact_checks --artifact-model PATH --artifact-save v9")

    def test_no_baseline_at_all(self, checks, nothing_is_collected, pytester):
        shutil.rmtree(pytester.path / ".artifact_baselines")
        result = checks("--artifact-compare", "v1", tests=REGRESSION)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert "(there: none); make one" in errors(result)

    @pytest.mark.parametrize(
        ("file", "needed"),
        [
            ("test_regression.py", "--artifact-compare NAME_OR_PATH"),
            ("test_causality.py", "-m causal"),
        ],
    )
    def test_checks_without_their_input_say_what_to_give(self, checks, file, needed):
        result = checks(tests=f"artifact_checks/{file}")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert errors(result) == f"{file}: its checks need {needed}"

    def test_an_input_that_there_is_not(self, pytester):
        pytester.makepyfile(
            """
            from harness.plugin import needs


            @needs("nonsense")
            def test_mine(layer_result):
                pass
            """
        )
        result = pytester.runpytest(*ALONE)
        assert result.ret == pytest.ExitCode.INTERRUPTED
        assert "Traceback" not in result.stdout.str()
        assert "AttributeError" not in result.stdout.str()
        result.stdout.fnmatch_lines(
            ["needs('nonsense'): there is no such input; a check can need adapter, *words_differ"]
        )

    @pytest.mark.parametrize("needed", list(GIVEN_BY))
    def test_every_input_can_be_asked_for(self, needed):
        plan = Plan(Experiment("model"), *[None] * 7)
        plan.gives(needed)

    def test_by_the_name_of_the_module(self, pytester):
        result = pytester.runpytest("--pyargs", "artifact_checks.test_regression", *ALONE)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert "test_regression.py: its checks need --artifact-compare" in errors(result)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--max-tokens", "2"], r"number of tokens \(3 there, 2 here\)"),
            (["--no-chat"], r"use of the chat template \(True there, False here\)"),
            (["--positions", "forced"], r"positions \(generated there, forced here\)"),
            (["--site", "resid_post"], "has no layer_0-resid_post, layer_1-resid_post"),
        ],
    )
    def test_settings_that_differ(self, checks, nothing_is_collected, arguments, message):
        result = checks("--artifact-compare", "v1", *arguments, tests=REGRESSION)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert re.search(rf"0001_v1\.safetensors: .*{message}", errors(result))

    def test_other_pairs(self, checks, nothing_is_collected, tmp_path):
        pairs = written(tmp_path / "others.json", two_categories(12))
        result = checks("--artifact-compare", "v1", "--pairs", pairs)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert "different prompt pairs" in errors(result)

    def test_damaged_baseline(self, checks, nothing_is_collected, pytester):
        file = pytester.path / ".artifact_baselines" / "0001_v1.safetensors"
        file.write_bytes(file.read_bytes()[:-10])
        result = checks("--artifact-compare", "v1")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert "not a baseline, or damaged" in errors(result)

    def test_base_model_that_cannot_be_used(self, checks, made):
        result = checks("--base-model", made / "shallow")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert re.search("layer 1 doesn't exist; .*/shallow has layers 0 to 0", errors(result))


ALWAYS = {
    "test_effect_size": 2,
    "test_alike_pairs": 2,
    "test_accuracy": 2,
    "test_significance": 2,
    "test_same_words": 2,
    "test_behaviour": 2,
    "test_category_transfer": 2,
}


@pytest.mark.slow
class TestInputs:
    """Checks are collected where what they need is given."""

    @pytest.mark.parametrize(
        ("arguments", "more"),
        [
            ([], {}),
            (["--base-model", "x/y"], {"test_beyond_base": 2}),
            (["--positions", "forced"], {"test_same_words": 0, "test_behaviour": 0}),
            (["--positions", "generated", "--positions", "forced"], {"test_positions": 2}),
            (
                ["--positions", "generated", "--positions", "forced", "--positions", "prompt_last"],
                {"test_positions": 4},
            ),
            (
                ["--artifact-compare", "v1"],
                {"test_covers_baseline": 1, "test_unchanged": 2, "test_same_direction": 2},
            ),
            (["-m", "not causal"], {}),
        ],
    )
    def test_are_asked_for(self, checks, arguments, more):
        expected = {name: count for name, count in {**ALWAYS, **more}.items() if count}
        assert listed(checks("--collect-only", "-q", *arguments)) == expected

    def test_causal_alone(self, checks):
        found = listed(checks("--collect-only", "-q", "-m", "causal"))
        assert found == {"test_addition": 2, "test_ablation": 2}

    def test_names(self, checks):
        result = checks(
            "--collect-only", "-q", "--positions", "generated", "--positions", "forced",
            "--layers", "1",
        )  # fmt: skip
        text = result.stdout.str()
        assert "test_positions[layer_1-mlp_out-forced]" in text

    def test_ini(self, checks, pytester):
        text = (ROOT / "pytest.ini").read_text() + "artifact_recollect = true\n"
        found = checks("--collect-only", "-q", "-c", pytester.makefile(".ini", mine=text))
        assert found.ret in (0, 4, 5)


@pytest.mark.slow
class TestControls:
    def test_base_model_and_positions(self, checks, made, pytester):
        result = checks(
            "--base-model", made / "other", "--positions", "generated",
            "--positions", "prompt_last", "-k", "same_words or beyond_base or positions",
        )  # fmt: skip
        outcomes = result.parseoutcomes()
        assert outcomes.get("passed", 0) + outcomes["failed"] == 2 + 2 + 2
        assert "errors" not in outcomes
        layer, _ = results(pytester)["layers"]
        assert set(layer["companions"]) == {"forced", "prompt_last"}
        assert layer["beyond_base"]["n_pairs"] == 12
        result.stdout.re_match_lines([r"layer \d, mlp_out: .* beyond that of the base model, "])

    @pytest.mark.parametrize("positions", ["forced", "prompt_last"])
    def test_other_positions_alone(self, checks, pytester, positions):
        result = checks("--positions", positions, "-k", "test_significance")
        assert result.ret in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        assert results(pytester)["provenance"]["collection"]["positions"] == positions
        assert results(pytester)["layers"][0]["companions"] == {}


@pytest.mark.slow
class TestCausal:
    def test_measures_the_family_whatever_is_selected(self, checks, pytester, whole, made):
        result = checks("-m", "causal", "-k", "layer_1", "--artifact-random-directions", "30")
        outcomes = result.parseoutcomes()
        assert outcomes.get("passed", 0) + outcomes.get("failed", 0) == 2
        found = results(pytester)["interventions"]
        assert list(found) == ["layer_0-mlp_out", "layer_1-mlp_out"]
        for effects in found.values():
            assert [effect["kind"] for effect in effects] == ["add", "ablate"]
            assert {effect["n_random"] for effect in effects} == {30}

    @pytest.mark.parametrize("markers", ["causal", "not causal", "not  causal", ""])
    def test_so_few_directions_that_nothing_could_pass(self, checks, markers):
        result = checks("-m", markers, "--artifact-random-directions", "19", "--collect-only", "-q")
        if markers == "causal":
            assert result.ret == pytest.ExitCode.USAGE_ERROR
            assert (
                "--artifact-random-directions 19: no p among so few can be below --alpha 0.05; 20 "
                "would do"
            ) in errors(result)
        else:
            assert result.ret == pytest.ExitCode.OK

    def test_an_alpha_that_the_directions_cannot_reach(self, checks):
        result = checks("-m", "causal", "--alpha", "0.001", "--collect-only")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert "--artifact-random-directions 200: " in errors(result)
        assert "below --alpha 0.001; 1000 would do" in errors(result)
        more = ("--alpha", "0.001", "--artifact-random-directions", "1000")
        assert checks("-m", "causal", *more, "--collect-only", "-q").ret == pytest.ExitCode.OK

    def test_a_run_without_it_measures_nothing(self, checks, pytester, monkeypatch):
        def measure(*_args, **_kwargs):
            raise AssertionError("it measures")

        monkeypatch.setattr("harness.analysis.causality.causal_effects", measure)
        checks("-k", "layer_1")
        assert results(pytester)["interventions"] == {}

    def test_positions_at_which_nothing_is_written(self, checks):
        result = checks("-m", "causal", "--positions", "prompt_last")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert "0 pairs have two different answers" in errors(result)
