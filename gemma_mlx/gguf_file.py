"""The GGUF format of llama.cpp: a file's metadata, the places of its tensors, and their values."""

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from gemma_mlx.errors import CheckpointError

_MAGIC = b"GGUF"

# Types of metadata values: those of fixed size as `struct` knows them, and the two others.
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_TEXT, _ARRAY = 8, 9
# What the metadata must hold, where they hold it.
_TYPES: dict[str, type] = {
    "general.alignment": int,
    "split.count": int,
    "tokenizer.chat_template": str,
    "tokenizer.ggml.token_type": list,
    "tokenizer.ggml.tokens": list,
}

# Values that are dequantized at a time.
_CHUNK = 1 << 22


def starts_as_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    # As NumPy counts; the file has it the other way round.
    shape: tuple[int, ...]
    kind: int
    # Bytes from the beginning of the data.
    offset: int


@dataclass(frozen=True, slots=True)
class Header:
    path: Path
    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]
    # Where the tensors' data begin.
    data: int


class _Cursor:
    """Reads one value after the other; struct.error or ValueError where there is none."""

    def __init__(self, data: mmap.mmap, at: int):
        self.data, self.at = data, at

    def many(self, kind: str, count: int) -> tuple[Any, ...]:
        form = f"<{count}{kind}"
        values = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return values

    def one(self, kind: str) -> Any:
        return self.many(kind, 1)[0]

    def text(self) -> str:
        length = self.one("Q")
        content = self.data[self.at : self.at + length]
        if len(content) < length:
            raise ValueError(f"a text of {length} bytes")
        self.at += length
        return content.decode()

    def value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind == _ARRAY:
            kind, count = self.one("I"), self.one("Q")
            if kind == _TEXT:
                return [self.text() for _ in range(count)]
            return list(self.many(self._scalar(kind), count))
        return self.one(self._scalar(kind))

    def _scalar(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise ValueError(f"a value of type {kind}")
        return _SCALARS[kind]


def read_header(path: Path) -> Header:
    # The package's own reader makes an object of every token, which takes many times as long.
    try:
        if not starts_as_gguf(path):
            raise CheckpointError(f"{path}: not a GGUF file: it doesn't begin with GGUF")
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return _parse(path, _Cursor(data, len(_MAGIC)))
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    except (struct.error, ValueError, OverflowError, MemoryError) as error:
        raise CheckpointError(f"{path}: damaged or truncated GGUF file ({error})") from None


def _parse(path: Path, cursor: _Cursor) -> Header:
    version = cursor.one("I")
    if version not in (2, 3):
        raise CheckpointError(f"{path}: GGUF version {version} is not supported (2 and 3 are)")
    tensor_count, count = cursor.many("Q", 2)
    metadata: dict[str, Any] = {}
    for _ in range(count):
        key = cursor.text()
        if key in metadata:
            raise ValueError(f"the key {key!r} occurs twice")
        metadata[key] = cursor.value(cursor.one("I"))
    for key, wanted in _TYPES.items():
        if key in metadata and not isinstance(metadata[key], wanted):
            raise ValueError(f"{key} is of type {type(metadata[key]).__name__}")
    if metadata.get("split.count", 1) > 1:
        raise CheckpointError(
            f"{path}: one part of a split model; join them with `llama-gguf-split --merge`"
        )
    tensors: dict[str, Tensor] = {}
    for _ in range(tensor_count):
        name, dimensions = cursor.text(), cursor.one("I")
        if name in tensors or not 0 < dimensions <= 4:
            raise ValueError(f"tensor {name} occurs twice or has {dimensions} dimensions")
        shape = cursor.many("Q", dimensions)
        tensors[name] = Tensor(name, shape[::-1], cursor.one("I"), cursor.one("Q"))
    alignment = max(1, metadata.get("general.alignment", 32))
    data = -(-cursor.at // alignment) * alignment
    return Header(path, metadata, tuple(tensors.values()), data)


def dequantized(path: Path, data: int, tensor: Tensor) -> np.ndarray:
    """A tensor's values as float32, with never more than a small part of it held twice."""
    try:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
        from gguf.quants import dequantize
    except ImportError:
        raise CheckpointError(
            f"{path}: reading GGUF weights needs the package gguf: "
            "pip install 'artifact-harness[gguf]'"
        ) from None
    place = f"{path}: tensor {tensor.name}"
    try:
        kind = GGMLQuantizationType(tensor.kind)
    except ValueError:
        raise CheckpointError(f"{place} has the unknown type {tensor.kind}") from None
    block, size = GGML_QUANT_SIZES[kind]
    *outer, width = tensor.shape
    rows, row_bytes = prod(outer), width // block * size
    end = data + tensor.offset + rows * row_bytes
    if not width or width % block or end > path.stat().st_size:
        raise CheckpointError(
            f"{place} of shape {tensor.shape} and type {kind.name} doesn't fit into the file: "
            "damaged or truncated"
        )
    values = np.empty((rows, width), np.float32)
    step = max(1, _CHUNK // width)
    with path.open("rb") as file:
        file.seek(data + tensor.offset)
        for start in range(0, rows, step):
            part = values[start : start + step]
            raw = np.fromfile(file, np.uint8, len(part) * row_bytes)
            try:
                part[:] = dequantize(raw.reshape(len(part), row_bytes), kind)
            except NotImplementedError:
                raise CheckpointError(
                    f"{place} has type {kind.name}, which the package gguf can't dequantize"
                ) from None
    return values.reshape(tensor.shape)
