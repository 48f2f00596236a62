"""Key-value caches for left-padded batches: a global layer keeps all columns, a sliding one a ring.

Columns count from the left edge of the padded batch. Row r has `padding[r]` columns before its
first token, so column c is position c − padding[r] of that row. Capacities are known before a
batch starts, so every buffer is allocated once.
"""

from collections.abc import Sequence

import numpy as np

from gemma_mlx.config import GemmaConfig
from gemma_mlx.system.backend import mx


class Columns:
    """The columns that a batch has so far, where in them each row's tokens are, and the masks.

    Args:
        padding: pad columns at the left of each row.
        capacity: columns that the batch will have in the end.
    """

    def __init__(self, padding: Sequence[int], capacity: int):
        self.capacity = capacity
        self.count = 0
        #: Position of the first new column: (batch,) int32, or one int where nothing is padded.
        self.positions: mx.array | int = 0
        self._padding = np.asarray(padding, dtype=np.int32)
        self._padded = bool(self._padding.any())
        self._masks: dict[int | None, mx.array] = {}

    def advance(self, length: int) -> None:
        """Add `length` columns: first the prompts', then one at a time."""
        assert self.count + length <= self.capacity
        self.positions = mx.array(self.count - self._padding) if self._padded else self.count
        self.count += length
        self._masks.clear()

    def prefill_mask(self, window: int | None) -> mx.array | str | None:
        """Which columns each column of the prompts attends to, within `window` tokens: boolean,
        (columns, columns) or (batch, 1, columns, columns); "causal"; or None for all."""
        length = self.count
        if window is not None and window >= length:
            window = None
        if not self._padded and window is None:
            return "causal" if length > 1 else None
        if window not in self._masks:
            query, key = np.arange(length)[:, None], np.arange(length)[None, :]
            seen = key <= query
            if window is not None:
                seen &= query - key < window
            real = key[None] >= self._padding[:, None, None]
            # A pad attends to itself: a row of nothing but −∞ would be NaN after softmax.
            mask = (seen[None] & real) | (query == key)[None]
            self._masks[window] = mx.array(mask[:, None] if self._padded else seen)
        return self._masks[window]

    def step_mask(self, slots: int) -> mx.array | None:
        """Which filled slots of a ring of `slots` hold a token and no pad: boolean (batch, 1, 1,
        filled), or None where all do."""
        column = self.count - 1
        oldest = max(0, self.count - slots)
        if not self._padded or oldest >= self._padding.max():
            return None
        if slots not in self._masks:
            slot = np.arange(min(self.count, slots))
            held = column - (column - slot) % slots
            real = held[None] >= self._padding[:, None]
            self._masks[slots] = mx.array(real[:, None, None])
        return self._masks[slots]


class LayerCache:
    """Keys and values of one layer, (batch, kv heads, columns, head_dim).

    Args:
        window: how many tokens a query attends to, itself among them; None for all.
    """

    def __init__(self, columns: Columns, window: int | None):
        self._columns = columns
        self._window = window
        self._slots = min(window or columns.capacity, columns.capacity)
        self._buffers: tuple[mx.array, mx.array] | None = None

    @property
    def positions(self) -> mx.array | int:
        """Position of the first new column in each row."""
        return self._columns.positions

    def update(
        self, keys: mx.array, values: mx.array
    ) -> tuple[mx.array, mx.array, mx.array | str | None]:
        """Add the new columns.

        Returns:
            The keys and values to attend to, and the mask over them: boolean, for all heads;
            "causal"; or None where every key may be attended to.
        """
        columns = self._columns
        if self._buffers is None:
            if columns.capacity > columns.count:
                self._buffers = self._buffer(keys), self._buffer(values)
            return keys, values, columns.prefill_mask(self._window)
        slot = (columns.count - 1) % self._slots
        filled = min(columns.count, self._slots)
        for buffer, new in zip(self._buffers, (keys, values), strict=True):
            buffer[:, :, slot : slot + 1] = new
        kept_keys, kept_values = (buffer[:, :, :filled] for buffer in self._buffers)
        return kept_keys, kept_values, columns.step_mask(self._slots)

    def _buffer(self, x: mx.array) -> mx.array:
        batch, heads, length, width = x.shape
        if length >= self._slots:
            # Column c lives in slot c mod slots.
            shift = (length - self._slots) % self._slots
            return mx.roll(x[:, :, -self._slots :], shift, 2)
        empty = mx.zeros((batch, heads, self._slots - length, width), dtype=x.dtype)
        return mx.concatenate([x, empty], axis=2)

    def order(self, filled: int) -> mx.array | None:
        """Indices that put the slots into the order of their columns; None where they are in it."""
        first = self._columns.count % self._slots
        if self._columns.count <= self._slots or first == 0 or filled != self._slots:
            return None
        return mx.array((np.arange(filled) + first) % filled)


class BatchCache:
    """The caches of all layers for one batch: `padding` and `capacity` as for `Columns`.

    `columns.advance` is to be called before the layers are updated with new columns.
    """

    def __init__(self, config: GemmaConfig, *, padding: Sequence[int], capacity: int):
        # Shared with the layers, which don't know this object: a cycle would keep the buffers of
        # every batch until Python's garbage collector comes by.
        self.columns = Columns(padding, capacity)
        self.layers = [LayerCache(self.columns, window) for window in _windows(config)]


def _windows(config: GemmaConfig) -> list[int | None]:
    return [
        config.sliding_window if kind == "sliding_attention" else None
        for kind in config.layer_types
    ]


def _causal_mask(length: int, window: int | None) -> mx.array | str | None:
    if window is None or window >= length:
        return "causal" if length > 1 else None
    back = np.arange(length)[:, None] - np.arange(length)[None, :]
    return mx.array((back >= 0) & (back < window))


class ForkedLayer(LayerCache):
    """Keys and values of one layer for a prompt without padding and texts that go on from it: the
    first update is the prompt, each later one a text, which sees the prompt and none of the others.
    """

    def __init__(self, window: int | None):
        self._window = window
        self._prefix: tuple[mx.array, mx.array] | None = None

    @property
    def positions(self) -> int:
        return 0 if self._prefix is None else self._prefix[0].shape[2]

    def update(
        self, keys: mx.array, values: mx.array
    ) -> tuple[mx.array, mx.array, mx.array | str | None]:
        if self._prefix is None:
            self._prefix = keys, values
        else:
            before = self._prefix
            keys = mx.concatenate([before[0], keys], axis=2)
            values = mx.concatenate([before[1], values], axis=2)
        return keys, values, _causal_mask(keys.shape[2], self._window)

    def order(self, filled: int) -> None:
        return None


class ForkedCache(BatchCache):
    """The caches of all layers for a prompt without padding, in any number of versions, and for
    texts that go on from it."""

    def __init__(self, config: GemmaConfig):
        self.layers = [ForkedLayer(window) for window in _windows(config)]
