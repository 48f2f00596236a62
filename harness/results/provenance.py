"""Where a result comes from: enough to run it again and to know what to compare it with."""

import os
import platform
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gemma_mlx
from gemma_mlx import Checkpoint
from harness.backends.choice import backend_identity
from harness.data.npz_run import NpzRun
from harness.data.pairs import PromptPairs
from harness.data.store import RunStore
from harness.settings import AnalysisSettings, CollectSettings

#: Said of a run whose activations were all in the store.
ALL_REUSED = "taken from the store"
_NONE_REUSED = "collected by this run"

_PACKAGES = ("artifact-harness", "mlx", "numpy", "scipy", "transformers", "safetensors")


def provenance(
    model: str | os.PathLike[str],
    revision: str | None,
    adapter: str | os.PathLike[str] | None,
    checkpoint: Checkpoint,
    pairs: PromptPairs,
    collected: CollectSettings,
    analysed: AnalysisSettings,
) -> dict[str, Any]:
    """JSON-ready facts about a run: model, pairs, settings, versions, machine, date (UTC)."""
    return {
        "model": str(model),
        "revision": revision,
        "adapter": None if adapter is None else str(adapter),
        "adapter_fingerprint": checkpoint.adapter and checkpoint.adapter.fingerprint,
        "model_fingerprint": checkpoint.fingerprint,
        "model_layers": checkpoint.config.num_hidden_layers,
        "unknown_config_keys": list(checkpoint.config.unknown_keys),
        "backend": next((f"{n} {v}" for n, v in backend_identity(checkpoint).items()), "gemma_mlx"),
        "template_fingerprint": checkpoint.chat_template_fingerprint,
        **_pairs(pairs),
        "collection": asdict(collected),
        "analysis": asdict(analysed),
        "blas": gemma_mlx.BLAS,
        "device": gemma_mlx.device_name(),
        **_surroundings(),
    }


def origin(run: RunStore) -> dict[str, str]:
    """Where a run's activations are, and whether they were made for this analysis."""
    made = _NONE_REUSED
    if run.reused == 1:
        made = ALL_REUSED
    elif run.reused:
        made = f"{run.reused:.0%} of the prompts {ALL_REUSED}, the others {_NONE_REUSED}"
    return {"run_key": run.key, "origin": made}


def provenance_of_files(
    run: NpzRun, pairs: PromptPairs, analysed: AnalysisSettings
) -> dict[str, Any]:
    """The same for activations that were read from npz files; of their model nothing is known."""
    return {
        "activations": str(run.source),
        **_pairs(pairs),
        "missing_steps": {group: list(steps) for group, steps in run.missing.items()},
        "ignored_steps": {group: list(steps) for group, steps in run.ignored.items()},
        "analysis": asdict(analysed),
        **_surroundings(),
    }


def _pairs(pairs: PromptPairs) -> dict[str, Any]:
    pairs_version = pairs.metadata.get("version")
    return {
        "pairs_file": Path(pairs.source).name,
        # A file made elsewhere may have anything there.
        "pairs_version": pairs_version if isinstance(pairs_version, str | int | float) else None,
        "pairs_fingerprint": pairs.fingerprint,
    }


def _surroundings() -> dict[str, Any]:
    return {
        "packages": {name: version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "git_commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    """Commit of this harness; None where it doesn't run from a git checkout of its own."""
    root = Path(__file__).resolve().parents[2]
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--show-toplevel", "HEAD"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    checkout, commit = found.stdout.splitlines()
    # An environment may lie in a checkout of something else.
    return commit if Path(checkout).resolve() == root else None
