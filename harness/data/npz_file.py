"""Arrays of one npz file, whoever made it: nothing pickled is loaded, and no memory taken for an
array that the file only claims to hold."""

import lzma
import math
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gemma_mlx.npz import METADATA
from harness.data.activations import AnalysisError

# Bytes of one array: more than any batch at any width has, less than a machine's memory.
_LARGEST_ARRAY = 1 << 28

# NumPy's and zipfile's words for a file that isn't what it should be: cut off, encrypted, pickled.
_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    tokenize.TokenError,
    NotImplementedError,
    RuntimeError,
)


def array_names(file: Path) -> list[str]:
    """Names of the arrays that a file holds.

    Raises:
        AnalysisError: it is damaged, or not an npz file.
    """
    try:
        with zipfile.ZipFile(file) as content:
            return list(_members(content))
    except _UNREADABLE as error:
        raise AnalysisError(f"{file}: damaged, or not an npz file ({error})") from error


def read_rows(file: Path, rows: Sequence[int | None], keys: Sequence[str]) -> np.ndarray:
    """Float32 (rows, keys, width): some rows of the arrays with these names, each of which has to
    be (batch, 1, width).

    Args:
        rows: None for the only one.

    Raises:
        AnalysisError: the file is damaged, or lacks an array or a row; it is named.
    """
    try:
        with zipfile.ZipFile(file) as content:
            arrays = [_rows_of(content, file, key, rows) for key in keys]
    except AnalysisError:
        raise
    except _UNREADABLE as error:
        raise AnalysisError(f"{file}: damaged, or not an npz file of numbers ({error})") from error
    if len({array.shape for array in arrays}) > 1:
        raise AnalysisError(f"{file}: layers of different widths")
    return np.stack(arrays, axis=1)


def _rows_of(
    content: zipfile.ZipFile, file: Path, key: str, rows: Sequence[int | None]
) -> np.ndarray:
    """Some rows (rows, width) of one array, alone, so that no more than one array is held."""
    members = _members(content)
    if key not in members:
        there = ", ".join(sorted(members)[:3])
        raise AnalysisError(f"{file}: no array {key!r} (there: {there}, …)")
    array = _array(content, members[key])
    if array.ndim != 3 or array.shape[1] != 1 or not np.issubdtype(array.dtype, np.floating):
        raise AnalysisError(
            f"{file}: {key} is {array.dtype} {array.shape}, expected floats (batch, 1, hidden)"
        )
    if None in rows and array.shape[0] > 1:
        raise AnalysisError(
            f"{file}: {key} holds {array.shape[0]} prompts; {METADATA} beside it has to say which"
        )
    numbers = [row or 0 for row in rows]
    if max(numbers) >= array.shape[0]:
        raise AnalysisError(f"{file}: {key} has {array.shape[0]} rows, no row {max(numbers)}")
    return np.array(array[numbers, 0], np.float32)


def _members(content: zipfile.ZipFile) -> dict[str, str]:
    """Members of an npz file by the name of their array."""
    return {name.removesuffix(".npy"): name for name in content.namelist()}


def _array(content: zipfile.ZipFile, member: str) -> np.ndarray:
    """One array of an npz file.

    Raises a `ValueError` where its header claims more than the file holds. `np.load` would first
    take the memory for it, which the machine may not have.
    """
    size = content.getinfo(member).file_size
    if size > _LARGEST_ARRAY:
        raise ValueError(f"{member} takes {size} bytes, more than {_LARGEST_ARRAY}")
    with content.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise ValueError(f"{member} is of npy version {version}")
        shape, _, dtype = read(stream)
        if math.prod(shape) * dtype.itemsize > size:
            raise ValueError(f"{member} claims shape {shape}, more than it holds")
    with content.open(member) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)
