"""Record activations during forward passes and hand them out row by row as NumPy arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

#: float32 (layers, steps, width); for "attn_pattern" a list over steps of (layers, heads, keys).
Activations = np.ndarray | list[np.ndarray]

_PATTERN = "attn_pattern"


@dataclass(frozen=True)
class Capture:
    """What to record: site names and layers (ascending)."""

    sites: frozenset[str]
    layers: tuple[int, ...]


class Recorder:
    """A hook that keeps what `capture` asks for of the last `tokens` columns of each pass.

    Arrays stay on the device, in the model's dtype, until `rows` copies them out.
    """

    def __init__(self, capture: Capture, *, tokens: int):
        self._layers = frozenset(capture.layers)
        self._tokens = tokens
        self._arrays: dict[str, list[mx.array]] = {site: [] for site in sorted(capture.sites)}
        self._pending: list[mx.array] = []
        self._columns: list[int] = []

    def __call__(self, site: str, layer: int, x: mx.array) -> mx.array:
        if site in self._arrays and layer in self._layers:
            axis = 2 if site == _PATTERN else 1
            kept = x
            if x.shape[axis] > self._tokens:
                # A view would keep the whole prompt's activations in memory.
                kept = mx.contiguous(
                    x[:, :, -self._tokens :] if axis == 2 else x[:, -self._tokens :]
                )
            self._arrays[site].append(kept)
            self._pending.append(kept)
        return x

    def end_step(self, *, columns: int) -> None:
        """Note that a forward pass ended with `columns` columns behind it."""
        self._columns.append(columns)

    def pending(self) -> list[mx.array]:
        """Arrays that were recorded since the last call, to be evaluated."""
        pending, self._pending = self._pending, []
        return pending

    def rows(self, steps: Sequence[int], padding: Sequence[int]) -> list[dict[str, Activations]]:
        """Per row and site what was recorded at its own steps: the first steps[r] passes, or the
        last steps[r] tokens where one pass read them all."""
        rows: list[dict[str, Activations]] = [{} for _ in steps]
        for site, arrays in self._arrays.items():
            if site == _PATTERN:
                for number, row in enumerate(rows):
                    row[site] = self._patterns(arrays, number, steps[number], padding[number])
                continue
            grid = self._grid(arrays)
            for number, row in enumerate(rows):
                mine = grid[number]
                kept = mine[-steps[number] :] if self._one_pass else mine[: steps[number]]
                kept = kept if steps[number] else mine[:0]
                row[site] = np.ascontiguousarray(kept.transpose(1, 0, 2))
            arrays.clear()
        return rows

    @property
    def _one_pass(self) -> bool:
        return len(self._columns) == 1 and self._tokens > 1

    def _grid(self, arrays: list[mx.array]) -> np.ndarray:
        """(rows, steps, layers, width) float32 of one site."""
        if not arrays:
            return np.zeros((len(self._columns), 0, len(self._layers), 0), np.float32)
        if self._one_pass:
            return _to_numpy(mx.stack(arrays, axis=2))
        joined = _to_numpy(mx.concatenate(arrays, axis=1))
        batch, _, width = joined.shape
        return joined.reshape(batch, -1, len(self._layers), width)

    def _patterns(
        self, arrays: list[mx.array], row: int, steps: int, padding: int
    ) -> list[np.ndarray]:
        layers = len(self._layers)
        patterns = []
        for step in range(steps):
            if self._one_pass:
                columns = self._columns[0] - steps + step + 1
                mine = [a[row, :, step - steps] for a in arrays]
            else:
                columns = self._columns[step]
                mine = [a[row, :, -1] for a in arrays[step * layers : (step + 1) * layers]]
            patterns.append(np.stack([_real_keys(w, columns, padding) for w in mine]))
        return patterns


def _real_keys(weights: mx.array, columns: int, padding: int) -> np.ndarray:
    """Weights (heads, keys) over the tokens of one row: pads cut off, keys that a sliding window
    has dropped put back as 0, keys after the query left out."""
    held = _to_numpy(weights)
    # A step attends to the newest keys that its cache still holds; a whole pass, to all columns.
    full = np.zeros((held.shape[0], columns), np.float32)
    if held.shape[1] >= columns:
        full[:] = held[:, :columns]
    else:
        full[:, columns - held.shape[1] :] = held
    return full[:, padding:]


def _to_numpy(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32))
