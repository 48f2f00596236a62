"""What is installed, with which versions, and what the wheel has to hold."""

import importlib.util
import re
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import harness
from tests.support.texts import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
BACKENDS = ("cpu", "cuda12", "cuda13")
FILES = {path.name: path for path in sorted(ROOT.glob("requirements*.txt"))}
PIN = re.compile(r"([a-z0-9-]+)==([0-9][0-9a-z.]*)(?: ; (.+))?")


def pins(name: str) -> list[tuple[str, str]]:
    """Packages and versions of a file; the first line says what the file is."""
    first, *lines = FILES[name].read_text(encoding="utf-8").splitlines()
    assert first.startswith("# ")
    found = [PIN.fullmatch(line) for line in lines]
    assert all(found), lines[found.index(None)]
    return [(match[1], match[2]) for match in found if match]


def names(requirements: list[str]) -> set[str]:
    """Packages that are named in `pyproject.toml`, without extras and ranges."""
    found = (re.match(r"[\w.-]+", text) for text in requirements)
    return {match[0].lower().replace("_", "-") for match in found if match}


def test_there_is_a_file_for_users_developers_and_each_back_end() -> None:
    assert set(FILES) == {
        "requirements.txt",
        "requirements-dev.txt",
        *(f"requirements-{backend}.txt" for backend in BACKENDS),
    }


@pytest.mark.parametrize("name", FILES)
def test_every_version_is_exact_and_no_host_is_named(name: str) -> None:
    assert pins(name)


def test_a_user_gets_what_the_package_names_and_no_tools() -> None:
    wanted = PROJECT["project"]["dependencies"] + EXTRAS["gguf"] + EXTRAS["models"]
    installed = {package for package, _ in pins("requirements.txt")}
    assert names(wanted) <= installed
    assert not names(PROJECT["dependency-groups"]["dev"]) & installed


def test_developers_get_the_tools_beside_it() -> None:
    tools = {package for package, _ in pins("requirements-dev.txt")}
    assert names(PROJECT["dependency-groups"]["dev"]) <= tools
    assert not tools & {package for package, _ in pins("requirements.txt")}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_back_end_is_of_mlx_own_version(backend: str) -> None:
    beside = dict(pins(f"requirements-{backend}.txt"))
    assert EXTRAS[backend] == [f"mlx[{backend}]>=0.32"]
    package = "mlx-" + backend.replace("cuda", "cuda-")
    assert beside[package] == dict(pins("requirements.txt"))["mlx"]
    others = {package for name in FILES for package, _ in pins(name) if "mlx-" in package}
    assert others - {package} > set()
    assert not (others - {package}) & set(beside)


def test_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", harness.__version__)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(harness.__version__)}\b", changelog, re.M)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == harness.__version__


def test_workflows_run_every_python_that_is_promised() -> None:
    promised = {
        found[1]
        for line in PROJECT["project"]["classifiers"]
        if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line))
    }
    flow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
    assert set(flow["jobs"]["linux"]["strategy"]["matrix"]["python"]) == promised


@pytest.fixture(scope="module")
def contents() -> ModuleType:
    """`.ci/contents.py`."""
    spec = importlib.util.spec_from_file_location("contents", ROOT / ".ci" / "contents.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def packed(wheel: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return wheel


@pytest.fixture
def right(contents: ModuleType) -> dict[str, bytes]:
    """What has to be in a wheel."""
    files = {name: path.read_bytes() for name, path in contents.expected().items()}
    return {**files, "artifact_harness-0.1.0.dist-info/METADATA": b"Name: artifact-harness\n"}


def test_a_right_wheel(contents: ModuleType, right: dict[str, bytes], tmp_path: Path) -> None:
    assert contents.differences(packed(tmp_path / "right.whl", right)) == []


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("harness/py.typed", None, "missing: harness/py.typed"),
        ("harness/report/templates/report.css", None, "missing: harness/report/templates/"),
        ("harness/embedded/tiny-gemma3-base/config.json", None, "missing: harness/embedded/"),
        ("fixtures/__init__.py", b"", "doesn't belong there: fixtures/__init__.py"),
        ("harness/embedded/train.py", b"", "doesn't belong there: harness/embedded/train.py"),
        ("harness/embedded/tiny-gemma3-base/config.json", b"{}", "differs from fixtures/tiny"),
    ],
)
def test_a_wrong_wheel(
    contents: ModuleType,
    right: dict[str, bytes],
    tmp_path: Path,
    name: str,
    content: bytes | None,
    said: str,
) -> None:
    right.pop(name, None)
    if content is not None:
        right[name] = content
    (line,) = contents.differences(packed(tmp_path / "wrong.whl", right))
    assert line.startswith(said)
