"""The checkpoints and pairs that come with the harness, by bare name, from anywhere."""

import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.recipes import RECIPES
from harness.data import embedded
from tests.support.texts import ROOT


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_all_checkpoints_are_named() -> None:
    assert embedded.MODELS == (
        "tiny-gemma3-aligned",
        "tiny-gemma3-aligned-v2",
        "tiny-gemma3-base",
        "tiny-gemma3-selective",
    )
    assert embedded.MODEL in embedded.MODELS


def test_every_aligned_checkpoint_has_its_base() -> None:
    parents = {recipe.name: recipe.parent for recipe in RECIPES.values() if recipe.parent}
    assert parents == embedded.BASES


def test_the_one_copy_is_in_fixtures() -> None:
    assert embedded.PAIRS == ROOT / "fixtures" / "alignment_artifact_prompt_pairs.json"
    assert embedded.PAIRS.is_file()


@pytest.mark.parametrize("name", embedded.MODELS)
@pytest.mark.parametrize("kind", [str, Path])
def test_a_bare_name_is_found_from_anywhere(name: str, kind: type[str] | type[Path]) -> None:
    found = embedded.locate(kind(name))
    assert isinstance(found, str)
    assert Path(found) == ROOT / "fixtures" / name
    assert Path(found, "model.safetensors").is_file()


@pytest.mark.parametrize(
    "other",
    [
        "google/gemma-3-1b-it",
        "fixtures/tiny-gemma3-base",
        "./tiny-gemma3-base",
        "tiny-gemma3-base/",
        "tiny-gemma3",
        "grammar",
        "TINY-GEMMA3-BASE",
        "model.gguf",
        "..",
        "",
    ],
)
def test_anything_else_stays_as_it_is(other: str) -> None:
    assert embedded.locate(other) == other


def test_a_path_becomes_text() -> None:
    assert embedded.locate(Path("some/folder")) == str(Path("some/folder"))


def test_a_folder_of_that_name_comes_first(tmp_path: Path) -> None:
    (tmp_path / "tiny-gemma3-base").mkdir()
    assert embedded.locate("tiny-gemma3-base") == "tiny-gemma3-base"
    assert embedded.locate("tiny-gemma3-aligned") != "tiny-gemma3-aligned"


def test_so_does_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    """Rather an error that names it than another model than the one that was meant."""
    (tmp_path / "tiny-gemma3-base").symlink_to("gone")
    assert embedded.locate("tiny-gemma3-base") == "tiny-gemma3-base"


def test_an_installed_package_has_them_inside(tmp_path: Path) -> None:
    """As the wheel lays them; `.ci/wheel` looks at a real one."""
    data = tmp_path / "harness" / "data"
    data.mkdir(parents=True)
    (data / "embedded.py").write_bytes(Path(embedded.__file__).read_bytes())
    # Without it an installed `harness` would come first, wherever it lies.
    (data.parent / "__init__.py").touch()
    (data / "__init__.py").touch()
    model = tmp_path / "harness" / "embedded" / "tiny"
    model.mkdir(parents=True)
    (model / "config.json").touch()
    # Somebody else's.
    (tmp_path / "fixtures").mkdir()
    code = "from harness.data.embedded import *; print(MODELS, PAIRS, locate('tiny'), sep='\\n')"
    said = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert said == ["('tiny',)", str(model.parent / embedded.PAIRS.name), str(model)]


def test_only_the_standard_library_is_imported() -> None:
    """pytest reads the default model's name wherever the plugin is installed."""
    code = (
        "import sys; before = set(sys.modules); import harness.data.embedded; "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    assert set(said) - sys.stdlib_module_names == {"harness"}
