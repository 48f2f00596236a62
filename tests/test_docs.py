"""What README and docs say: their Python runs, and what they name is there."""

import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import harness
import harness.experiment
from harness.cli import main
from harness.data.clusters import find_clusters
from harness.data.pairs import load_pairs
from harness.experiment import Experiment
from harness.options import OPTIONS
from harness.settings import AnalysisSettings
from tests.support import notebook
from tests.support.builders import first_pairs, layer_result, results_of, written
from tests.support.runs import ALIGNED
from tests.support.texts import NAMES, ROOT, blocks, commands, spans

# Left by runs, or left out of the repository.
MADE_BY_RUNS = {".artifact_baselines/", ".artifact_store/", "artifact_report/"}

pytestmark = pytest.mark.filterwarnings("ignore:only .* pairs")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def in_small(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Experiments on a few pairs, a few tokens, a few replicates; fixtures in reach."""
    pairs = written(tmp_path / "pairs.json", first_pairs(4))
    few = {"max_tokens": 3, "settings": AnalysisSettings(replicates=200), "store": store}

    def small(model: str = ALIGNED.name, _pairs: object = None, **more: Any) -> Experiment:
        return Experiment(model, load_pairs(pairs), **{**few, **more})

    monkeypatch.setattr(harness.experiment, "Experiment", small)
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    monkeypatch.chdir(tmp_path)
    yield
    left = {file.name for file in tmp_path.iterdir()} - {"my_report"}
    assert left == {"fixtures", "pairs.json"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["README.md", "docs/python.md"])
@pytest.mark.usefixtures("in_small")
def test_python_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, Any] = {}
    found = blocks(name, "python")
    assert found
    for block in found:
        code = compile(block, name, "exec")
        if "to_dataframe" in block and find_spec("pandas") is None:
            with pytest.raises(ImportError):
                exec(code, namespace)
            continue
        exec(code, namespace)
        assert "print(" not in block or capsys.readouterr().out.strip()


@pytest.mark.slow
@pytest.mark.usefixtures("in_small")
def test_the_notebook_runs() -> None:
    content = json.loads((ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))
    done = notebook.run(content)["cells"]
    for before, after in zip(content["cells"], done, strict=True):
        kinds = [
            [out.get("data", {}).keys() or out["text"][:0] for out in cell.get("outputs", [])]
            for cell in (before, after)
        ]
        assert kinds[0] == kinds[1], before["id"]


@pytest.mark.slow
@pytest.mark.usefixtures("in_small")
def test_the_check_that_is_shown_runs() -> None:
    agree, follow = (run(block, "docs/checks.md") for block in blocks("docs/checks.md", "python"))
    results = harness.analyze()
    passed = 0
    for result in results.values():
        try:
            agree["test_pairs_agree"](result)
        except AssertionError as error:
            assert f"layer {result.layer}: pairs agree" in str(error)  # noqa: PT017
        else:
            passed += 1
        # So few responses decide nothing.
        with pytest.raises(pytest.skip.Exception, match="evaded"):
            follow["test_mine"](result, results.analysis, results.criteria)
    assert passed, "it passes where the signature is strong"


def run(block: str, name: str) -> dict[str, Any]:
    """What a block of a page defines."""
    namespace: dict[str, Any] = {}
    exec(compile(block, name, "exec"), namespace)
    return namespace


@pytest.mark.parametrize("name", ["docs/checks.md", "docs/howto.md"])
def test_python_that_defines_can_be_imported(name: str) -> None:
    """Blocks of checks and plugins; those that compute something are run above."""
    for block in blocks(name, "python"):
        assert run(block, name)


def test_units_of_the_pairs_that_ship() -> None:
    text = " ".join((ROOT / "docs" / "statistics.md").read_text(encoding="utf-8").split())
    said = re.search(
        r"none share a prompt or nearly its wording; .* the (\d+) of `(\S+)` are (\d+) units, and "
        r"the (\d+) of `(\S+)` are (\d+)\.",
        text,
    )
    assert said
    shown = {said[2]: (int(said[1]), int(said[3])), said[5]: (int(said[4]), int(said[6]))}
    for file in sorted((ROOT / "fixtures").glob("*_pairs.json")):
        pairs = load_pairs(file).pairs
        found = find_clusters(pairs)
        assert {link.reason for link in found.links} <= {"cluster"}
        expected = (len(pairs), len(found))
        assert shown.get(f"fixtures/{file.name}", (len(pairs),) * 2) == expected


def test_python_is_nowhere_else() -> None:
    """A page with code that no test runs would be found here."""
    assert {name for name in NAMES if blocks(name, "python")} == {
        "README.md",
        "docs/python.md",
        "docs/checks.md",
        "docs/howto.md",
    }


@pytest.fixture(scope="module")
def known_flags() -> set[str]:
    own_names = {flag for option in OPTIONS for flag in (option.flag, option.short_flag)}
    others = {"--help", "--lf", "--pyargs", "--collect-only", "--junitxml", "--hostfile", "--html"}
    measurements = "".join(path.read_text() for path in (ROOT / "benchmarks").rglob("*.py"))
    measured = set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', measurements))
    programs = [ROOT / "gemma_mlx/cli.py", *(ROOT / "harness/cli").glob("*.py")]
    text = "".join(path.read_text() for path in programs)
    own = set(re.findall(r'add(?:_argument)?\(\s*"(--[a-z-]+)"', text)) | {"--no-chat-mode"}
    return own_names | others | measured | own


@pytest.mark.parametrize("name", NAMES)
def test_options_exist(name: str, known_flags: set[str]) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))
    assert named <= known_flags


def test_every_option_that_needs_a_value_has_one_in_the_commands() -> None:
    takes_one = [option for option in OPTIONS if not option.is_switch]
    values = {flag for option in takes_one for flag in (option.flag, option.short_flag)}
    for name in NAMES:
        for line in commands(name):
            words = line.split()
            for number, word in enumerate(words):
                if word in values:
                    assert number + 1 < len(words), line
                    assert not words[number + 1].startswith("-"), line


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for address in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in address and not address.startswith("#"):
            there = (ROOT / name).parent / address.partition("#")[0]
            assert there.exists(), address


@pytest.mark.parametrize("name", NAMES)
def test_files_exist(name: str) -> None:
    """Of inline code and commands, what looks like a path of the repository."""
    places = {path.name for path in ROOT.iterdir() if path.is_dir()} | MADE_BY_RUNS
    words = [word for line in (*spans(name), *commands(name)) for word in line.split()]
    for word in words:
        if word.startswith(tuple(MADE_BY_RUNS)) or "::" in word or "*" in word:
            continue
        if word.partition("/")[0] in places and "/" in word:
            assert (ROOT / word).exists(), word


@pytest.mark.parametrize("name", NAMES)
def test_make_targets_exist(name: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {
        target
        for line in (*spans(name), *commands(name))
        if (words := [word for word in line.split() if "=" not in word])[:1] == ["make"]
        for target in words[1:2]
    }
    assert named <= targets


@pytest.mark.parametrize("name", NAMES)
def test_modules_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert find_spec(module) is not None, module


def test_names_of_the_package_exist() -> None:
    """Inline code like `harness.analyze` or `gemma_mlx.load`."""
    import gemma_mlx
    import harness.stats

    packages = {"harness": harness, "gemma_mlx": gemma_mlx}
    for name in NAMES:
        for span in spans(name):
            match = re.match(r"(harness|gemma_mlx)((?:\.\w+)+)", span)
            if not match:
                continue
            found: Any = packages[match[1]]
            for part in match[2][1:].split("."):
                if not hasattr(found, part):
                    assert find_spec(f"{found.__name__}.{part}"), span
                    __import__(f"{found.__name__}.{part}")
                found = getattr(found, part)


def test_commands_have_help(capsys: pytest.CaptureFixture[str]) -> None:
    said = [line for name in NAMES for line in commands(name)]
    lines = [line for line in said if line.startswith("python -m harness")]
    assert lines
    for line in lines:
        command = line.split()[3]
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
        assert f"harness {command}" in capsys.readouterr().out


def test_results_file_is_described() -> None:
    """Every key of the results file, as docs/report.md lists them."""
    text = (ROOT / "docs/report.md").read_text(encoding="utf-8")
    named = {
        name
        for row in re.findall(r"^\| (`.*)$", text, re.M)
        for name in re.findall(r"`([\w.\[\]]+)`", row)
    }
    content = results_of(layer_result()).to_json()
    (layer,) = content["layers"]
    for key in content:
        assert {key, f"{key}[]"} & named or key == "schema_version", key
    for key in layer:
        assert key in named or key in ("separation", "in_sample"), key
    for key in ("d", "d_interval", "accuracy", "p_adjusted", "null_quantile_95"):
        assert key in named
        assert key in layer["separation"]
