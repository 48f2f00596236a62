"""What comes in: shapes, missing values, repeated pairs, and tokens averaged to pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
Layers = NDArray[np.floating] | Sequence[NDArray[np.floating]]
"""`(layers, pairs, hidden)`, or one `(pairs, hidden)` array per layer, of any widths. A sequence
may make its arrays when it is asked for them: no more than one layer is held at a time."""

Layer = NDArray[np.floating]


class Checked(Sequence[Layer]):
    """One condition's activations as `(pairs, hidden)` layers, checked when they are asked for.

    Raises:
        ValueError: naming the condition, here and where a layer is asked for.
    """

    def __init__(self, name: str, values: Layers) -> None:
        wanted = f"{name} must be (layers, pairs, hidden), or a sequence of (pairs, hidden) arrays"
        if isinstance(values, np.ndarray) and values.ndim != 3:
            hint = "; for one layer pass it as array[None]" if values.ndim == 2 else ""
            raise ValueError(f"{wanted}, not an array of shape {values.shape}{hint}")
        if not len(values):
            raise ValueError(f"{wanted}; it holds no layer at all")
        self.name, self._values, self._wanted = name, values, wanted
        self._n_pairs: int | None = None

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        layer = np.asarray(self._values[index])
        if layer.ndim != 2 or layer.shape[1] == 0:
            raise ValueError(f"{self._wanted}; its layer {index} has shape {layer.shape}")
        if layer.dtype.kind not in "fiub":
            raise ValueError(
                f"{self.name} must hold real numbers, not {layer.dtype} (layer {index})"
            )
        if self._n_pairs is None:
            self._n_pairs = len(layer)
        if len(layer) != self._n_pairs:
            raise ValueError(
                f"{self.name} must have the same pairs in every layer: layer {index} has "
                f"{len(layer)}, layer 0 has {self._n_pairs}"
            )
        return layer

    def describe(self) -> str:
        shapes = sorted({layer.shape for layer in self})
        return f"{len(self)} layers of {', '.join(map(str, shapes))}"


class MatchedLayers(Sequence[tuple[Layer, Layer]]):
    """Both arms, layer by layer, after checking that they match and are finite.

    Raises:
        ValueError: they don't or aren't.
    """

    def __init__(self, artifact: Layers, natural: Layers, suffix: str = "") -> None:
        self._arms = Checked(f"artifact{suffix}", artifact), Checked(f"natural{suffix}", natural)
        one, other = self._arms
        matching = len(one) == len(other)
        for index in range(len(one)) if matching else ():
            layers = self[index]
            matching = matching and layers[0].shape == layers[1].shape
            for arm, layer in zip(self._arms, layers, strict=True):
                bad = np.flatnonzero(~np.isfinite(layer).all(axis=1))
                if matching and bad.size:
                    raise ValueError(
                        f"{arm.name} holds NaN or infinity in layer {index}, pair {bad[0]} "
                        f"({bad.size} such pairs in this layer); drop them with finite_pairs"
                    )
        if not matching:
            raise ValueError(
                f"{one.name} and {other.name} must have the same shape, layer by layer: "
                f"{one.describe()} against {other.describe()}"
            )

    def __len__(self) -> int:
        return len(self._arms[0])

    def __getitem__(self, index: Any) -> Any:
        return self._arms[0][index], self._arms[1][index]


def _each_layer(conditions: Sequence[Layers]) -> Iterator[list[Layer]]:
    """The conditions' layers of each number, for as many as the deepest condition has."""
    checked = [Checked("each condition", values) for values in conditions]
    for index in range(max(map(len, checked))):
        yield [values[index] for values in checked if index < len(values)]


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
    keep: NDArray[np.bool_] | None = None
    for layers in _each_layer(conditions):
        for layer in layers:
            finite = np.asarray(np.isfinite(layer).all(axis=1))
            if keep is not None and len(finite) != len(keep):
                raise ValueError("every condition must hold the same pairs")
            keep = finite if keep is None else keep & finite
    assert keep is not None, "Checked has refused what holds no layer"
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
    digests = [hashlib.blake2b() for _ in range(len(conditions[0][0]))]
    for layers in _each_layer(conditions):
        for layer in layers:
            for digest, pair in zip(digests, layer, strict=True):
                digest.update((pair + 0.0).tobytes())  # + 0.0 makes -0.0 equal 0.0
    first: dict[bytes, int] = {}
    for number, digest in enumerate(digests):
        first.setdefault(digest.digest(), number)
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
