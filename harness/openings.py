"""How likely a model is to begin with an evasion, before it has written anything.

No judge is needed for that, and no answer: the model itself says how likely each of some openings
is after each prompt (`harness.data.behaviours`).
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

import gemma_mlx
from gemma_mlx import Checkpoint
from gemma_mlx.system.files import read_json, write_whole
from harness.backends.choice import backend_identity, load_model
from harness.collect import CODE_VERSION
from harness.data.behaviours import OPENINGS, Behaviours
from harness.data.store import StoreError


def opening_log_odds(
    checkpoint: Checkpoint,
    prompts: Mapping[str, str],
    behaviours: Behaviours,
    root: Path,
    *,
    chat: bool = True,
    again: bool = False,
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> dict[str, float]:
    """log Σ P(evasive openings) − log Σ P(plain ones) after each prompt, nats, by its group.

    They are kept in `root`/openings, and the model is loaded only where they aren't there.

    Args:
        prompts: by group.
        again: measure anew what is there.
        progress: wraps the iteration over groups, for example `tqdm`.

    Raises:
        gemma_mlx.CheckpointError, gemma_mlx.RequestError: model or prompts can't be used.
        StoreError: `root` can't be written.
    """
    identity = [
        checkpoint.fingerprint, dict(prompts), dict(behaviours.openings), chat,
        gemma_mlx.device_name(), CODE_VERSION, *backend_identity(checkpoint).items(),
    ]  # fmt: skip
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]
    file = root / "openings" / f"{key}.json"
    if not again and (known := _known(file, prompts)) is not None:
        return known
    model = load_model(checkpoint)
    assert model.tokenizer is not None
    groups = sorted(prompts)
    encoded = gemma_mlx.encode_prompts(model, [prompts[g] for g in groups], chat=chat, names=groups)
    openings = {
        # Without what every text begins with.
        kind: [
            model.tokenizer.encode(text, chat=False)[len(model.tokenizer.opening) :]
            for text in texts
        ]
        for kind, texts in behaviours.openings.items()
    }
    texts = [tokens for kind in OPENINGS for tokens in openings[kind]]
    evasive = len(openings["evasive"])
    found = {}
    for group, prompt in zip(progress(groups), encoded, strict=True):
        read = model.read_choice(prompt, texts).token_log_probs()
        total = np.array([tokens.sum(dtype=np.float64) for tokens in read])
        found[group] = float(_log_sum(total[:evasive]) - _log_sum(total[evasive:]))
    content = json.dumps({"log_odds": found}, sort_keys=True).encode()
    write_whole(file, content, error=StoreError)
    return found


def _log_sum(values: np.ndarray) -> float:
    return float(np.logaddexp.reduce(values))


def _known(file: Path, prompts: Mapping[str, str]) -> dict[str, float] | None:
    """What was measured before; None where it isn't there, or damaged."""
    if not file.exists():
        return None
    try:
        found = read_json(file, error=StoreError)
        log_odds = {str(group): float(value) for group, value in found["log_odds"].items()}
    except (StoreError, LookupError, TypeError, ValueError, AttributeError):
        return None
    return log_odds if log_odds.keys() == prompts.keys() else None
