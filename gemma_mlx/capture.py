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
            if not SITES[site].is_vector:
                for number, row in enumerate(rows):
                    row[site] = self._patterns(arrays, number, steps[number], padding[number])
                continue
            grid = self._grid(site, len(rows))
            for number, row in enumerate(rows):
                count = grid.shape[1]
                end = count if self._one_pass else steps[number]
                kept = grid[number, end - steps[number] : end]
                row[site] = kept.transpose(1, 0, 2).copy()
        return rows

    @property
    def _one_pass(self) -> bool:
        return len(self._columns) == 1 and self._tokens > 1

    def _grid(self, site: str, rows: int) -> np.ndarray:
        """(rows, steps, layers, width) float32 of one site, whose recorded arrays are freed."""
        arrays, self._arrays[site] = self._arrays[site], []
        steps = self._tokens if self._one_pass else len(self._columns)
        shape = (rows, steps, len(self._layers), SITES[site].features(self._config))
        if not arrays:
            return np.zeros(shape, np.float32)
        joined = mx.stack(arrays, axis=2) if self._one_pass else mx.concatenate(arrays, axis=1)
        return _to_numpy(joined).reshape(shape)

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
    """Weights (heads, keys) over the tokens of one row up to the query: without pads, and 0 for
    keys that have left a sliding window."""
    held = _to_numpy(weights)
    # A step has weights over the keys that its cache still holds; a whole pass, over all columns.
    full = np.zeros((held.shape[0], columns), np.float32)
    if held.shape[1] >= columns:
        full[:] = held[:, :columns]
    else:
        full[:, columns - held.shape[1] :] = held
    return full[:, padding:]


def _to_numpy(x: mx.array) -> np.ndarray:
    """A float32 view of an MLX array, or of its conversion."""
    return np.asarray(x.astype(mx.float32))
