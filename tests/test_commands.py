"""Every command of README and docs is run, on a few pairs, tokens and layers, with stand-ins for
what the reader would put in its place."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from gemma_mlx.__main__ import main as run_model
from harness.cli import main
from harness.options import OPTIONS
from tests.support.builders import adapter, checkpoint, first_pairs, written
from tests.support.launch import launcher
from tests.support.llama import llama_checkpoint
from tests.support.published import FILES
from tests.support.runs import ALIGNED, SHORT
from tests.support.texts import NAMES, ROOT, commands

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.filterwarnings("ignore:only .* pairs", "ignore:.*the other run")

# What isn't a matter of this repository's code, or is what runs these tests.
NOT_RUN = ("make ", ". .venv/bin/activate", "hf auth login", "sudo apt-get ", "git clone ")
STAND_INS = {
    "google/gemma-3-1b-it": ALIGNED,
    "mlx-community/gemma-3-1b-it-qat-4bit": ALIGNED,
    "OLD": ALIGNED,
    "NEW": ALIGNED,
    "BASE": ALIGNED,
}
# What docs/pairs.md makes pairs of.
ROWS = {
    "my_prompts.csv": "plain,loaded,theme,topic\nHow do taxes work?,May I dodge tax?,law,tax\n",
    "my_long_prompts.jsonl": (
        '{"text": "How do taxes work?", "kind": "safe", "topic": "tax"}\n'
        '{"text": "May I dodge tax?", "kind": "unsafe", "topic": "tax"}\n'
    ),
}
EXAMPLE = re.compile(r"```python\n# (test_\w+\.py)\n(.*?)^```", re.M | re.S)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Few pairs, and a store and a deep model that all pages share."""
    folder = tmp_path_factory.mktemp("given")
    deep = checkpoint(folder / "deep", num_hidden_layers=13)
    llama = llama_checkpoint(folder / "llama", num_hidden_layers=8)
    return {
        # With a blank: no word of a command is meant.
        "few pairs": written(folder / "pairs.json", first_pairs(4)),
        "a store": folder / "store",
        "path/to/checkpoint": deep.path,
        "ADAPTER": adapter(folder / "adapter", ALIGNED),
        "HuggingFaceTB/SmolLM2-135M-Instruct": llama,
        ".smollm/SmolLM2-135M-Instruct.Q4_1.gguf": llama,
    }


@pytest.fixture
def run(
    given: dict[str, Path], pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], int]:
    """Run one command in a folder that looks like the repository."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (pytester.path / "my_pairs.json").write_bytes(given["few pairs"].read_bytes())
    for files in (ROWS, *FILES.values()):
        for file, content in files.items():
            (pytester.path / file).parent.mkdir(exist_ok=True)
            (pytester.path / file).write_text(content, encoding="utf-8")
    (pytester.path / "fixtures").symlink_to(ROOT / "fixtures")

    def stand_in(word: str) -> str:
        if word.startswith("artifact_checks"):
            return str(ROOT / word)
        return str({**STAND_INS, **given}.get(word, word))

    def run(line: str) -> int:
        small: dict[str, object]
        words = [stand_in(word) for word in shlex.split(line, comments=True)]
        pairs = {"--pairs": given["few pairs"]}
        stored = {"--max-tokens": "3", "--artifact-store": given["a store"]}
        quick = {"--replicates": "200"}
        if words[0] == "mlx.launch":
            flags = [str(part) for item in (pairs | stored).items() for part in item]
            ended = launcher([sys.executable if w == "python" else w for w in words[1:]] + flags)
            # The launcher's own exit code doesn't say it.
            return 0 if "WARN" not in ended.stderr else 2
        if words[:3] == ["python", "-m", "gemma_mlx"]:
            return run_model([*words[3:], "--max-tokens", "3"])
        if words[:3] == ["python", "-m", "harness"]:
            name, *more = words[3:]
            if name == "verify":
                # PyTorch can't be imported a second time, which pytest's runs within this one do.
                program = [sys.executable, "-W", "ignore", "-m", "harness", name, *more]
                return 0 if find_spec("torch") is None else subprocess.run(program).returncode
            small = {
                "prepare": {} if "--from" in more else pairs,
                "pairs": quick,
                "collect": pairs | stored,
                "analyze": pairs | quick | ({} if "--activations" in more else stored),
                "store": {"--artifact-store": given["a store"]},
            }.get(name, {})
            return main([name, *more, *(str(part) for item in small.items() for part in item)])
        assert words[0] == "pytest"
        small = {
            **pairs,
            **stored,
            **quick,
            "--artifact-random-directions": "39",
            "-c": ROOT / "pytest.ini",
            "--rootdir": ROOT,
        }
        # Tensor-parallel activations were collected before, at all layers.
        if not {"--layers", "--tensor-parallel"} & set(words):
            small["--layers"] = "6-7"
        flags = [str(part) for item in small.items() for part in item]
        quiet = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:html")
        return int(pytester.runpytest_inprocess(*quiet, *SHORT, *flags, *words[1:]).ret)

    return run


@pytest.fixture(scope="module")
def finished() -> set[str]:
    """Commands that an earlier page has run, and that leave nothing but the report."""
    return set()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if commands(name)])
def test_every_command_runs(name: str, run: Callable[[str], int], finished: set[str]) -> None:
    for file, code in EXAMPLE.findall((ROOT / name).read_text(encoding="utf-8")):
        Path(file).write_text(code, encoding="utf-8")
    # Lines that differ in nothing but the model that the reader would name are one.
    lines = {tuple(STAND_INS.get(w, w) for w in line.split()): line for line in commands(name)}
    for line in lines.values():
        if not line or line.startswith(NOT_RUN):
            continue
        if line in finished and Path("artifact_report").exists():
            continue
        # 1: done, and a check failed.
        assert run(line) in (0, 1), line
        if line.startswith("pytest artifact_checks") and "--artifact-" not in line:
            finished.add(line)


def test_reference_has_every_option() -> None:
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(--[a-z-]+)[^`]*`( ·)? \| (.*) \|$", text, re.M)
    assert rows == [(option.flag, " ·" * option.short, option.help) for option in OPTIONS]


def test_reference_has_every_check() -> None:
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", text.partition("## Checks")[2]))
    there = {
        name
        for file in (ROOT / "artifact_checks").glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.M)
    }
    assert named == there
