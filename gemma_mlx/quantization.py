"""How a checkpoint of MLX is quantized, as its config.json says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gemma_mlx.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Scheme:
    """One of MLX's ways to quantize a module; its fields are arguments of `mlx.core.quantize`.

    Attributes:
        group_size: weights that share a scale.
        bits: per weight.
        mode: a key of `MODES`.
    """

    group_size: int
    bits: int
    mode: str


#: Group sizes and bits that each of MLX's modes takes.
MODES: dict[str, dict[str, tuple[int, ...]]] = {
    "affine": {"group_size": (32, 64, 128), "bits": (1, 2, 3, 4, 5, 6, 8)},
    "mxfp4": {"group_size": (32,), "bits": (4,)},
    "mxfp8": {"group_size": (32,), "bits": (8,)},
    "nvfp4": {"group_size": (16,), "bits": (4,)},
}


@dataclass(frozen=True, slots=True)
class Quantization:
    """How the modules are quantized.

    Attributes:
        default: of modules that `overrides` doesn't name.
        overrides: (module path, scheme) of the others; None for a module in full precision.
    """

    default: Scheme
    overrides: tuple[tuple[str, Scheme | None], ...] = ()


def read_quantization(block: Mapping[str, Any]) -> Quantization | None:
    """What config.json's object `quantization` says; None where it is empty.

    Raises:
        CheckpointError: a way to quantize that MLX hasn't.
    """
    if not block:
        return None
    if "quant_method" in block:
        raise CheckpointError(
            f"quant_method {block['quant_method']!r} is not supported; "
            "convert the checkpoint with `mlx_lm.convert -q`"
        )
    overrides: list[tuple[str, Scheme | None]] = []
    for path in sorted(block.keys() - {"group_size", "bits", "mode"}):
        # Modules of the unused towers may be listed. A wrong value for one of ours can't pass: the
        # shapes of its packed weights and scales tell.
        value, place = block[path], f"quantization of {path}"
        if value is False:
            overrides.append((path, None))
        elif isinstance(value, Mapping):
            overrides.append((path, _scheme({**block, **value}, place)))
        elif value is not True:
            raise CheckpointError(f"{place}: {value!r} is not supported")
    return Quantization(_scheme(block, "quantization"), tuple(overrides))


def _scheme(block: Mapping[str, Any], place: str) -> Scheme:
    mode = block.get("mode", "affine")
    if not isinstance(mode, str) or mode not in MODES:
        raise CheckpointError(f"{place}: mode must be one of {', '.join(MODES)}, not {mode!r}")
    for key, supported in MODES[mode].items():
        value = block.get(key)
        if type(value) is not int or value not in supported:
            raise CheckpointError(
                f"{place}: {key} of mode {mode} must be one of {', '.join(map(str, supported))}, "
                f"not {value!r}"
            )
    return Scheme(block["group_size"], block["bits"], mode)
