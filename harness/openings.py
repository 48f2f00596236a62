"""How likely a model is to begin with an evasion, before it has written anything.

No judge is needed for that, and no answer: the model itself says how likely each of some openings
is after each prompt (`harness.data.behaviours`).
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from time import monotonic

import numpy as np

import gemma_mlx
from gemma_mlx import Checkpoint
from gemma_mlx.system.files import read_json, write_whole
from harness.backends.choice import backend_identity, load_model
from harness.collect import CODE_VERSION
from harness.data.behaviours import OPENINGS, Behaviours
from harness.data.store import StoreError

# Seconds of work that an interrupt may lose, beside the prompt that it meets.
_EVERY = 1.0


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

    They are kept in `root`/openings, also where it is interrupted, and only what isn't there is
    measured; where all is, no model is loaded.

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
    found = {} if again else _known(file, prompts)
    groups = sorted(prompts.keys() - found.keys())
    if not groups:
        return found
    model = load_model(checkpoint)
    assert model.tokenizer is not None
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
    written = monotonic()
    for group, prompt in zip(progress(groups), encoded, strict=True):
        read = model.read_choice(prompt, texts).token_log_probs()
        total = np.array([tokens.sum(dtype=np.float64) for tokens in read])
        found[group] = float(_log_sum(total[:evasive]) - _log_sum(total[evasive:]))
        if monotonic() - written >= _EVERY or len(found) == len(prompts):
            # Another process may measure the same, and be further.
            there = {} if again else _known(file, prompts)
            content = json.dumps({"log_odds": {**there, **found}}, sort_keys=True).encode()
            write_whole(file, content, error=StoreError)
            written = monotonic()
    return found


def _log_sum(values: np.ndarray) -> float:
    return float(np.logaddexp.reduce(values))


def _known(file: Path, prompts: Mapping[str, str]) -> dict[str, float]:
    """What was measured before of these prompts; nothing where the file is damaged."""
    if not file.exists():
        return {}
    try:
        found = read_json(file, error=StoreError)
        log_odds = {str(group): float(value) for group, value in found["log_odds"].items()}
    except (StoreError, LookupError, TypeError, ValueError, AttributeError):
        return {}
    return {group: value for group, value in log_odds.items() if group in prompts}
