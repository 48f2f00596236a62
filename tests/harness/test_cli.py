"""The steps of a run on the command line, and the npz layout between them."""

import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest

from gemma_mlx.cli import main as run_model
from gemma_mlx.prompts_file import read_prompts
from harness.cli import collecting, main
from harness.cli.preparing import RUNNER_INPUT
from harness.data.npz_run import read_npz
from harness.data.pairs import load_pairs
from harness.results import Results
from harness.results.file import FILE_NAME
from tests.support.builders import (
    checkpoint,
    layer_result,
    results_of,
    two_categories,
    written,
)

pytestmark = pytest.mark.filterwarnings("ignore:only .* pairs")
FEW = ("--replicates", "100")
TOKENS = 4


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Pairs, a random model, and its activations in the npz layout."""
    folder = tmp_path_factory.mktemp("made")
    model = checkpoint(folder / "model")
    pairs = written(folder / "pairs.json", two_categories(10))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        asked = ("--pairs", str(pairs), "--model", str(model.path), "--max-tokens", str(TOKENS))
        assert main(["collect", *asked, "--layout", "npz"]) == 0
        assert main(["prepare", "--pairs", str(pairs)]) == 0
    return folder, asked


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """A folder of its own with what `made` has; its npz files are a copy."""
    folder, _ = made
    monkeypatch.chdir(tmp_path)
    for file in folder.glob(f"{collecting.OUTPUT}/**/*.*"):
        copy = tmp_path / file.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    for name in (".artifact_store", "model", "pairs.json"):
        (tmp_path / name).symlink_to(folder / name)
    return tmp_path


def results(folder="artifact_report"):
    return json.loads((Path(folder) / FILE_NAME).read_text(encoding="utf-8"))


def analyze_npz(*more, folder=collecting.OUTPUT):
    asked = ("--pairs", "pairs.json", "--activations", str(folder), *FEW)
    return main(["analyze", *asked, *more])


class TestPipeline:
    def test_the_layout_is_as_scripts_expect_it(self, made):
        folder, _ = made
        step = f"{collecting.OUTPUT}/natural_one_q00/prompt_list/batch_1/activations_step_%s.npz"
        for number in (0, "prefill"):
            with np.load(folder / (step % number), allow_pickle=False) as content:
                assert content["model.layers.3.mlp.output"].shape == (1, 1, 64)
                assert content["model.layers.3.mlp.output"].dtype == np.float32
                assert len(content.files) == 6

    @pytest.mark.parametrize(
        ("asked_for", "collected"),
        [
            ((), ["generated"]),
            (("--model", "tiny-gemma3-aligned"), ["generated"]),
            (("--base-model", "other"), ["generated"] + 2 * ["base"]),
            (("--base-model", "other", "--positions", "forced"), ["forced", "base"]),
            (("--base-model", "none"), ["generated"]),
        ],
    )
    def test_a_base_model_is_collected_where_it_is_named(
        self, made, here, asked_for, collected, capsys
    ):
        _, asked = made
        checkpoint(here / "other", seed=1)
        assert main(["collect", *asked, *asked_for]) == 0
        lines = capsys.readouterr().out.splitlines()
        named = [re.match(r"(\w+)(, base model)?: 20 prompts in ", line) for line in lines]
        assert ["base" if line[2] else line[1] for line in named] == collected
        assert len({line.partition(": ")[2] for line in lines}) == len(lines)

    @pytest.mark.slow
    @pytest.mark.usefixtures("quick_pictures")
    def test_npz_and_store_give_the_same(self, made, here):
        _, asked = made
        assert main(["analyze", *asked, *FEW]) == 0
        native = results()
        assert analyze_npz() == 0
        read = results()
        for one, other in zip(native["layers"], read["layers"], strict=True):
            assert one["id"] == other["id"]
            assert one["separation"] == other["separation"]
            assert one["in_sample"] == other["in_sample"]
        assert [r["natural"]["text"] for r in native["responses"]] == [
            r["natural"]["text"] for r in read["responses"]
        ]

    @pytest.mark.usefixtures("quick_pictures")
    def test_a_script_that_pools_over_steps_finds_the_in_sample_figures(self, made, here):
        """As the seed's analysis reads them: loop over steps, load, take the key."""
        assert analyze_npz() == 0
        arms = []
        for condition in ("natural", "artifact"):
            found = []
            for group in sorted(collecting.OUTPUT.glob(f"{condition}_*")):
                for step in range(TOKENS):
                    file = group / "prompt_list" / "batch_1" / f"activations_step_{step}.npz"
                    if file.exists():
                        with np.load(file) as content:
                            found.append(content["model.layers.2.mlp.output"][0, 0])
            arms.append(np.stack(found).astype(np.float64))
        natural, artifact = arms
        spread = (natural.std(axis=0).mean() + artifact.std(axis=0).mean()) / 2
        ratio = np.linalg.norm(artifact.mean(axis=0) - natural.mean(axis=0)) / np.sqrt(spread)
        in_sample = results()["layers"][2]["in_sample"]
        assert in_sample["n_vectors"] == len(natural) + len(artifact)
        assert in_sample["seed_ratio"] == pytest.approx(ratio, rel=1e-5)

    @pytest.mark.slow
    @pytest.mark.usefixtures("quick_pictures")
    @pytest.mark.parametrize("size", ["1", "3", "16"])
    def test_the_runner_in_batches_of_any_size(self, made, here, size, capsys):
        folder, asked = made
        code = run_model(
            [
                *asked[2:], "--prompts-file", str(folder / RUNNER_INPUT),
                "--batch-size", size, "--save-activations", "--activations-dir", "other",
                *(["--process-by-group"] if size == "1" else []),
            ]
        )  # fmt: skip
        assert code == 0
        assert analyze_npz(folder="other") == 0
        assert "warning" not in capsys.readouterr().err
        pairs = load_pairs("pairs.json")
        expected, found = read_npz(collecting.OUTPUT, pairs), read_npz(Path("other"), pairs)
        assert expected.written == found.written
        for group, array in expected.arrays.items():
            np.testing.assert_allclose(found.arrays[group], array, rtol=0, atol=1e-3)

    @pytest.mark.slow
    def test_report_again(self, here):
        assert analyze_npz() == 0
        before = {f.name: f.read_bytes() for f in Path("artifact_report").iterdir()}
        assert main(["report", "--output", "again"]) == 0
        for file in Path("again").iterdir():
            if file.suffix != ".html":
                assert file.read_bytes() == before[file.name]
        pages = [Path(p, "report.html").read_text() for p in ("artifact_report", "again")]
        assert pages[0] == pages[1]
        assert Results.read(Path("artifact_report") / FILE_NAME).analysis.results

    def test_prepare(self, made):
        folder, _ = made
        content = json.loads((folder / RUNNER_INPUT).read_text(encoding="utf-8"))
        prompts = load_pairs(folder / "pairs.json").prompts()
        assert content == {group: {"prompt_list": [text]} for group, text in prompts.items()}

    def test_power(self, capsys):
        assert main(["power", "20", "200", "--layers", "8"]) == 0
        found = dict(re.findall(r"^ +(\d+)  ([\d.]+)$", capsys.readouterr().out, re.M))
        assert float(found["20"]) > float(found["200"]) > 0


@pytest.mark.usefixtures("quick_pictures")
class TestMissing:
    STEP = "natural_one_q00/prompt_list/batch_1/activations_step_{}.npz"

    def test_steps_are_reported(self, here, capsys):
        (collecting.OUTPUT / self.STEP.format(1)).unlink()
        assert analyze_npz() == 0
        said = capsys.readouterr().err
        assert "1 steps of 1 prompts are missing, for example natural_one_q00: 1" in said
        assert "2 steps of 1 prompts after a gap are left out" in said
        found = results()["provenance"]
        assert found["missing_steps"] == {"natural_one_q00": [1]}
        assert found["ignored_steps"] == {"natural_one_q00": [2, 3]}
        page = Path("artifact_report/report.html").read_text(encoding="utf-8")
        assert re.search(r"missing_steps\.natural_one_q00</th><td>\[1\]<", page)
        assert re.search(r"ignored_steps\.natural_one_q00</th><td>\[2, 3\]<", page)
        assert "one/q00" in results()["pairs"]["cut"]

    def test_a_prompt_drops_its_pair(self, here):
        for step in range(TOKENS):
            (collecting.OUTPUT / self.STEP.format(step)).unlink()
        assert analyze_npz() == 0
        dropped = results()["pairs"]["dropped"]
        assert dropped == [{"pair": "one/q00", "reason": "a response without tokens"}]

    def test_fewer_steps_can_be_asked_for(self, here):
        assert analyze_npz("--steps", "2", "--layers", "1,3") == 0
        found = results()
        assert [layer["layer"] for layer in found["layers"]] == [1, 3]
        assert found["layers"][0]["in_sample"]["n_vectors"] == 2 * 20


class TestRefused:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["analyze", "--activations", "nowhere"], "nowhere: no such directory"),
            (["analyze", "--activations", "empty"], "no activations of these pairs"),
            (["analyze", "--activations", "empty", "--steps", "0"], "--steps must be 1"),
            (
                ["analyze", "--activations", "empty", "--site", "mlp_out", "--no-chat"],
                "--site, --no-chat: not with --activations",
            ),
            (["analyze", "--steps", "3"], "are for --activations"),
            (
                ["analyze", "--activations", "empty", "--subcategory", "../.."],
                "subcategory '../..': expected a directory below",
            ),
            (["analyze", "--activations", "empty", "--subcategory", "/"], "subcategory '/'"),
            (
                ["analyze", "--activations", "empty", "--subcategory", "a\0b"],
                r"holds '\x00', unsafe",
            ),
            (["analyze", "--activations", "empty", "--key-template", "x"], "needs {layer}"),
            (["analyze", "--model", "nowhere/at-all/x"], "nowhere/at-all/x"),
            (["analyze", "--alpha", "2"], "--alpha '2': must be"),
            (["collect", "--site", "mlp"], "--site 'mlp': choose from"),
            (["collect", "--layers", "9"], "--layers '9': layer 9 doesn't exist"),
            (["prepare", "--pairs", "nowhere.json"], "nowhere.json"),
            (["report", "nowhere.json"], "nowhere.json: no such file"),
            (["report", "pairs.json"], "pairs.json: not a results file"),
            (
                ["report", "lies.json"],
                "lies.json: the results can't be drawn (",
            ),
            (["power", "3"], "n_pairs must be from 8 to"),
            (["power", "9" * 400], "n_pairs must be from 8 to"),
        ],
    )
    def test_in_a_line(self, here, arguments, message, capsys):
        Path("empty").mkdir()
        lie = results_of(layer_result(n_pairs=-1)).to_json()
        written(Path("lies.json"), lie)
        if arguments[0] in ("analyze", "collect"):
            arguments = [*arguments, "--pairs", "pairs.json"]
            if "--model" not in arguments and "--activations" not in arguments:
                arguments += ["--model", "model"]
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.startswith("error: ")
        assert said.count("\n") == 1

    @pytest.mark.parametrize(
        "arguments",
        [["analyze", "--artifact-layers=--"], ["collect", "--site=--"], ["pairs", "--artifact=--"]],
    )
    def test_two_dashes_are_no_value(self, arguments, capsys):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.endswith(f"error: argument {arguments[1][:-3]}: -- is no value")

    @pytest.mark.parametrize("change", [("--max-tokens", "3"), ("--site", "attn_out")])
    def test_another_collection_is_not_overwritten(self, made, here, change, capsys):
        _, asked = made
        before = {file: file.read_bytes() for file in collecting.OUTPUT.rglob("*.*")}
        assert main(["collect", *asked, *change, "--layout", "npz"]) == 2
        assert "holds another collection" in capsys.readouterr().err
        assert {file: file.read_bytes() for file in collecting.OUTPUT.rglob("*.*")} == before

    def test_the_same_collection_is_written_again(self, made, here):
        _, asked = made
        lost = collecting.OUTPUT / TestMissing.STEP.format(1)
        before = lost.read_bytes()
        lost.unlink()
        assert main(["collect", *asked, "--layout", "npz"]) == 0
        assert lost.read_bytes() == before

    def test_prompts_are_no_steps(self, made, here, capsys):
        _, asked = made
        assert main(["collect", *asked, "--positions", "prompt_last", "--layout", "npz"]) == 2
        assert "--layout npz holds tokens" in capsys.readouterr().err


class TestRunner:
    def run(self, made, *arguments):
        _, asked = made
        return run_model([*asked[2:], *arguments])

    def test_activations_are_not_overwritten(self, made, here, capsys):
        assert self.run(made, "--prompts", "What is rain?", "--save-activations") == 2
        assert "collected_activations_output: holds something" in capsys.readouterr().err

    def test_prompts_on_the_command_line(self, made, here, capsys):
        assert self.run(made, "--prompts", "What is rain?", "And snow?") == 0
        said = capsys.readouterr().out
        found = json.loads(Path("gemma_output/results.json").read_text(encoding="utf-8"))
        assert list(found) == ["prompts/prompt_list/0", "prompts/prompt_list/1"]
        assert all(result["text"] in said for result in found.values())
        summary = json.loads(Path("gemma_output/summary.json").read_text(encoding="utf-8"))
        assert summary["prompts"] == 2
        assert summary["tokens"] == sum(len(result["token_ids"]) for result in found.values())
        assert not collecting.OUTPUT.joinpath("batch_1").exists()

    def test_sample_prompts(self, made, here, capsys):
        assert run_model(["--create-sample-prompts"]) == 0
        assert self.run(made, "--prompts-file", "sample_prompts.json") == 0
        assert run_model(["--create-sample-prompts"]) == 2
        assert "is there already" in capsys.readouterr().err
        assert [prompt.text for prompt in read_prompts(Path("sample_prompts.json"))]

    def test_a_prompt_does_not_depend_on_its_batch(self, made, here):
        texts = []
        for size in ("1", "2"):
            how = ("--batch-size", size, "--temp", "1", "--seed", "3", "--output-dir", f"o{size}")
            assert self.run(made, *how, "--prompts", "What is rain?", "And snow, what is it?") == 0
            texts.append(json.loads(Path(f"o{size}/results.json").read_text(encoding="utf-8")))
        assert texts[0] == texts[1]

    def test_what_is_finished_when_interrupted_is_kept(self, made, here, monkeypatch, capsys):
        module = run_model.__globals__
        generate, calls = module["_generate"], []

        def interrupt(*arguments):
            calls.append(arguments)
            if len(calls) > 1:
                raise KeyboardInterrupt
            return generate(*arguments)

        monkeypatch.setitem(module, "_generate", interrupt)
        assert self.run(made, "--batch-size", "1", "--prompts", "What is rain?", "And snow?") == 130
        assert "interrupted" in capsys.readouterr().err
        found = json.loads(Path("gemma_output/results.json").read_text(encoding="utf-8"))
        assert len(found) == 1

    def test_a_second_interrupt_does_not_lose_the_answers(self, made, here, monkeypatch):
        """While they are being written."""
        module = run_model.__globals__
        write = module["write_json"]

        def interrupted(path, content):
            signal.raise_signal(signal.SIGINT)
            write(path, content)

        monkeypatch.setitem(module, "write_json", interrupted)
        assert self.run(made, "--prompts", "What is rain?") == 130
        found = json.loads(Path("gemma_output/results.json").read_text(encoding="utf-8"))
        assert len(found) == 1

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("[", "not valid JSON"),
            ("{}", "expected groups"),
            ('{"a": 3}', "group 'a'"),
            ('{"a": {"b": []}}', "a/b: expected a list"),
            ('{"a": {"b": [3]}}', "a/b: expected a list"),
            ('{"../a": {"b": ["x"]}}', "'../a' can't be a folder's name"),
            ('{"..": ["x"]}', "can't be a folder's name"),
            ('{"/a": ["x"]}', "can't be a folder's name"),
            ('{"a": {"b\\u0000": ["x"]}}', r"'b\x00' can't be a folder's name"),
            ('{"a\\u001b[2J": ["x"]}', r"'a\x1b[2J' can't be a folder's name"),
            ('{"a\\ud800": ["x"]}', r"half a surrogate pair at a\ud800"),
            ('{"CON": ["x"]}', "'CON' can't be a folder's name"),
            (json.dumps({"x" * 256: ["x"]}), "at most 255 bytes long"),
            ('{"a": ["x"], "b": ["y"], "a": ["z"]}', "'a' occurs twice"),
            ('{"a": ["x"], "A": ["y"]}', "'a/prompt_list' and 'A/prompt_list' would share a f"),
            ('{"a": ["half \\ud83d"]}', "half a surrogate pair at a/0"),
            (json.dumps({"a": ["x"], "b": ["so " * 2000]}), "prompt b has 60"),
        ],
    )
    def test_bad_prompts(self, made, here, content, message, capsys):
        Path("bad.json").write_text(content, encoding="utf-8")
        assert self.run(made, "--prompts-file", "bad.json") == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
        assert "\x1b" not in said
        assert not Path("gemma_output").exists()

    @pytest.mark.parametrize("arguments", [[], ["--prompts", "a", "--prompts-file", "b"]])
    def test_usage(self, arguments):
        with pytest.raises(SystemExit) as stop:
            run_model(arguments)
        assert stop.value.code == 2
