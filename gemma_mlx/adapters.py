"""Adapters: what fine-tuning changed of a checkpoint's weights, as mlx-lm and PEFT write it.

LoRA (Hu et al. 2022, arXiv:2106.09685) adds scale · B A to a weight, rsLoRA (Kalajdzievski 2023,
arXiv:2312.03732) takes α/√r for the scale. DoRA (Liu et al. 2024, arXiv:2402.09353) then gives each
of the weight's rows a length of its own.
"""

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from gemma_mlx.errors import CheckpointError
from gemma_mlx.system.files import read_json, sha256

_CONFIG = "adapter_config.json"
_TEMPLATES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
# What PEFT may do beyond what the tensors say, and the values with which it doesn't.
_UNUSED_BY_PEFT: dict[str, tuple[Any, ...]] = {
    "modules_to_save": (None, []),
    "bias": (None, "none"),
    "fan_in_fan_out": (None, False),
    "lora_bias": (None, False),
    "trainable_token_indices": (None, []),
    "layer_replication": (None, []),
    # The others start from a part of the weight, which they take out of the model.
    "init_lora_weights": (None, True, False, "gaussian", "eva", "orthogonal"),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None,),
    "use_qalora": (None, False),
    "use_bdlora": (None, False),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
}
_DTYPES = ("F32", "BF16", "F16")
# Ends of its tensors' names, and what stands there.
_PARTS_OF_MLX_LM = {"lora_a": "a", "lora_b": "b", "m": "magnitude"}
_PARTS_OF_PEFT = {
    "lora_A.weight": "a", "lora_B.weight": "b",
    "lora_embedding_A": "a", "lora_embedding_B": "b",
    "lora_magnitude_vector": "magnitude", "lora_magnitude_vector.weight": "magnitude",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one tensor of the checkpoint; the rest are names of the adapter's tensors.

    Attributes:
        tensor: its name in the checkpoint's files.
        whole: what takes its place, if anything does.
        a, b: of the low-rank product; where `transposed`, as `x @ a @ b` takes them (mlx-lm).
        magnitude: lengths of the changed weight's rows, if they are given.
        scale: what the product is multiplied by.
        input_only: whether an embedding is changed where tokens are looked up, but not where a
            head that is tied to it makes logits (PEFT; mlx-lm changes both).
    """

    tensor: str
    whole: str | None = None
    a: str = ""
    b: str = ""
    magnitude: str | None = None
    transposed: bool = False
    scale: float = 1.0
    input_only: bool = False


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder, of which each file is read when it is needed.

    Every attribute raises CheckpointError where the folder holds no adapter, a damaged one, or one
    that does more than can be honoured.
    """

    path: Path

    @cached_property
    def weights(self) -> Path:
        """The file of its tensors."""
        name = "adapter_model" if self._by_peft else "adapters"
        file = self.path / f"{name}.safetensors"
        if not file.exists():
            raise CheckpointError(f"{self.path}: no {file.name} beside {_CONFIG}")
        return file

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over its config, weights and chat template."""
        digest = hashlib.sha256()
        for file in (self.path / _CONFIG, self.weights, *(self.path / t for t in _TEMPLATES)):
            if file.exists():
                digest.update(f"{file.name}\0{sha256(file)}\n".encode())
        return digest.hexdigest()

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        """What it changes; every tensor of its file is in one of them."""
        try:
            with safe_open(self.weights, framework="numpy") as file:
                tensors = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                shapes = {name: tuple(tensor.get_shape()) for name, tensor in tensors.items()}
                dtypes = {name: tensor.get_dtype() for name, tensor in tensors.items()}
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self.weights}: damaged or truncated ({error})") from None
        if not shapes:
            raise CheckpointError(f"{self.weights}: holds no tensors")
        for name, dtype in sorted(dtypes.items()):
            if dtype not in _DTYPES:
                raise CheckpointError(
                    f"{self.weights}: {name} is {dtype}; {', '.join(_DTYPES)} are read"
                )
        if self._config.get("fine_tune_type") == "full":
            return tuple(Change(name, whole=name) for name in sorted(shapes))
        return tuple(self._low_rank(shapes))

    def _low_rank(self, shapes: dict[str, tuple[int, ...]]) -> Iterator[Change]:
        known = _PARTS_OF_PEFT if self._by_peft else _PARTS_OF_MLX_LM
        ends = re.compile(rf"(?P<module>.+)\.(?P<part>{'|'.join(map(re.escape, known))})")
        needed = {"a", "b", "magnitude"} if self._is_dora else {"a", "b"}
        modules: dict[str, dict[str, str]] = {}
        for name in sorted(shapes):
            match = ends.fullmatch(name)
            part = match and known[match["part"]]
            if match is None or part not in needed:
                raise CheckpointError(f"{self.weights}: unexpected tensor {name}")
            if part != "magnitude" and (len(shapes[name]) != 2 or 0 in shapes[name]):
                raise CheckpointError(
                    f"{self.weights}: {name} has shape {shapes[name]}, not a matrix's"
                )
            modules.setdefault(match["module"], {})[part] = name
        for module, parts in modules.items():
            for absent in sorted(needed - parts.keys()):
                names = " or ".join(end for end, part in known.items() if part == absent)
                raise CheckpointError(f"{self.weights}: {module} has no {names}")
            target = module.removeprefix("base_model.model.")
            # Of an embedding both write the matrices the other way round.
            turned = target.endswith("embed_tokens")
            yield Change(
                f"{target}.weight",
                a=parts["b"] if turned else parts["a"],
                b=parts["a"] if turned else parts["b"],
                magnitude=parts.get("magnitude"),
                transposed=self._by_peft == turned,
                scale=self._scale(target, shapes[parts["a"]]),
                input_only=self._by_peft and turned,
            )

    def _scale(self, module: str, shape: tuple[int, ...]) -> float:
        if not self._by_peft:
            parameters = self._config.get("lora_parameters")
            return self._number(parameters if isinstance(parameters, dict) else {}, "scale")
        alpha = self._number(self._config, "lora_alpha")
        patterns = self._config.get("alpha_pattern") or {}
        if not isinstance(patterns, dict):
            raise CheckpointError(f"{self.path / _CONFIG}: alpha_pattern must be a JSON object")
        for pattern in patterns:
            try:
                fits = re.fullmatch(rf"(.*\.)?({pattern})", module)
            except re.error as error:
                raise CheckpointError(
                    f"{self.path / _CONFIG}: alpha_pattern {pattern!r} is no pattern ({error})"
                ) from None
            if fits:
                # The first that fits, as in PEFT.
                alpha = self._number(patterns, pattern)
                break
        rank = shape[0]
        return alpha / (math.sqrt(rank) if self._config.get("use_rslora") else rank)

    def _number(self, block: dict[str, Any], key: str) -> float:
        value: Any = block.get(key)
        if type(value) not in (int, float) or not math.isfinite(value):
            raise CheckpointError(f"{self.path / _CONFIG}: {key} must be a number, not {value!r}")
        return float(value)

    @property
    def _is_dora(self) -> bool:
        if self._by_peft:
            return bool(self._config.get("use_dora"))
        return self._config.get("fine_tune_type") == "dora"

    @property
    def _by_peft(self) -> bool:
        return "peft_type" in self._config

    @cached_property
    def _config(self) -> dict[str, Any]:
        path = self.path / _CONFIG
        config = read_json(path, error=CheckpointError)
        if not isinstance(config, dict):
            raise CheckpointError(f"{path}: must be a JSON object")
        if "peft_type" in config:
            if config["peft_type"] != "LORA":
                raise CheckpointError(f"{path}: peft_type {config['peft_type']!r}, not 'LORA'")
            for key, plain in _UNUSED_BY_PEFT.items():
                if config.get(key) not in plain:
                    raise CheckpointError(
                        f"{path}: {key} {config[key]!r} is not supported; merge the adapter into "
                        "its model with PEFT, and give that as the model"
                    )
        elif config.get("fine_tune_type", "lora") not in ("lora", "dora", "full"):
            raise CheckpointError(
                f"{path}: fine_tune_type {config['fine_tune_type']!r}; lora, dora and full are read"
            )
        return config
