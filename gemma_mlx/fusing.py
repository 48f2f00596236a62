"""An adapter's changes, made to the weights when they are loaded.

Nothing else of the model need then know of the adapter: capture, interventions and tensor
parallelism work as without one. A weight that was quantized is in full precision afterwards.
"""

from collections.abc import Callable

from gemma_mlx.adapters import Adapter, Change
from gemma_mlx.errors import CheckpointError
from gemma_mlx.system.backend import mx


def fuse(
    weights: dict[str, mx.array],
    adapter: Adapter,
    our_name: Callable[[str], str | None],
    dequantized: Callable[[str], mx.array],
) -> dict[str, mx.array]:
    """The weights with an adapter's changes; float32 where they are changed.

    Args:
        weights: by the model's own names, not modified.
        our_name: the model's name of a checkpoint's tensor.
        dequantized: a module's weight in full precision, by the module's path.

    Raises:
        CheckpointError: a tensor that can't be read, or doesn't fit the model.
    """
    changes = adapter.changes
    try:
        tensors: dict[str, mx.array] = mx.load(str(adapter.weights))  # type: ignore[assignment]
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{adapter.weights}: MLX can't read it ({error})") from None
    changed = dict(weights)
    for change in changes:
        name = our_name(change.tensor)
        if name not in weights:
            raise CheckpointError(
                f"{adapter.weights}: changes {change.tensor}, which this model hasn't; was it "
                "trained on another one?"
            )
        if changed[name] is not weights[name]:
            raise CheckpointError(f"{adapter.weights}: changes {change.tensor} twice")
        if change.input_only and "lm_head.weight" not in weights:
            raise CheckpointError(
                f"{adapter.weights}: changes {change.tensor} as the model's input alone, but this "
                "model's head is tied to it; leave embed_tokens out of target_modules"
            )
        path = name.removesuffix(".weight")
        before = dequantized(path) if name.endswith(".weight") else weights[name]
        try:
            changed[name] = _changed(before.astype(mx.float32), change, tensors)
        except ValueError as error:
            raise CheckpointError(
                f"{adapter.weights}: its change of {change.tensor} doesn't fit this model's "
                f"{before.shape} ({error}); was it trained on another one?"
            ) from None
        for part in ("scales", "biases"):
            changed.pop(f"{path}.{part}", None)
    return changed


def _changed(weight: mx.array, change: Change, tensors: dict[str, mx.array]) -> mx.array:
    """Raises ValueError where shapes don't fit."""
    if change.whole is not None:
        new = tensors[change.whole].astype(mx.float32)
        if new.shape != weight.shape:
            raise ValueError(f"its shape is {new.shape}")
        return new
    a, b = (tensors[name].astype(mx.float32) for name in (change.a, change.b))
    if change.transposed:
        a, b = a.T, b.T
    product = b @ a
    if product.shape != weight.shape:
        raise ValueError(f"its product has shape {product.shape}")
    weight = weight + change.scale * product
    if change.magnitude is None:
        return weight
    magnitude = tensors[change.magnitude].astype(mx.float32)
    if magnitude.shape != weight.shape[:1]:
        raise ValueError(f"its magnitudes have shape {magnitude.shape}")
    return weight * (magnitude / mx.linalg.norm(weight, axis=1))[:, None]
