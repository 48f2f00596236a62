"""What importing gemma_mlx loads, and what it says where MLX can't be loaded."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gemma_mlx
from tests.support.runs import ALIGNED

PACKAGE = Path(gemma_mlx.__file__).parent
ROOT = PACKAGE.parent
LIGHT = (
    "gemma_mlx",
    "gemma_mlx.checkpoint",
    "gemma_mlx.config",
    "gemma_mlx.errors",
    "gemma_mlx.prompts_file",
    "gemma_mlx.request",
    "gemma_mlx.sites",
    "gemma_mlx.system.files",
    "gemma_mlx.system.interrupts",
    "gemma_mlx.system.terminal",
)
HEAVY = {"huggingface_hub", "jinja2", "mlx", "numpy", "tokenizers", "torch", "transformers"}


def imports(path: Path) -> set[str]:
    """Every module that a file imports from, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


WITH_MLX = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if "gemma_mlx.system.backend" in imports(path)
)


def python(*arguments: str, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own that looks for modules in `path` first."""
    where = os.pathsep.join([str(path), str(ROOT)])
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": where},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_importing_the_package_loads_nothing_heavy() -> None:
    done = python("-c", f"import sys, {', '.join(LIGHT)}; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    assert not HEAVY & {name.partition(".")[0] for name in done.stdout.split()}


def test_every_name_is_there() -> None:
    assert set(gemma_mlx.__all__) <= set(dir(gemma_mlx))
    for name in gemma_mlx.__all__:
        getattr(gemma_mlx, name)
    with pytest.raises(AttributeError, match="no attribute 'generat'"):
        gemma_mlx.generat  # noqa: B018


def test_mlx_enters_through_one_module() -> None:
    backend = PACKAGE / "system/backend.py"
    assert "mlx.core" in imports(backend)
    for path in (*PACKAGE.rglob("*.py"), *(ROOT / "fixtures").glob("*.py")):
        if path != backend:
            assert not {name for name in imports(path) if name.partition(".")[0] == "mlx"}, path


def broken_mlx(folder: Path, library: str) -> Path:
    """A folder with an MLX like that of a Linux machine where a library is missing."""
    (folder / "mlx").mkdir()
    (folder / "mlx/__init__.py").touch()
    (folder / "mlx/core.py").write_text(
        f'raise ImportError("{library}: cannot open shared object file: No such file or directory")'
    )
    return folder


@pytest.fixture
def no_backend(tmp_path: Path) -> Path:
    return broken_mlx(tmp_path, "libmlx.so")


def test_without_a_back_end_every_module_says_what_to_install(no_backend: Path) -> None:
    program = (
        "import importlib, sys\n"
        "from gemma_mlx.errors import BackendError\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except BackendError as error:\n"
        "        print(error)\n"
    )
    done = python("-c", program, *WITH_MLX, path=no_backend)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == len(WITH_MLX) > 5
    for line in said:
        assert "libmlx.so" in line
        for extra in ("cpu", "cuda12", "cuda13"):
            assert f"artifact-harness[{extra}]" in line


def test_without_a_back_end_the_command_ends_with_one_line(no_backend: Path) -> None:
    done = python("-m", "gemma_mlx", "--model", str(ALIGNED), "--prompts", "x", path=no_backend)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "artifact-harness[cpu]" in done.stderr
    assert python("-m", "gemma_mlx", "--help", path=no_backend).returncode == 0


def test_without_the_driver_it_is_the_driver_that_is_named(tmp_path: Path) -> None:
    driverless = broken_mlx(tmp_path, "libcuda.so.1")
    done = python("-m", "gemma_mlx", "--model", str(ALIGNED), "--prompts", "x", path=driverless)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "needs NVIDIA's driver" in done.stderr
    assert "one of the extras" not in done.stderr


def test_a_blas_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMMA_MLX_BLAS", "libnowhere.so.0")
    done = python("-m", "gemma_mlx", "--model", str(ALIGNED), "--prompts", "x")
    if sys.platform.startswith("linux"):
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "GEMMA_MLX_BLAS=libnowhere.so.0" in done.stderr
