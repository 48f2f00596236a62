"""Record activations during forward passes, and copy them out row by row as NumPy arrays."""

from collections.abc import Sequence

import numpy as np

from gemma_mlx.config import GemmaConfig
from gemma_mlx.sites import SITES
from gemma_mlx.system.backend import mx

#: float32 (layers, steps, width); for a site without vectors a list over steps of float32 (layers,
#: heads, keys).
Activations = np.ndarray | list[np.ndarray]


class Recorder:
    """A hook that keeps the last `tokens` columns of each pass at some sites and layers.

    Arrays stay on the device, in the model's dtype, until `rows` copies them out.
    """

    def __init__(
        self, config: GemmaConfig, sites: Sequence[str], layers: Sequence[int], *, tokens: int
    ):
        self._config = config
        self._layers = frozenset(layers)
        self._tokens = tokens
        self._arrays: dict[str, list[mx.array]] = {site: [] for site in sorted(set(sites))}
        self._pending: list[mx.array] = []
        self._columns: list[int] = []

    def __call__(self, site: str, layer: int, x: mx.array) -> mx.array:
        if site in self._arrays and layer in self._layers:
            axis = 1 if SITES[site].is_vector else 2
            kept = x
            if x.shape[axis] > self._tokens:
                # A view would keep the whole pass's activations in memory, and so would a copy that
                # is left to the end of the pass.
                kept = mx.contiguous(
                    x[:, :, -self._tokens :] if axis == 2 else x[:, -self._tokens :]
                )
                mx.async_eval(kept)
            self._arrays[site].append(kept)
            self._pending.append(kept)
        return x

    def end_step(self, *, columns: int) -> None:
        """Note that a forward pass ended, after which the batch has `columns` columns."""
        self._columns.append(columns)

    def pending(self) -> list[mx.array]:
        """Arrays that were recorded since the last call, for the caller to evaluate."""
        pending, self._pending = self._pending, []
        return pending

    def rows(self, steps: Sequence[int], padding: Sequence[int]) -> list[dict[str, Activations]]:
        """Per row and site, what was recorded at the row's own steps; frees what was recorded.

        Args:
            steps: of each row: its first passes, or its last tokens where one pass read them all.
            padding: pad columns at the left of each row.
        """
        rows: list[dict[str, Activations]] = [{} for _ in steps]
        for site, arrays in self._arrays.items():
            if SITES[site].is_vector:
                grid = self._grid(site, len(rows))
                for row, count in enumerate(steps):
                    first = grid.shape[2] - count if self._tokens > 1 else 0
                    rows[row][site] = grid[:, row, first : first + count].copy()
            else:
                for row, count in enumerate(steps):
                    rows[row][site] = self._patterns(arrays, row, count, padding[row])
        return rows

    def _grid(self, site: str, rows: int) -> np.ndarray:
        """(layers, rows, steps, width) float32 of one site, whose recorded arrays are freed."""
        arrays, self._arrays[site] = self._arrays[site], []
        if not arrays:
            steps, width = len(self._columns) * self._tokens, SITES[site].features(self._config)
            return np.zeros((len(self._layers), rows, steps, width), np.float32)
        grid = _to_numpy(mx.stack(arrays))
        if self._tokens > 1:
            return grid
        passes = grid.reshape(len(self._columns), len(self._layers), rows, -1)
        return passes.transpose(1, 2, 0, 3)

    def _patterns(
        self, arrays: list[mx.array], row: int, steps: int, padding: int
    ) -> list[np.ndarray]:
        layers = len(self._layers)
        patterns = []
        for step in range(steps):
            number, back = (0, steps - step) if self._tokens > 1 else (step, 1)
            columns = self._columns[number] - back + 1
            of_pass = arrays[number * layers : (number + 1) * layers]
            weights = [_real_keys(a[row, :, -back], columns, padding) for a in of_pass]
            patterns.append(np.stack(weights))
        return patterns


def _real_keys(weights: mx.array, columns: int, padding: int) -> np.ndarray:
    """Weights (heads, keys) over the tokens of one row up to the query: without pads, and 0 for
    keys that have left a sliding window."""
    # A step has weights over the keys that its cache still holds; a whole pass, over all columns.
    held = _to_numpy(weights)[:, :columns]
    full = np.zeros((held.shape[0], columns), np.float32)
    full[:, columns - held.shape[1] :] = held
    return full[:, padding:]


def _to_numpy(x: mx.array) -> np.ndarray:
    """A float32 view of an MLX array, or of its conversion."""
    return np.asarray(x.astype(mx.float32))
