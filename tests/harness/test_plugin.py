"""The checks as people run them: whole runs, selections, options, and what is said of bad input."""

import json
import os
import pickle
import re
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import matplotlib.image
import pytest

import gemma_mlx
from gemma_mlx import Checkpoint
from harness import Experiment, options, plugin
from harness.collect import collect
from harness.data.pairs import load_pairs
from harness.data.store import StoreError
from harness.progress import SILENT
from harness.results.provenance import ALL_REUSED
from harness.results.tokens import TOKENS_NAME
from harness.settings import INTERRUPTED, CollectSettings
from harness.testing.session import PytestOptions, session_of
from tests.support import forked
from tests.support.builders import (
    document,
    entry,
    first_pairs,
    layer_result,
    results_of,
    two_categories,
    written,
)
from tests.support.checkpoints import config as model_config
from tests.support.pages import Page
from tests.support.runs import (
    ALIGNED,
    BASE,
    OPTIONS,
    PAIRS,
    PLOT,
    QUICK,
    RESULTS,
    ROOT,
    SHORT,
    VECTOR,
    run_checks,
    run_checks_anew,
    run_pytest,
)

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.filterwarnings("ignore:only .* pairs")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One store for all runs of this module, so that each thing is collected once."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def some_pairs(tmp_path_factory):
    """Three of the shipped pairs of each category."""
    return written(tmp_path_factory.mktemp("pairs") / "pairs.json", first_pairs(3))


@pytest.fixture(scope="module")
def on_base(tmp_path_factory, store, some_pairs):
    return run_checks_anew(
        tmp_path_factory.mktemp("base"), "--model", BASE, "--pairs", some_pairs,
        "--artifact-store", store, "--junitxml", "junit.xml", *QUICK,
    )  # fmt: skip


@pytest.fixture(scope="module")
def on_aligned(tmp_path_factory, store):
    folder = tmp_path_factory.mktemp("aligned")
    return run_checks(folder, "--max-tokens", 12, "--replicates", 500)


@pytest.fixture(scope="module")
def warm(small_checkpoint):
    """Import what loading and drawing import late: runs in this process forget their imports."""
    import huggingface_hub.errors
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg

    assert huggingface_hub.errors
    assert matplotlib.backends.backend_agg
    assert matplotlib.backends.backend_svg
    gemma_mlx.load_checkpoint(small_checkpoint)


@pytest.fixture
def checks(pytester, warm, store, monkeypatch):
    """Run the checks in this process, reports going to `report` in the test's directory. Options
    go by their short names."""
    # As HF_HUB_OFFLINE=1 does, which is read on import.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def run(*arguments, report="report", tests=(ROOT / "artifact_checks",)):
        given = list(map(str, arguments))
        defaults = {
            "--model": BASE,
            "--artifact-store": store,
            "--artifact-report": report,
            "-c": ROOT / "pytest.ini",
            "--rootdir": ROOT,
        }
        for flag, value in defaults.items():
            if flag not in given:
                given += [flag, str(value)]
        # Hypothesis would be imported anew by every run.
        without = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")
        return pytester.runpytest_inprocess(*without, *SHORT, *tests, *given)

    return run


def selected(result) -> set[str]:
    """Names of the checks that --collect-only lists."""
    return {match for line in result.outlines for match in re.findall(r"::(test_\S+)$", line)}


def layers_of(result) -> set[int]:
    return {int(re.search(r"\[layer_(\d+)-", name)[1]) for name in selected(result)}


@pytest.mark.slow
class TestOnBase:
    def test_fails(self, on_base):
        assert on_base.code == pytest.ExitCode.TESTS_FAILED

    def test_says_why(self, on_base):
        said = re.search(r"^layer 0, mlp_out: d = (\S+) \[(.*), (.*)\] .*$", on_base.output, re.M)
        assert abs(float(said[1])) < 0.5
        assert "lies below the threshold 0.8" in said[0]
        assert "(n = 15 pairs)" in said[0]
        assert re.search(r"^layer 0, mlp_out: accuracy = .* chance", on_base.output, re.M)
        assert re.search(
            r"^layer 0, mlp_out: family-wise p = .* not below 0.05", on_base.output, re.M
        )

    def test_like_failures_are_said_once(self, on_base):
        by_id = {entry["id"]: entry["separation"] for entry in on_base.results["layers"]}
        ends = [find(layer["d"] for layer in by_id.values()) for find in (min, max)]
        low, high = (f"{0 if abs(end) < 0.005 else end:.2f}" for end in ends)
        assert f"\ntest_effect_size: 8 of 8 layers, d {low} to {high}\n" in on_base.output
        assert len(re.findall("^layer [0-9], mlp_out: d = ", on_base.output, re.M)) == 1
        assert len(re.findall("^FAILED .*::test_effect_size", on_base.output, re.M)) == 8

    def test_the_ladder_is_at_the_end(self, on_base):
        *_, ladder = on_base.output.rpartition("::test_significance[layer_7-mlp_out]")
        assert re.findall(r"^[✗?✓·–]  .*?(?=  )", ladder, re.M) == [
            "✗  separate",
            "✗  across the categories",
            "✗  beyond the words",
            "–  beyond the base model",
            "·  where the model evades",
            "–  used by the model",
        ]

    def test_message_is_not_a_bare_assertion(self, on_base):
        assert "assert " not in on_base.output
        assert "Traceback" not in on_base.output

    def test_one_line_per_layer_at_the_end(self, on_base):
        lines = re.findall(r"^layer_(\d)-mlp_out .*  ✗ .* – +· +–$", on_base.output, re.M)
        assert lines == list("01234567")
        assert re.search(r"^0 of 8 layers separate .* n = 15 pairs\.$", on_base.output, re.M)


@pytest.mark.slow
class TestOnAligned:
    def test_passes_but_where_only_the_words_differ(self, on_aligned):
        """The first layers know little but the token that they read, and in layer 5 the base model
        tells the prompts apart with the same words, too."""
        assert on_aligned.code == pytest.ExitCode.TESTS_FAILED, on_aligned.output[-3000:]
        failed = re.findall(r"^FAILED .*::(\S+)", on_aligned.output, re.M)
        assert failed == [
            *(f"test_same_words[layer_{n}-mlp_out]" for n in (0, 1)),
            *(f"test_beyond_base[layer_{n}-mlp_out]" for n in (0, 1, 5)),
        ]

    def test_every_layer_separates(self, on_aligned):
        content = on_aligned.results
        claims = [entry["claims"] for entry in content["layers"]]
        for name in ("separates", "across_categories"):
            assert [claim[name]["outcome"] for claim in claims] == ["passed"] * 8
        shown = [entry["layer"] for entry in content["layers"] if entry["verdict"] == "passed"]
        assert shown == [2, 3, 4, 6, 7]
        by_id = {entry["id"]: entry["separation"] for entry in content["layers"]}
        assert by_id["layer_6-mlp_out"]["d"] > 2.5
        assert len(content["pairs"]["scored"]) >= 60

    def test_the_models_are_named(self, on_aligned):
        (title,) = re.findall(r"^=+ (alignment artifacts: .*?) =+$", on_aligned.output, re.M)
        assert re.sub(r"\(\w{8}\)", "()", title) == (
            "alignment artifacts: tiny-gemma3-aligned (), base model tiny-gemma3-base"
        )

    def test_default_places(self, on_aligned):
        left = {file.name for file in on_aligned.folder.parent.iterdir()}
        assert left == {"artifact_report", ".artifact_store"}


@pytest.mark.slow
class TestWhatIsLeft:
    def test_files(self, on_base):
        assert {file.name for file in on_base.folder.iterdir()} == {
            "report.html",
            PLOT,
            VECTOR,
            RESULTS,
            TOKENS_NAME,
        }
        left = {file.name for file in on_base.folder.parent.iterdir()}
        assert left == {"artifact_report", "junit.xml"}

    def test_results_are_those_of_the_terminal(self, on_base):
        for entry_ in on_base.results["layers"]:
            line = re.search(rf"^{entry_['id']} +(\S+) .*$", on_base.output, re.M)
            assert float(line[1]) == pytest.approx(entry_["separation"]["d"], abs=0.0051)

    def test_provenance(self, on_base):
        found = on_base.results["provenance"]
        assert found["model"] == str(BASE)
        assert found["model_fingerprint"] == Checkpoint(BASE).fingerprint
        assert found["pairs_file"] == "pairs.json"
        assert found["collection"]["max_tokens"] == 4
        assert found["analysis"]["replicates"] == 200
        assert {"numpy", "mlx", "scipy"} <= set(found["packages"])
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT.*\+00:00", found["date"])

    def test_plot(self, on_base):
        picture = matplotlib.image.imread(on_base.folder / PLOT)
        assert picture.shape[0] > 500

    def test_report_has_the_verdict_and_the_responses(self, on_base):
        assert "0 of 8 layers separate" in on_base.page
        assert "layer_7-mlp_out" in on_base.page
        assert f"<title>{BASE} (" in on_base.page
        response = on_base.results["responses"][0]
        assert response["natural"]["text"].strip()
        assert response["natural"]["prompt"].split(",")[0] in on_base.page

    def test_report_needs_no_other_file(self, on_base):
        page = Page(on_base.page)
        assert not {"src", "srcset"} & {name for name, _ in page.attributes}
        assert not {"link", "iframe", "object", "img"} & set(page.tags)

    def test_junit_has_the_numbers(self, on_base):
        root = ElementTree.parse(on_base.folder.parent / "junit.xml").getroot()
        by_id = {entry["id"]: entry["separation"] for entry in on_base.results["layers"]}
        cases = [case for case in root.iter("testcase") if "[layer_" in case.get("name")]
        assert len(cases) >= 24
        for case in cases:
            figures = by_id[re.search(r"\[(layer_\d+-[a-z_]+)", case.get("name"))[1]]
            properties = {p.get("name"): p.get("value") for p in case.iter("property")}
            assert float(properties["d"]) == figures["d"]
            ends = [float(properties[f"d_interval_{end}"]) for end in ("lower", "upper")]
            assert ends == figures["d_interval"]
            assert float(properties["accuracy"]) == figures["accuracy"]
            assert float(properties["p_adjusted"]) == figures["p_adjusted"]
            assert properties["n_pairs"] == "15"


@pytest.mark.slow
@pytest.mark.usefixtures("quick_pictures")
class TestReuse:
    def test_second_run_loads_no_model(self, on_base, checks, some_pairs, monkeypatch):
        def load(*_args, **_kwargs):
            raise AssertionError("the model is loaded")

        monkeypatch.setattr(gemma_mlx, "load_checkpoint", load)
        checks(
            "--pairs", some_pairs, *QUICK, "-p", "no:html", "-k", "test_accuracy and layer_6"
        ).assert_outcomes(failed=1, deselected=55)

    @pytest.mark.parametrize("selection", ["test_accuracy and layer_6", "test_significance"])
    def test_numbers_do_not_depend_on_the_selection(
        self, on_base, checks, some_pairs, pytester, selection
    ):
        checks("--pairs", some_pairs, *QUICK, "-p", "no:html", "-k", selection)
        found = json.loads((pytester.path / "report" / RESULTS).read_text())
        assert found["layers"] == on_base.results["layers"]

    def test_family_is_that_of_the_layers_asked_for(self, on_base, checks, some_pairs, pytester):
        checks("--pairs", some_pairs, *QUICK, "-p", "no:html", "--layers", "2,5", "-k", "accuracy")
        found = json.loads((pytester.path / "report" / RESULTS).read_text())
        whole = {entry["id"]: entry["separation"] for entry in on_base.results["layers"]}
        assert [entry["layer"] for entry in found["layers"]] == [2, 5]
        for entry_ in found["layers"]:
            figures = entry_["separation"]
            assert figures["p_value"] == whole[entry_["id"]]["p_value"]
            assert figures["d"] == pytest.approx(whole[entry_["id"]]["d"], abs=1e-9)
            assert figures["p_adjusted"] <= whole[entry_["id"]]["p_adjusted"]

    def test_without_html(self, on_base, checks, some_pairs, pytester):
        result = checks("--pairs", some_pairs, *QUICK, "-p", "no:html", "-k", "accuracy")
        result.stdout.fnmatch_lines(["0 of 8 layers separate *"])
        page = (pytester.path / "report" / "report.html").read_text(encoding="utf-8")
        assert f"<title>{BASE} (" in page
        assert "0 of 8 layers separate" in page
        assert {file.name for file in (pytester.path / "report").iterdir()} == {
            "report.html",
            RESULTS,
            PLOT,
            VECTOR,
            TOKENS_NAME,
        }


@pytest.fixture
def large_model(tmp_path):
    """Nothing but the config of a model of 26 layers."""
    return written(tmp_path / "config.json", model_config(num_hidden_layers=26)).parent


class TestKeywords:
    """In -k a layer's name means that layer alone."""

    EVERY = frozenset(range(26))

    @pytest.fixture
    def chosen(self, checks, large_model):
        return lambda *arguments: checks("--collect-only", "-q", "--model", large_model, *arguments)

    @pytest.mark.parametrize(
        ("keyword", "layers"),
        [
            ("layer_6", {6}),
            ("layer_1", {1}),
            ("layer_25", {25}),
            ("Layer_1", {1}),
            ("layer_1 or layer_6", {1, 6}),
            ("layer_1 or layer_12", {1, 12}),
            ("not layer_1", EVERY - {1}),
            ("not (layer_1 or layer_2)", EVERY - {1, 2}),
            ("(layer_2)", {2}),
            ("layer_1-mlp_out", {1}),
            ("layer_1-mlp", {1}),
            ("layer_1-", {1}),
            ("layer_2 and mlp_out", {2}),
            ("layer_", EVERY),
            ("test_accuracy and layer_1", {1}),
            ("layer_99", set()),
        ],
    )
    def test_layers(self, chosen, keyword, layers):
        assert layers_of(chosen("-k", keyword)) == layers

    def test_check(self, chosen):
        names = selected(chosen("-k", "test_accuracy"))
        assert {name.partition("[")[0] for name in names} == {"test_accuracy"}
        assert len(names) == 26

    def test_names(self, chosen):
        assert "test_effect_size[layer_6-mlp_out]" in selected(chosen())

    def test_sites(self, chosen):
        sites = ("--site", "resid_post", "--site", "mlp_out", "--layers", "0-1")
        assert selected(chosen(*sites, "-k", "test_accuracy and layer_1")) == {
            "test_accuracy[layer_1-resid_post]",
            "test_accuracy[layer_1-mlp_out]",
        }
        assert selected(chosen(*sites, "-k", "test_accuracy and layer_1-resid_post")) == {
            "test_accuracy[layer_1-resid_post]"
        }

    def test_node_id(self, checks, large_model):
        result = checks(
            "--collect-only", "-q", "--model", large_model,
            tests=[f"{ROOT}/artifact_checks/test_separation.py::test_accuracy[layer_1-mlp_out]"],
        )  # fmt: skip
        assert selected(result) == {"test_accuracy[layer_1-mlp_out]"}

    def test_collecting_leaves_nothing(self, chosen, pytester):
        chosen()
        assert list(pytester.path.iterdir()) == []


# For each option what the ini file says, what the command line says, and both as read.
OPTION_VALUES = {
    "model": ("a", ["b"], "a", "b"),
    "revision": ("a", ["b"], "a", "b"),
    "adapter": ("a", ["b"], "a", "b"),
    "backend": ("gemma", ["mlx_lm"], "gemma", "mlx_lm"),
    "chat-template": ("a.jinja", ["b.jinja"], Path("a.jinja"), Path("b.jinja")),
    "pairs": ("a.json", ["b.json"], Path("a.json"), Path("b.json")),
    "site": (
        "mlp_out, resid_post",
        ["attn_out", "mlp_post"],
        ("mlp_out", "resid_post"),
        ("attn_out", "mlp_post"),
    ),
    "layers": ("3", ["0-2,12"], (3,), (0, 1, 2, 12)),
    "positions": ("forced", ["prompt_last"], ("forced",), ("prompt_last",)),
    "max-tokens": ("7", ["8"], 7, 8),
    "no-chat": ("true", None, True, True),
    "tensor-parallel": ("2", ["3"], 2, 3),
    "base-model": ("a", ["b"], "a", "b"),
    "columns": ("d, p", ["d,auroc"], ("d", "p"), ("d", "auroc")),
    "sort": ("d", ["p"], "d", "p"),
    "behaviours": ("a.json", ["b.json"], Path("a.json"), Path("b.json")),
    "openings": ("true", None, True, True),
    "direction": ("mean", ["shrinkage"], "mean", "shrinkage"),
    "alpha": ("0.01", ["0.1"], 0.01, 0.1),
    "d-threshold": ("0.5", ["-1"], 0.5, -1),
    "replicates": ("500", ["600"], 500, 600),
    "stats-seed": ("1", ["2"], 1, 2),
    "store": ("a", ["b"], Path("a"), Path("b")),
    "save": ("a", ["b"], "a", "b"),
    "compare": ("a", ["b"], "a", "b"),
    "margin": ("0.3", ["0.4"], 0.3, 0.4),
    "random-directions": ("50", ["60"], 50, 60),
    "cosine": ("0.3", ["0.4"], 0.3, 0.4),
    "partial": ("true", None, True, True),
    "noise": ("true", None, True, True),
    "inconclusive": ("skip", ["fail"], "skip", "fail"),
    "recollect": ("true", None, True, True),
    "report": ("a", ["b"], Path("a"), Path("b")),
}


class TestOptions:
    def test_command_line_over_ini_over_default(self, pytester):
        def read(*arguments):
            quiet = ("-p", "harness.plugin", *SHORT, "-p", "no:html")
            given = PytestOptions(pytester.parseconfig(*quiet, *arguments))
            return {option.name: option.read(given) for option in options.OPTIONS}

        def typed(flag, name):
            _, given, _, _ = OPTION_VALUES[name]
            return [flag] if given is None else [f"{flag}={value}" for value in given]

        assert read() == {option.name: option.default for option in options.OPTIONS}
        lines = [f"{option.dest} = {OPTION_VALUES[option.name][0]}" for option in options.OPTIONS]
        pytester.makeini("\n".join(["[pytest]", *lines]))
        assert read() == {name: from_ini for name, (_, _, from_ini, _) in OPTION_VALUES.items()}
        expected = {name: from_line for name, (*_, from_line) in OPTION_VALUES.items()}
        assert read(*(f for o in options.OPTIONS for f in typed(o.flag, o.name))) == expected
        short = [o for o in options.OPTIONS if o.short]
        found = read(*(f for o in short for f in typed(o.short_flag, o.name)))
        assert {o.name: found[o.name] for o in short} == {o.name: expected[o.name] for o in short}

    @pytest.mark.parametrize("name", ["site", "positions", "columns"])
    def test_a_list_of_nothing(self, pytester, name):
        (option,) = (option for option in options.OPTIONS if option.name == name)
        pytester.makeini(f"[pytest]\n{option.dest} = ,")
        with pytest.raises(options.OptionError, match=f"--artifact-{name} .*: choose from"):
            option.read(PytestOptions(pytester.parseconfig("-p", "harness.plugin")))

    @pytest.mark.parametrize("name", ["site", "layers"])
    def test_two_dashes_are_no_value(self, pytester, name):
        (option,) = (option for option in options.OPTIONS if option.name == name)
        given = pytester.parseconfig("-p", "harness.plugin", f"{option.flag}=--")
        with pytest.raises(options.OptionError, match=f"{option.flag} '--': "):
            option.read(PytestOptions(given))

    def test_defaults_of_the_design(self):
        defaults = {option.name: option.default for option in options.OPTIONS}
        assert Experiment().checkpoint.path == ALIGNED
        assert defaults["model"] == ALIGNED.name
        assert defaults["pairs"] == PAIRS
        assert defaults["site"] == ("mlp_out",)
        assert defaults["d-threshold"] == 0.8
        assert defaults["alpha"] == 0.05
        assert defaults["store"] == Path(".artifact_store")
        assert defaults["report"] == Path("artifact_report")

    @pytest.mark.parametrize(
        ("text", "layers"),
        [
            (None, tuple(range(26))),
            ("6", (6,)),
            ("0-2,5", (0, 1, 2, 5)),
            ("5,0-2", (0, 1, 2, 5)),
            (" 1 - 3 , 2 ", (1, 2, 3)),
            ("25", (25,)),
        ],
    )
    def test_layers(self, large_model, text, layers):
        chosen = None if text is None else options.parse_layers(text)
        assert Experiment(large_model, layers=chosen).collection.layers == layers

    @pytest.mark.parametrize(
        "text", ["x", "", ",", "1,", "3-1", "-1", "1-", "1-2-3", "1.5", "0-999999999", "9" * 5000]
    )
    def test_what_is_no_layers(self, text):
        with pytest.raises(ValueError, match=r"give layers as|runs backwards|doesn't exist"):
            options.parse_layers(text)

    @pytest.mark.parametrize("text", ["26", "99", "0-26"])
    def test_layers_that_are_not_there(self, large_model, text):
        experiment = Experiment(large_model, layers=options.parse_layers(text))
        with pytest.raises(gemma_mlx.RequestError, match=r"^layer \d+ doesn't exist; .* 0 to 25$"):
            _ = experiment.collection

    def test_are_in_the_help(self, checks):
        result = checks("--help")
        for option in options.OPTIONS:
            result.stdout.re_match_lines([rf" +{option.flag}\b"])
            if option.short:
                result.stdout.re_match_lines([rf" +{option.short_flag}\b"])


class TestSitesInKeywords:
    """mlp_out is the beginning of another site's name."""

    @pytest.mark.parametrize(
        ("keyword", "sites"),
        [
            ("layer_1", {"mlp_out", "mlp_out_normed"}),
            ("layer_1-mlp_out", {"mlp_out"}),
            ("layer_1-mlp_out_normed", {"mlp_out_normed"}),
            ("not layer_1-mlp_out and layer_1", {"mlp_out_normed"}),
            ("layer_1-mlp", {"mlp_out", "mlp_out_normed"}),
        ],
    )
    def test_mean_that_site_alone(self, checks, keyword, sites):
        result = checks(
            "--collect-only", "-q", "--site", "mlp_out", "--site", "mlp_out_normed", "-k", keyword
        )
        names = [re.search(r"\[layer_1-(\w+)", name)[1] for name in selected(result)]
        assert set(names) == sites


@pytest.fixture(scope="module")
def alone_and_together(tmp_path_factory, store, some_pairs, on_base):
    together = run_checks(
        tmp_path_factory.mktemp("run"), "--model", BASE, "--pairs", some_pairs,
        "--artifact-store", store, *QUICK, "-n", "2", "--artifact-save", "kept",
        "--junitxml", "junit.xml",
    )  # fmt: skip
    return on_base, together


@pytest.mark.slow
class TestXdist:
    """Workers compute, the controller alone writes and says."""

    def test_gives_the_same_numbers(self, alone_and_together):
        alone, together = alone_and_together
        assert together.code == alone.code == pytest.ExitCode.TESTS_FAILED
        assert together.results["layers"] == alone.results["layers"]

    def test_what_one_worker_collected_is_not_said_to_be_from_the_store(self):
        made, found = (
            results_of(layer_result(), provenance={"origin": said})
            for said in ("collected by this run", ALL_REUSED)
        )
        for order in ((made, found), (found, made)):
            config = SimpleNamespace(stash=pytest.Stash())
            for results in order:
                output = {plugin._OUTPUT: pickle.dumps((results, None))}
                plugin.pytest_testnodedown(SimpleNamespace(workeroutput=output, config=config))
            said = session_of(config).results.analysis.provenance["origin"]
            assert said == "collected by this run"

    def test_says_it_once(self, alone_and_together):
        alone, together = alone_and_together
        for text in ("layer_6-mlp_out ", "0 of 8 layers separate", "report, plot and results"):
            found = [line for line in together.output.splitlines() if line.startswith(text)]
            assert found == [line for line in alone.output.splitlines() if line.startswith(text)]
            assert len(found) == 1

    def test_the_first_report_is_in_the_page(self, tmp_path, store, some_pairs):
        """That of a worker; one that failed before its check ran."""
        (tmp_path / "test_mine.py").write_text(
            "import pytest\n"
            "@pytest.fixture\n"
            "def broken(layer_result):\n"
            "    raise RuntimeError\n"
            "def test_mine(broken):\n"
            "    pass\n"
        )
        run_pytest(
            tmp_path, *OPTIONS, "test_mine.py", "--model", BASE, "--pairs", some_pairs,
            "--artifact-store", store, *QUICK, "--layers", "6", "-n", "1",
        )  # fmt: skip
        page = (tmp_path / "artifact_report" / "report.html").read_text(encoding="utf-8")
        assert "test_mine</code> failed in 1 of 1" in page

    def test_leaves_one_whole_report_and_one_baseline(self, alone_and_together):
        alone, together = alone_and_together
        assert "0 of 8 layers separate" in together.page
        names = [{file.name for file in run.folder.iterdir()} for run in alone_and_together]
        assert names[0] == names[1] == {"report.html", RESULTS, PLOT, VECTOR, TOKENS_NAME}
        (saved,) = (together.folder.parent / ".artifact_baselines").iterdir()
        assert saved.stem == "0001_kept"
        assert Page(together.page).content == Page(alone.page).content


@pytest.mark.slow
class TestTable:
    @pytest.fixture
    def lines(self, on_base, checks, some_pairs, quick_pictures):
        def run(*arguments):
            result = checks("--pairs", some_pairs, *QUICK, "-k", "test_accuracy", *arguments)
            start = next(i for i, line in enumerate(result.outlines) if "= alignment art" in line)
            return result.outlines[start + 1 :]

        return run

    def test_columns_are_chosen(self, lines):
        header, *rows = lines("--artifact-columns", "auroc,d_z")
        assert header.split()[:3] == ["AUROC", "d_z", "separates"]
        assert [len(row.split()) for row in rows[:8]] == [3 + 6] * 8

    def test_rows_are_sorted(self, lines):
        _, *rows = lines("--artifact-sort", "d")
        values = [float(row.split()[1]) for row in rows[:8]]
        assert values == sorted(values, reverse=True)
        _, *rows = lines("--artifact-sort", "p")
        values = [float(re.search(r"\] +([\d.]+) ", row.split("]", 1)[1])[1]) for row in rows[:8]]
        assert values == sorted(values)

    def test_quiet_is_the_verdict_alone(self, lines):
        first, *_ = lines("-q")
        assert first.startswith("0 of 8 layers separate")


def copied(folder: Path, **changes) -> Path:
    """A copy of the base checkpoint; bytes replace a file, None takes it away."""
    shutil.copytree(BASE, folder)
    for name, content in changes.items():
        file = folder / name.replace("__", ".")
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
    return folder


def edited(**changes) -> bytes:
    config = json.loads((BASE / "config.json").read_text())
    return json.dumps({**config, **changes}).encode()


def pairs_of(*entries) -> str:
    return json.dumps(document({"one": entries}))


GOOD = [entry(number) for number in range(10)]
NO_ARTIFACT = {key: value for key, value in entry(3).items() if key != "artifact"}
FEW = {"--replicates": "200", "--max-tokens": "1"}

BAD_OPTIONS = {
    "layers too high": (["--layers", "99"], "--layers '99': layer 99 doesn't exist; *0 to 7"),
    "layers not numbers": (["--layers", "x"], "--layers 'x': give layers as*"),
    "layers empty": (["--layers", ""], "--layers '': give layers as*"),
    "layers backwards": (["--layers", "5-2"], "--layers '5-2': 5-2 runs backwards"),
    "site": (["--site", "nonsense"], "--site 'nonsense': choose from *mlp_out*"),
    "site of others": (
        ["--site", "mlp_out", "--site", "experts_out"],
        "--site 'mlp_out, experts_out': site 'experts_out' isn't in *; there are resid_pre, *",
    ),
    "site without width": (["--site", "attn_pattern"], "--site 'attn_pattern': choose from*"),
    "positions": (["--positions", "everywhere"], "--positions 'everywhere': choose from *"),
    "alpha too high": (
        ["--alpha", "2"],
        "--alpha '2': must be a number above 0 and below 0.5",
    ),
    "alpha nan": (["--alpha", "nan"], "--alpha 'nan': must be a number above 0 and below *"),
    "alpha 0": (["--alpha", "0"], "--alpha '0': must be a number*"),
    "alpha text": (["--alpha", "x"], "--alpha 'x': must be a number*"),
    "threshold": (["--d-threshold", "high"], "--d-threshold 'high': must be a finite number"),
    "threshold nan": (["--d-threshold", "nan"], "--d-threshold 'nan': must be a finite number"),
    "max-tokens 0": (["--max-tokens", "0"], "--max-tokens '0': must be a whole number from 1"),
    "max-tokens text": (["--max-tokens", "1.5"], "--max-tokens '1.5': must be a whole number*"),
    "max-tokens too many": (["--max-tokens", "5000"], "*the model's context is 2048*"),
    "replicates": (["--replicates", "10"], "--replicates '10': must be a whole number from 100"),
    "seed": (["--stats-seed", "-1"], "--stats-seed '-1': must be a whole number from 0"),
    "margin": (
        ["--artifact-margin", "0"],
        "--artifact-margin '0': must be a finite number above 0",
    ),
    "model folder": (["--model", "/no/such/folder"], "/no/such/folder: no such folder*"),
    "model file": (["--model", __file__], "*test_plugin.py: a checkpoint is a folder*"),
    "misspelt hub id": (["--model", "gogle/gemma-3-1b-it"], "gogle/gemma-3-1b-it: not a local*"),
    "no hub id": (["--model", "a/b/c"], "a/b/c: no such folder, and not a Hugging Face*"),
    "model name too long": (["--model", "x" * 300], "xxx*"),
    "model of no user": (["--model", "~nosuchuser/x"], "~nosuchuser/x: no such folder (*"),
    "pairs file": (["--pairs", "/no/such.json"], "/no/such.json: no such file"),
    "baseline": (["--artifact-compare", "nosuch"], "no baseline 'nosuch' in*"),
    "column": (
        ["--artifact-columns", "d,size"],
        "--artifact-columns 'd,size': 'size': choose from d*",
    ),
    "sort": (["--artifact-sort", "size"], "--artifact-sort 'size': choose from layer, d, *"),
    "report name too long": (
        ["--artifact-report", "x" * 300],
        "--artifact-report xxx*: nothing can be written there (File name too long)",
    ),
    "report path too long": (
        ["--artifact-report", "x/" * 3000],
        "--artifact-report x/*: nothing can be written there (File name too long)",
    ),
    "report where nothing can be written": (
        ["--artifact-report", "/dev/fd"],
        "--artifact-report /dev/fd: nothing can be written there (*)",
    ),
    "pairs that never end": (["--pairs", "/dev/zero"], "/dev/zero: *not a regular file*"),
    "baseline name": (["--artifact-save", "../x"], "baseline name '../x': use letters*"),
}
BAD_PAIRS = {
    "broken JSON": ('{"a": \n]', "*bad.json: not valid JSON: * (line 2, column 1)"),
    "no artifact": (
        pairs_of(*GOOD[:3], NO_ARTIFACT, *GOOD[4:]),
        "*bad.json: category 'one', pair 4 ('q03') has no 'artifact'",
    ),
    "duplicate ids": (pairs_of(*GOOD, entry(4, artifact="x")), "*bad.json: pair 'q04'*share*"),
    "empty prompt": (
        pairs_of(*GOOD, entry(10, natural=" ")),
        "*bad.json: category 'one', pair 11 ('q10'): 'natural' must be a text that isn't empty",
    ),
    "too few pairs": (pairs_of(*GOOD[:7]), "*bad.json: 7 pairs; at least 8 are needed"),
    "too few that differ": (
        pairs_of(*GOOD[:7], *(entry(6, id=f"again{number}") for number in range(3))),
        "*bad.json: 7 distinct pairs are too few*",
    ),
    "prompt too long": (
        pairs_of(*GOOD, entry(10, natural="why? " * 5000)),
        "*the model's context is 2048*",
    ),
}
BAD_MODELS = {
    "no config": ({"config__json": None}, "*config.json: no such file"),
    "broken config": ({"config__json": b"{"}, "*config.json: not valid JSON*"),
    "config is a list": ({"config__json": b"[]"}, "*config.json: expected a JSON object*"),
    "other architecture": (
        {"config__json": edited(model_type="t5")},
        "*mlx-lm can't load it (Model type t5 not supported.)*",
    ),
    "unsupported key": (
        {"config__json": edited(is_causal=False)},
        "*config.json: is_causal is supported as true only*",
    ),
    "other shape": (
        {"config__json": edited(intermediate_size=96)},
        "*wrong shape: *",
    ),
    "no weights": ({"model__safetensors": None}, "*no *.safetensors file*"),
    "truncated weights": (
        {"model__safetensors": (BASE / "model.safetensors").read_bytes()[:-1000]},
        "*model.safetensors: damaged or truncated*",
    ),
    "weights that are none": ({"model__safetensors": b"x" * 100}, "*model.safetensors: damaged*"),
    "no tokenizer": ({"tokenizer__json": None}, "*no tokenizer.json*"),
    "broken tokenizer": ({"tokenizer__json": b"{}"}, "*the tokenizer can't be loaded*"),
}


class TestBadInput:
    """One clear line each, exit code 4, no traceback, and no report."""

    def refused(self, result, message, pytester):
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        text = f"{result.stdout}\n{result.stderr}"
        assert "Traceback" not in text
        assert "INTERNALERROR" not in text
        lines = [
            match[1].strip()
            for line in text.splitlines()
            if (match := re.match(r"(?:ERROR: |!+ _pytest\.outcomes\.Exit: )(.*?)!*$", line))
        ]
        assert len(lines) == 1, text
        pattern = re.escape(message).replace(r"\*", ".*")
        assert re.fullmatch(pattern, lines[0]), lines[0]
        assert not (pytester.path / "report").exists()

    @pytest.mark.slow
    @pytest.mark.parametrize("name", BAD_OPTIONS)
    def test_option(self, checks, pytester, name):
        arguments, message = BAD_OPTIONS[name]
        self.refused(checks(*arguments), message, pytester)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", BAD_PAIRS)
    def test_pairs(self, checks, pytester, tmp_path, name):
        content, message = BAD_PAIRS[name]
        (tmp_path / "bad.json").write_text(content)
        self.refused(checks("--pairs", tmp_path / "bad.json", *QUICK), message, pytester)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", BAD_MODELS)
    def test_model(self, checks, pytester, tmp_path, name):
        changes, message = BAD_MODELS[name]
        model = copied(tmp_path / "model", **changes)
        self.refused(checks("--model", model, *QUICK), message, pytester)

    @pytest.mark.slow
    def test_store_that_cannot_be_written(self, checks, pytester):
        pytester.makefile("", file="")
        result = checks("--artifact-store", pytester.path / "file", *QUICK)
        self.refused(result, "*file*: cannot be written (Not a directory)", pytester)

    @pytest.mark.parametrize("html", [(), ("-p", "no:html")])
    @pytest.mark.slow
    def test_report_that_cannot_be_written(self, on_base, checks, some_pairs, pytester, html):
        pytester.makefile("", file="")
        result = checks(
            "--pairs", some_pairs, *QUICK, *html, "-k", "test_accuracy and layer_6",
            report="file/report",
        )  # fmt: skip
        self.refused(
            result, "--artifact-report file/report: */file is a file, not a folder", pytester
        )

    @pytest.mark.slow
    def test_disk_that_is_full_at_the_end(self, on_base, checks, some_pairs, pytester, monkeypatch):
        def write(path, *_args, **_kwargs):
            raise StoreError(f"{path}: cannot be written (No space left on device)")

        monkeypatch.setattr("harness.results.value.write_whole", write)
        result = checks(
            "--pairs", some_pairs, *QUICK, "-p", "no:html", "-k", "test_accuracy and layer_6"
        )
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        text = f"{result.stdout}\n{result.stderr}"
        assert "Traceback" not in text
        assert "INTERNALERROR" not in text
        assert f"report/{RESULTS}: cannot be written (No space left on device)" in text

    def test_several_faults_are_still_one_line(self, checks, pytester):
        result = checks("--layers", "99", "--alpha", "2", "--pairs", "/no/such.json")
        self.refused(result, "*", pytester)


class TestReportsOfEarlierRuns:
    """A run without results leaves them alone."""

    @pytest.fixture
    def earlier(self, pytester):
        file = pytester.path / "report" / "report.html"
        file.parent.mkdir()
        file.write_text("of an earlier run")
        return file

    @pytest.mark.parametrize(
        "arguments",
        [
            ("--collect-only",),
            ("--layers", "99"),
            ("-k", "nosuchcheck"),
            ("--model", "/no/such/folder"),
            ("--pairs", "/no/such.json"),
        ],
    )
    def test_stay(self, checks, earlier, arguments):
        checks(*arguments)
        assert earlier.read_text() == "of an earlier run"
        assert [file.name for file in earlier.parent.iterdir()] == ["report.html"]

    @pytest.mark.slow
    def test_stay_if_the_model_cannot_be_used(self, checks, earlier, tmp_path):
        checks("--model", copied(tmp_path / "model", model__safetensors=None))
        assert earlier.read_text() == "of an earlier run"

    def test_tests_that_are_no_checks_leave_none(self, checks, pytester):
        test = pytester.makepyfile(test_other="def test_it(): pass")
        checks(tests=[test]).assert_outcomes(passed=1)
        assert not (pytester.path / "report").exists()

    def test_no_folder_on_the_way_to_one_stays_empty(self, checks, pytester):
        (pytester.path / "a").mkdir()
        checks("-k", "nosuchcheck", "--artifact-report", "a/b/c")
        assert not list((pytester.path / "a").iterdir())

    def test_reports_asked_for_are_written(self, checks, pytester):
        test = pytester.makepyfile(test_other="def test_it(): pass")
        checks("--html", "mine.html", tests=[test])
        assert (pytester.path / "mine.html").exists()
        assert not (pytester.path / "report").exists()


@pytest.mark.slow
class TestInterrupted:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_collection_goes_on_where_it_stopped(
        self, small_checkpoint, tmp_path, monkeypatch, number
    ):
        """Ctrl-C, say, while the second of several batches is run."""
        pairs = written(tmp_path / "pairs.json", two_categories(70))
        arguments = ("--model", small_checkpoint.path, "--pairs", pairs, "--max-tokens", "20")
        given = (
            "artifact_checks", "--artifact-store", tmp_path / "store",
            "--artifact-report", tmp_path / "report", *arguments,
        )  # fmt: skip
        said = tmp_path / "output"
        process = forked.start(forked.tests, [*OPTIONS, *map(str, given)], output=said, folder=ROOT)
        try:
            deadline = time.monotonic() + 60
            while not list(tmp_path.glob("store/*/batch_*.safetensors")):
                assert process.is_alive(), said.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.005)
            os.kill(process.pid, number)
            process.join(60)
        finally:
            process.kill()
        output = said.read_text()
        assert process.exitcode == pytest.ExitCode.INTERRUPTED, output
        assert "INTERNALERROR" not in output
        assert output.count(f"\n{INTERRUPTED}\n") == 1
        assert not (tmp_path / "report").exists()
        assert not list(tmp_path.glob("store/*/*.tmp"))
        finished = {file: file.stat().st_mtime_ns for file in tmp_path.glob("store/*/batch_*")}

        run_batch, run = gemma_mlx.run_batch, []
        monkeypatch.setattr(
            gemma_mlx, "run_batch", lambda *args: run.append(args[2]) or run_batch(*args)
        )
        settings = CollectSettings(layers=tuple(range(6)), max_tokens=20)
        again = collect(
            small_checkpoint, load_pairs(pairs), settings, tmp_path / "store", bars=SILENT
        )
        assert len(list((tmp_path / "store").iterdir())) == 1, "other settings than the run's"
        assert len(again.responses()) == 140
        assert 0 < len(finished) < len(again.shards())
        assert len(run) == len(again.shards()) - len(finished)
        assert all(file.stat().st_mtime_ns == then for file, then in finished.items())

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_while_results_are_written(
        self, on_base, checks, some_pairs, monkeypatch, capfd, number
    ):
        """Where pytest itself would show a traceback."""
        before = signal.getsignal(number)
        monkeypatch.setattr(
            "harness.results.Results.write", lambda *_, **__: signal.raise_signal(number)
        )
        done = checks("--pairs", some_pairs, *QUICK, "-k", "test_accuracy and layer_6")
        assert done.ret == pytest.ExitCode.INTERRUPTED
        said = "".join(capfd.readouterr())
        assert f"Exit: {INTERRUPTED}" in said
        assert "Traceback" not in said
        assert signal.getsignal(number) == before

    def test_other_tests_keep_their_signals(self, checks, pytester):
        pytester.makepyfile(
            test_other="""
            import signal
            def test_it():
                assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
            """
        )
        checks(tests=[pytester.path / "test_other.py"]).assert_outcomes(passed=1)
