"""No test reaches beyond this machine: not here, not in a worker, not in a process it starts."""

import os
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.offline import sitecustomize

_FOLDER = str(Path(sitecustomize.__file__).parent)
_PATH = os.environ.get("PYTHONPATH", "").split(os.pathsep)
os.environ["PYTHONPATH"] = os.pathsep.join([_FOLDER, *(p for p in _PATH if p not in ("", _FOLDER))])


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: half a second or more; make quick leaves it out")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, and first of all the one that takes longest, so that no
    process is left alone with one in the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.name != "test_commands.py", item.path not in slow))


@pytest.fixture(scope="session", autouse=True)
def refused() -> Iterator[Path]:
    """Where the connections that this process and its children were refused are written down."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        log = Path(folder, "refused")
        patch.setenv(sitecustomize.LOG, str(log))
        yield log


@pytest.fixture(scope="session")
def _imported() -> None:
    """pytest's runs within this process forget what they imported, and PyTorch, which transformers
    imports where it is there, crashes when it is imported twice."""
    from transformers import AutoTokenizer  # noqa: F401

    import gemma_mlx.system.backend  # noqa: F401

    if find_spec("torch") is not None:
        # Of PyTorch more than tokenizers need.
        import transformers.modeling_utils  # noqa: F401


@pytest.fixture
def pytester(_imported: None, pytester: pytest.Pytester) -> pytest.Pytester:
    return pytester


@pytest.fixture(autouse=True)
def _no_network(refused: Path) -> Iterator[None]:
    yield
    if refused.exists():
        said = refused.read_text(encoding="utf-8")
        refused.unlink()
        pytest.fail(f"a test wanted the network:\n{said}", pytrace=False)
