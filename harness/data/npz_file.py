"""Arrays of one npz file, whoever made it: nothing pickled is loaded, and no memory taken for an
array that the file only claims to hold."""

import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from lzma import LZMAError
from pathlib import Path
from tokenize import TokenError

import numpy as np

from gemma_mlx.npz import METADATA
from harness.data.activations import AnalysisError

# Bytes of one array: more than any batch at any width has, less than a machine's memory.
_LARGEST_ARRAY = 1 << 28

# What NumPy and zipfile raise for a file that is cut off, encrypted, pickled, …
_UNREADABLE = (
    *(OSError, ValueError, EOFError, RuntimeError, TokenError),
    *(zipfile.BadZipFile, zlib.error, LZMAError),
)


def array_names(file: Path) -> list[str]:
    """Names of the arrays that a file holds.

    Raises:
        AnalysisError: it is damaged, or not an npz file.
    """
    with _opened(file) as content:
        return list(_members(content))


def read_rows(file: Path, rows: Sequence[int | None], keys: Sequence[str]) -> np.ndarray:
    """Float32 (rows, keys, width): some rows of the arrays with these names, each of which has to
    be (batch, 1, width).

    Args:
        rows: None for the only one.

    Raises:
        AnalysisError: the file is damaged, or lacks an array or a row; it is named.
    """
    with _opened(file) as content:
        # One after the other, so that no more than one whole array is held.
        arrays = [_rows_of(_array(content, key), key, rows) for key in keys]
        if len({array.shape for array in arrays}) > 1:
            raise AnalysisError("layers of different widths")
    return np.stack(arrays, axis=1)


def read_arrays(file: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays of a file by their name, each as it is there.

    Raises:
        AnalysisError: the file is damaged, or lacks one; it is named.
    """
    with _opened(file) as content:
        return {name: _array(content, name) for name in names}


@contextmanager
def _opened(file: Path) -> Iterator[zipfile.ZipFile]:
    """An npz file; whatever is wrong with it in the block is an `AnalysisError` that names it."""
    try:
        with zipfile.ZipFile(file) as content:
            yield content
    except AnalysisError as error:
        raise AnalysisError(f"{file}: {error}") from None
    except _UNREADABLE as error:
        raise AnalysisError(f"{file}: damaged, or not an npz file of numbers ({error})") from error


def _members(content: zipfile.ZipFile) -> dict[str, str]:
    """Members of an npz file by the name of their array."""
    return {name.removesuffix(".npy"): name for name in content.namelist()}


def _rows_of(array: np.ndarray, key: str, rows: Sequence[int | None]) -> np.ndarray:
    """Some rows (rows, width) of an array."""
    if array.ndim != 3 or array.shape[1] != 1 or not np.issubdtype(array.dtype, np.floating):
        found = f"{array.dtype} {array.shape}"
        raise AnalysisError(f"{key} is {found}, expected floats (batch, 1, hidden)")
    size = len(array)
    if None in rows and size > 1:
        raise AnalysisError(f"{key} holds {size} prompts; {METADATA} beside it has to say which")
    numbers = [row or 0 for row in rows]
    if max(numbers) >= size:
        raise AnalysisError(f"{key} has {size} rows, no row {max(numbers)}")
    return np.array(array[numbers, 0], np.float32)


def _array(content: zipfile.ZipFile, key: str) -> np.ndarray:
    """One array of an npz file; a `ValueError` where its header claims more than the file holds.

    `np.load` would first take the memory for it, which the machine may not have.
    """
    members = _members(content)
    if key not in members:
        raise AnalysisError(f"no array {key!r} (there: {', '.join(sorted(members)[:3])}, …)")
    size = content.getinfo(members[key]).file_size
    if size > _LARGEST_ARRAY:
        raise ValueError(f"{key} takes {size} bytes, more than {_LARGEST_ARRAY}")
    with content.open(members[key]) as stream:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f"{key} is of npy version {version}")
        if math.prod(shape) * dtype.itemsize > size:
            raise ValueError(f"{key} claims shape {shape}, more than it holds")
    with content.open(members[key]) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)
