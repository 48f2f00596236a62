"""The small checkpoints and the prompt pairs that come with the harness.

They are kept once, in `fixtures/`; a wheel carries them inside the package.
"""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_INSTALLED, _CHECKOUT = _PACKAGE / "embedded", _PACKAGE.parent / "fixtures"
_FOLDER = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT

#: Name of the checkpoint that is taken where none is named.
MODEL = "tiny-gemma3-aligned"

#: The prompt pairs that are taken where none are named.
PAIRS = _FOLDER / "alignment_artifact_prompt_pairs.json"

#: What counts as evading, where nothing else is said.
BEHAVIOURS = _FOLDER / "behaviours.json"

#: Names of all checkpoints and of all adapters, sorted.
MODELS = tuple(sorted(config.parent.name for config in _FOLDER.glob("*/config.json")))
ADAPTERS = tuple(sorted(config.parent.name for config in _FOLDER.glob("*/adapter_config.json")))

#: What the embedded models that were aligned were trained from.
BASES = {
    "tiny-gemma3-aligned": "tiny-gemma3-base",
    "tiny-gemma3-aligned-v2": "tiny-gemma3-base",
    "tiny-gemma3-selective": "tiny-gemma3-base",
}


def locate(model: str | os.PathLike[str]) -> str:
    """The folder of an embedded checkpoint or adapter, given its bare name.

    Args:
        model: the name of an embedded one, or anything else that names a model or an adapter: a
            folder, a file, `owner/name` on the hub.

    Returns:
        The folder's path where `model` is one of `MODELS` or `ADAPTERS` and the working directory
        has nothing of that name; `model` itself, as text, in every other case.
    """
    name = os.fspath(model)
    known = name in (*MODELS, *ADAPTERS) and not os.path.lexists(name)
    return str(_FOLDER / name) if known else name
