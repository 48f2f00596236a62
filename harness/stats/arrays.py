"""What comes in: shapes, missing values, repeated pairs, and tokens averaged to pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
Layers = NDArray[np.floating] | Sequence[NDArray[np.floating]]
"""`(layers, pairs, hidden)`, or one `(pairs, hidden)` array per layer, of any widths."""


def as_layers(name: str, values: Layers) -> list[NDArray[np.floating]]:
    """Check one condition's activations and split them into `(pairs, hidden)` layers."""
    wanted = f"{name} must be (layers, pairs, hidden), or a sequence of (pairs, hidden) arrays"
    if isinstance(values, np.ndarray) and values.ndim != 3:
        hint = "; for one layer pass it as array[None]" if values.ndim == 2 else ""
        raise ValueError(f"{wanted}, not an array of shape {values.shape}{hint}")
    layers = [np.asarray(layer) for layer in values]
    if not layers:
        raise ValueError(f"{wanted}; it holds no layer at all")
    for index, layer in enumerate(layers):
        if layer.ndim != 2 or layer.shape[1] == 0:
            raise ValueError(f"{wanted}; its layer {index} has shape {layer.shape}")
        if layer.dtype.kind not in "fiub":
            raise ValueError(f"{name} must hold real numbers, not {layer.dtype} (layer {index})")
        if len(layer) != len(layers[0]):
            raise ValueError(
                f"{name} must have the same pairs in every layer: layer {index} has "
                f"{len(layer)}, layer 0 has {len(layers[0])}"
            )
    return layers


def matched_layers(
    artifact: Layers, natural: Layers, suffix: str = ""
) -> list[tuple[NDArray[np.floating], NDArray[np.floating]]]:
    """Both arms, layer by layer, after checking that they match and are finite."""
    names = f"artifact{suffix}", f"natural{suffix}"
    arms = [as_layers(name, arm) for name, arm in zip(names, (artifact, natural), strict=True)]
    shapes = [[layer.shape for layer in arm] for arm in arms]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{names[0]} and {names[1]} must have the same shape, layer by layer: "
            f"{_describe(shapes[0])} against {_describe(shapes[1])}"
        )
    for name, arm in zip(names, arms, strict=True):
        for index, layer in enumerate(arm):
            bad = np.flatnonzero(~np.isfinite(layer).all(axis=1))
            if bad.size:
                raise ValueError(
                    f"{name} holds NaN or infinity in layer {index}, pair {bad[0]} "
                    f"({bad.size} such pairs in this layer); drop them with finite_pairs"
                )
    return list(zip(*arms, strict=True))


def finite_pairs(*conditions: Layers, max_dropped: float = 0.1) -> NDArray[np.bool_]:
    """Pairs that are finite in every layer of every condition and version.

    Args:
        *conditions: activations as `separation` takes them: both arms, of one version or of both.
        max_dropped: largest share of pairs that may be dropped.

    Returns:
        Boolean mask of shape `(pairs,)`: index every layer's pair axis with it.

    Raises:
        ValueError: more than `max_dropped` of the pairs are not finite, or shapes do not match.
    """
    layers = [layer for values in conditions for layer in as_layers("each condition", values)]
    if len({len(layer) for layer in layers}) != 1:
        raise ValueError("every condition must hold the same pairs")
    keep = np.logical_and.reduce([np.isfinite(layer).all(axis=1) for layer in layers])
    dropped = int((~keep).sum())
    if dropped > max_dropped * keep.size:
        raise ValueError(
            f"{dropped} of {keep.size} pairs hold NaN or infinity, more than the "
            f"{max_dropped:.0%} that may be dropped; first: pair {int(np.argmin(keep))}"
        )
    return keep


def distinct_pairs(*conditions: Layers) -> NDArray[np.intp]:
    """Index of the first of each set of pairs that are identical throughout.

    Two pairs are duplicates if they agree bit for bit in every layer of every condition given
    (both arms; for a comparison, both versions). A pair counted twice is not two observations,
    and its copy would be scored along a direction that knows it.

    Returns:
        Increasing integer array: the pairs to keep.
    """
    layers = [layer for values in conditions for layer in as_layers("each condition", values)]
    first: dict[bytes, int] = {}
    for pair in range(len(layers[0])):
        digest = hashlib.blake2b()
        for layer in layers:
            digest.update((layer[pair] + 0.0).tobytes())  # + 0.0 makes -0.0 equal 0.0
        first.setdefault(digest.digest(), pair)
    return np.fromiter(first.values(), dtype=np.intp)


def average_duplicates(values: ArrayLike, labels: Sequence[Hashable]) -> FloatArray:
    """Average the pairs that share a label, for prompts repeated under several ids.

    Args:
        values: `(..., pairs, hidden)` activations.
        labels: one hashable per pair; pairs with equal labels (the same two prompts after folding
            whitespace and case, say) become one, at the place of the first.

    Returns:
        float64 array `(..., distinct, hidden)`.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim < 2 or array.shape[-2] != len(labels):
        raise ValueError(
            f"values must be (..., pairs, hidden) with {len(labels)} pairs, one per label, "
            f"not of shape {array.shape}"
        )
    groups: dict[Hashable, list[int]] = {}
    for pair, label in enumerate(labels):
        groups.setdefault(label, []).append(pair)
    return np.stack([array[..., group, :].mean(axis=-2) for group in groups.values()], axis=-2)


def pair_means(
    artifact: Sequence[NDArray[np.floating]], natural: Sequence[NDArray[np.floating]]
) -> tuple[FloatArray, FloatArray]:
    """Average tokens to pairs, over as many tokens as both arms have.

    A drift with position would otherwise pass for an effect wherever lengths differ, so the
    longer response is cut to the length of the shorter.

    Args:
        artifact, natural: one array `(..., tokens, hidden)` per pair, for example
            `(layers, tokens, hidden)`; the number of tokens may differ between pairs and between
            arms.

    Returns:
        Two float64 arrays `(..., pairs, hidden)`.

    Raises:
        ValueError: the arms have different numbers of pairs, or a pair has no token in common.
    """
    if len(artifact) != len(natural):
        raise ValueError(
            f"artifact and natural must hold the same pairs: {len(artifact)} and {len(natural)}"
        )
    means: tuple[list[FloatArray], list[FloatArray]] = ([], [])
    for pair, arms in enumerate(zip(artifact, natural, strict=True)):
        tokens = min(arm.shape[-2] for arm in arms)
        if tokens == 0:
            raise ValueError(f"pair {pair} has no tokens in one of its arms; drop the pair")
        for side, arm in zip(means, arms, strict=True):
            side.append(arm[..., :tokens, :].mean(axis=-2, dtype=np.float64))
    return np.stack(means[0], axis=-2), np.stack(means[1], axis=-2)


def _describe(shapes: list[tuple[int, ...]]) -> str:
    return f"{len(shapes)} layers of {', '.join(map(str, sorted(set(shapes))))}"
