"""Hugging Face `config.json` of a Gemma 3 (or Gemma 2) text model, as a frozen dataclass."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gemma_mlx.errors import CheckpointError

LayerType = Literal["sliding_attention", "full_attention"]

_TEXT_TYPES = {"gemma3_text": "gemma3_text", "gemma2": "gemma2"}
_MULTIMODAL_TYPES = {"gemma3"}

# The text config of the published multimodal checkpoints leaves out what equals these.
_GEMMA3_DEFAULTS: dict[str, Any] = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "final_logit_softcapping": None,
    "attn_logit_softcapping": None,
    "sliding_window_pattern": 6,
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
_GEMMA2_DEFAULTS: dict[str, Any] = {
    **_GEMMA3_DEFAULTS,
    "vocab_size": 256_000,
    "max_position_embeddings": 8192,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
    "sliding_window_pattern": 2,
    "rope_theta": 10_000.0,
    "rope_local_base_freq": None,
}

# Keys that say nothing about the forward pass of the text model.
_INERT = {
    "_attn_implementation_autoset",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "boi_token_index",
    "cache_implementation",
    "chunk_size_feed_forward",
    "dtype",
    "eoi_token_index",
    "id2label",
    "image_token_index",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "mm_tokens_per_image",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "unsloth_fixed",
    "use_cache",
    "vision_config",
}
_READ = {
    *_GEMMA3_DEFAULTS,
    "_sliding_window_pattern",
    "hidden_act",
    "layer_types",
    "quantization",
    "quantization_config",
    "rope_parameters",
    "rope_scaling",
    "text_config",
    "use_bidirectional_attention",
}


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding of one layer type.

    `base` is θ of Su et al. 2021 (RoFormer); positions are divided by `factor` (linear scaling).
    """

    base: float
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Quantization:
    """MLX affine quantization. `overrides` holds (module path, group size, bits), bits 0 for a
    module that is kept in full precision."""

    group_size: int
    bits: int
    overrides: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class GemmaConfig:
    """The text model's shape and constants; widths are numbers of features, `sliding_window`
    and `max_position_embeddings` are in tokens."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    query_pre_attn_scalar: float
    sliding_window: int
    layer_types: tuple[LayerType, ...]
    global_rope: Rope
    local_rope: Rope
    attn_logit_softcapping: float | None
    final_logit_softcapping: float | None
    tie_word_embeddings: bool
    attention_bias: bool
    max_position_embeddings: int
    bos_token_id: int
    eos_token_ids: tuple[int, ...]
    quantization: Quantization | None = None

    @property
    def qk_norm(self) -> bool:
        """Gemma 3 normalises queries and keys; Gemma 2 caps the attention logits instead."""
        return self.model_type != "gemma2"

    @classmethod
    def from_dict(cls, config: Mapping[str, Any], *, source: str = "config.json") -> "GemmaConfig":
        """Read the contents of a `config.json`, flat or with the text model under `text_config`.

        Raises:
            CheckpointError: an unsupported architecture, an unknown key, or a value that this
                implementation would not honour. The message names `source` and the key.
        """
        if not isinstance(config, Mapping):
            raise CheckpointError(f"{source}: expected a JSON object, found {_kind(config)}")
        model_type = config.get("model_type")
        if model_type in _MULTIMODAL_TYPES:
            text = config.get("text_config")
            if not isinstance(text, Mapping):
                raise CheckpointError(f"{source}: model_type {model_type!r} needs a text_config")
            _refuse_unknown(config, source)
            outer = {
                k: v
                for k, v in config.items()
                if k in ("quantization", "quantization_config", "eos_token_id", "bos_token_id")
                or (k == "tie_word_embeddings" and k not in text)
            }
            inner = {"model_type": "gemma3_text", **text}
            # Published multimodal configs give the end-of-turn id only outside text_config.
            return cls.from_dict({**inner, **outer}, source=source)
        if model_type not in _TEXT_TYPES:
            supported = ", ".join(sorted({*_TEXT_TYPES, *_MULTIMODAL_TYPES}))
            raise CheckpointError(
                f"{source}: unsupported model_type {model_type!r}; supported are {supported}"
            )
        _refuse_unknown(config, source)
        defaults = _GEMMA2_DEFAULTS if model_type == "gemma2" else _GEMMA3_DEFAULTS
        read = _Reader({**defaults, **config}, source)
        activation = config.get("hidden_activation") or config.get("hidden_act")
        if activation not in (None, "gelu_pytorch_tanh"):
            raise CheckpointError(f"{source}: hidden_activation {activation!r} is not supported")
        if config.get("use_bidirectional_attention"):
            raise CheckpointError(f"{source}: use_bidirectional_attention is not supported")
        layers = read.positive_int("num_hidden_layers")
        heads = read.positive_int("num_attention_heads")
        kv_heads = read.positive_int("num_key_value_heads")
        if heads % kv_heads:
            raise CheckpointError(
                f"{source}: num_attention_heads {heads} is not a multiple of "
                f"num_key_value_heads {kv_heads}"
            )
        global_rope, local_rope = _ropes(config, defaults, source)
        return cls(
            model_type=str(model_type),
            vocab_size=read.positive_int("vocab_size"),
            hidden_size=read.positive_int("hidden_size"),
            intermediate_size=read.positive_int("intermediate_size"),
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=read.positive_int("head_dim"),
            rms_norm_eps=read.positive_float("rms_norm_eps"),
            query_pre_attn_scalar=read.positive_float("query_pre_attn_scalar"),
            sliding_window=read.positive_int("sliding_window"),
            layer_types=_layer_types(config, defaults, layers, source),
            global_rope=global_rope,
            local_rope=local_rope,
            attn_logit_softcapping=read.optional_float("attn_logit_softcapping"),
            final_logit_softcapping=read.optional_float("final_logit_softcapping"),
            tie_word_embeddings=read.boolean("tie_word_embeddings"),
            attention_bias=read.boolean("attention_bias"),
            max_position_embeddings=read.positive_int("max_position_embeddings"),
            bos_token_id=read.token_ids("bos_token_id")[0],
            eos_token_ids=read.token_ids("eos_token_id"),
            quantization=_quantization(config, source),
        )

    @classmethod
    def from_file(cls, path: Path) -> "GemmaConfig":
        """Read `path`; raises `CheckpointError` as `from_dict` does, and for unreadable JSON."""
        return cls.from_dict(read_json(path), source=str(path))


def read_json(path: Path) -> Any:
    """Parse a JSON file of a checkpoint; `CheckpointError` names the file and the place."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error})") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None


@dataclass(frozen=True, slots=True)
class _Reader:
    """Typed access to the keys of one config, with errors that name file and key."""

    values: Mapping[str, Any]
    source: str

    def _fail(self, key: str, wanted: str) -> CheckpointError:
        return CheckpointError(f"{self.source}: {key} must be {wanted}, not {self.values[key]!r}")

    def positive_int(self, key: str) -> int:
        value = self.values[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._fail(key, "a positive integer")
        return value

    def positive_float(self, key: str) -> float:
        value = self.values[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise self._fail(key, "a positive number")
        return float(value)

    def optional_float(self, key: str) -> float | None:
        return None if self.values[key] is None else self.positive_float(key)

    def boolean(self, key: str) -> bool:
        value = self.values[key]
        if not isinstance(value, bool):
            raise self._fail(key, "true or false")
        return value

    def token_ids(self, key: str) -> tuple[int, ...]:
        value = self.values[key]
        ids = value if isinstance(value, list) else [value]
        if not ids or not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
            raise self._fail(key, "a token id or a list of token ids")
        return tuple(ids)


def _kind(value: Any) -> str:
    return type(value).__name__


def _refuse_unknown(config: Mapping[str, Any], source: str) -> None:
    unknown = sorted(k for k in config if k not in _READ and k not in _INERT)
    # A null switches the thing off that this implementation doesn't know.
    unknown = [k for k in unknown if config[k] is not None]
    if unknown:
        raise CheckpointError(
            f"{source}: unsupported key {', '.join(unknown)}: its effect on the model is unknown"
        )


def _layer_types(
    config: Mapping[str, Any], defaults: Mapping[str, Any], layers: int, source: str
) -> tuple[LayerType, ...]:
    explicit = config.get("layer_types")
    if explicit is not None:
        if not isinstance(explicit, list) or len(explicit) != layers:
            raise CheckpointError(f"{source}: layer_types must list {layers} layers")
        for name in explicit:
            if name not in ("sliding_attention", "full_attention"):
                raise CheckpointError(f"{source}: unsupported layer type {name!r} in layer_types")
        return tuple(explicit)
    pattern = config.get("sliding_window_pattern", config.get("_sliding_window_pattern"))
    if pattern is None:
        pattern = defaults["sliding_window_pattern"]
    if isinstance(pattern, bool) or not isinstance(pattern, int) or pattern < 1:
        raise CheckpointError(f"{source}: sliding_window_pattern must be a positive integer")
    return tuple(
        "full_attention" if (layer + 1) % pattern == 0 else "sliding_attention"
        for layer in range(layers)
    )


def _ropes(
    config: Mapping[str, Any], defaults: Mapping[str, Any], source: str
) -> tuple[Rope, Rope]:
    """RoPE of the global and of the local layers, from the old keys or `rope_parameters`."""
    global_base = config.get("rope_theta") or defaults["rope_theta"]
    local_base = config.get("rope_local_base_freq") or defaults["rope_local_base_freq"]
    parameters = config.get("rope_parameters") or {}
    if "rope_theta" in parameters or "rope_type" in parameters:
        parameters = {"full_attention": parameters, "sliding_attention": parameters}
    full = {**(config.get("rope_scaling") or {}), **(parameters.get("full_attention") or {})}
    # Gemma 2 has one RoPE; where Gemma 3 gives two, rope_scaling is the global layers' alone.
    sliding = dict(parameters.get("sliding_attention") or (full if local_base is None else {}))
    local_base = local_base or global_base
    return (
        _rope(full, global_base, f"{source}: RoPE of full_attention"),
        _rope(sliding, local_base, f"{source}: RoPE of sliding_attention"),
    )


def _rope(parameters: Mapping[str, Any], base: float, place: str) -> Rope:
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    known = {"rope_type", "type", "rope_theta", "factor"}
    unknown = [k for k, v in parameters.items() if k not in known and v is not None]
    if kind not in ("default", "linear") or unknown:
        what = ", ".join(unknown) if unknown else f"rope_type {kind!r}"
        raise CheckpointError(f"{place}: {what} is not supported (default and linear are)")
    factor = parameters.get("factor", 1.0) if kind == "linear" else 1.0
    values = {"rope_theta": parameters.get("rope_theta", base), "factor": factor}
    read = _Reader(values, place)
    return Rope(base=read.positive_float("rope_theta"), factor=read.positive_float("factor"))


def _quantization(config: Mapping[str, Any], source: str) -> Quantization | None:
    block = config.get("quantization") or config.get("quantization_config")
    if not block:
        return None
    if not isinstance(block, Mapping):
        raise CheckpointError(f"{source}: quantization must be an object, not {_kind(block)}")
    if "quant_method" in block:
        raise CheckpointError(
            f"{source}: quant_method {block['quant_method']!r} is not supported; "
            "convert the checkpoint with `mlx_lm.convert -q`"
        )
    if block.get("mode", "affine") != "affine":
        raise CheckpointError(f"{source}: quantization mode {block['mode']!r} is not supported")
    overrides = []
    for path, value in block.items():
        if path in ("group_size", "bits", "mode"):
            continue
        # Modules of the unused towers may be listed; what remains must match a module of ours.
        if value is False:
            overrides.append((path, 0, 0))
        elif isinstance(value, Mapping) and value.get("mode", "affine") == "affine":
            read = _Reader({**block, **value}, f"{source}: quantization of {path}")
            overrides.append((path, read.positive_int("group_size"), read.positive_int("bits")))
        elif value is not True:
            raise CheckpointError(f"{source}: unsupported quantization of {path}: {value!r}")
    read = _Reader({"group_size": None, "bits": None, **block}, f"{source}: quantization")
    return Quantization(
        read.positive_int("group_size"), read.positive_int("bits"), tuple(overrides)
    )
