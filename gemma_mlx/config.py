"""Hugging Face `config.json` of a Gemma 3 (or Gemma 2) text model, as a frozen dataclass."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from gemma_mlx.errors import CheckpointError
from gemma_mlx.system import files
from gemma_mlx.system.terminal import printable

LayerType = Literal["sliding_attention", "full_attention"]

_TEXT_TYPES = ("gemma2", "gemma3_text")
_MULTIMODAL_TYPE = "gemma3"

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

# Keys that say nothing about the forward pass of the text model: about training, images, other
# libraries, and what transformers 4 writes for every kind of model.
_INERT_KEYS = """
_attn_implementation_autoset _model_name_or_path _name_or_path architectures attention_dropout
boi_token_id boi_token_index cache_implementation chunk_size_feed_forward dtype eoi_token_id
eoi_token_index id2label image_token_id image_token_index initializer_range is_decoder
is_encoder_decoder label2id mm_tokens_per_image model_type output_attentions
output_hidden_states pad_token_id return_dict torch_dtype transformers_version unk_token_id
unsloth_fixed unsloth_version use_cache vision_config

add_cross_attention bad_words_ids begin_suppress_tokens cross_attention_hidden_size
decoder_start_token_id diversity_penalty do_sample early_stopping
encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task
forced_bos_token_id forced_eos_token_id length_penalty max_length min_length
no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_scores prefix
problem_type pruned_heads remove_invalid_values repetition_penalty return_dict_in_generate
sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss
tie_encoder_decoder tokenizer_class top_k top_p torchscript typical_p use_bfloat16
"""
_INERT = frozenset(_INERT_KEYS.split())
_READ = {
    *_GEMMA3_DEFAULTS,
    "_sliding_window_pattern",
    "hidden_act",
    "layer_types",
    "quantization",
    "quantization_config",
    "rope_parameters",
    "rope_scaling",
    "sliding_window_size",
    "text_config",
}
# What the forward pass of transformers' Gemma depends on besides, and ours doesn't: the value that
# changes nothing.
_DECIDING: dict[str, Any] = {
    "decoder": None,
    "generator": None,
    "is_causal": True,
    "kv_sharing_modes": None,
    "partial_rotary_factor": 1.0,
    "per_layer_config": None,
    "use_bidirectional_attention": False,
}
#: Keys whose effect on the model is known; all others have none.
KNOWN_KEYS = frozenset(_READ | _INERT | _DECIDING.keys())


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding of one layer type.

    Attributes:
        base: θ of Su et al. 2021 (RoFormer).
        factor: what positions are divided by (linear scaling).
    """

    base: float
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Quantization:
    """MLX's affine quantization.

    Attributes:
        group_size: weights that share a scale and a bias.
        bits: per weight.
        overrides: (module path, group size, bits) of modules that differ; bits 0 for a module in
            full precision.
    """

    group_size: int
    bits: int
    overrides: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class GemmaConfig:
    """The text model's shape and constants, under the names of config.json: widths in features,
    `sliding_window` and `max_position_embeddings` in tokens.

    Attributes:
        unknown_keys: keys of the file that neither this model nor transformers' Gemma reads, so
            that they can't change what comes out.
    """

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
    unknown_keys: tuple[str, ...] = field(default=(), compare=False)

    @property
    def qk_norm(self) -> bool:
        """Gemma 3 normalises queries and keys; Gemma 2 caps the attention logits instead."""
        return self.model_type != "gemma2"

    def check_split(self, processes: int) -> None:
        """Refuse to split the model over a number of processes that doesn't divide it.

        Raises:
            CheckpointError: naming the count that `processes` doesn't divide.
        """
        for what, count in (
            ("attention heads", self.num_attention_heads),
            # A single one is kept by every process.
            ("key-value heads", 0 if self.num_key_value_heads == 1 else self.num_key_value_heads),
            ("intermediate features", self.intermediate_size),
        ):
            if count % processes:
                raise CheckpointError(
                    f"{count} {what} can't be split over {processes} processes; choose a number "
                    "that divides them"
                )

    @classmethod
    def from_dict(cls, config: Mapping[str, Any], *, source: str = "config.json") -> "GemmaConfig":
        """The config that the contents of a `config.json` say, flat or with a `text_config`.

        A key that nothing is known of is warned of, once per process.

        Args:
            source: what errors call the file.

        Raises:
            CheckpointError: an unsupported architecture, or a key or value that transformers'
                Gemma would honour and this implementation doesn't. The message names `source` and
                the key.
        """
        if not isinstance(config, Mapping):
            raise CheckpointError(f"{source}: expected a JSON object, found {_kind(config)}")
        model_type = config.get("model_type")
        _refuse_deciding(config, source)
        if model_type == _MULTIMODAL_TYPE:
            return cls.from_dict(_text_config(config, source), source=source)
        if model_type not in _TEXT_TYPES:
            supported = ", ".join((*_TEXT_TYPES, _MULTIMODAL_TYPE))
            raise CheckpointError(
                f"{source}: unsupported model_type {model_type!r}; supported are {supported}"
            )
        defaults = _GEMMA2_DEFAULTS if model_type == "gemma2" else _GEMMA3_DEFAULTS
        read = _Reader({**defaults, **config}, source)
        activation = config.get("hidden_activation") or config.get("hidden_act")
        if activation not in (None, "gelu_pytorch_tanh"):
            raise CheckpointError(f"{source}: hidden_activation {activation!r} is not supported")
        layers = read.positive_int("num_hidden_layers")
        heads = read.positive_int("num_attention_heads")
        kv_heads = read.positive_int("num_key_value_heads")
        if heads % kv_heads:
            raise CheckpointError(
                f"{source}: num_attention_heads {heads} is not a multiple of "
                f"num_key_value_heads {kv_heads}"
            )
        window = read.values["sliding_window"]
        if config.get("sliding_window_size", window) != window:
            raise CheckpointError(f"{source}: sliding_window_size is not sliding_window")
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
            bos_token_id=read.token_id("bos_token_id"),
            eos_token_ids=read.token_ids("eos_token_id"),
            quantization=_quantization(config, source),
            unknown_keys=_unknown_keys(config, source),
        )

    @classmethod
    def from_file(cls, path: Path) -> "GemmaConfig":
        """The config in the file `path`.

        Raises:
            CheckpointError: as `from_dict`, and where the file can't be read as JSON.
        """
        return cls.from_dict(read_json(path), source=str(path))


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a checkpoint's file.

    Raises:
        CheckpointError: it can't be read or isn't an object; file and place are named.
    """
    content = files.read_json(path, error=CheckpointError)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {_kind(content)}")
    return content


def token_ids(value: Any, place: str) -> tuple[int, ...]:
    """Token ids from JSON: one, a list of them, or null for none.

    Raises:
        CheckpointError: it is something else; the message begins with `place`.
    """
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
        raise CheckpointError(f"{place} must be a token id or a list of token ids, not {value!r}")
    return tuple(ids)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Typed access to the keys of one config, with errors that name file and key."""

    values: Mapping[str, Any]
    source: str

    def _fail(self, key: str, wanted: str) -> CheckpointError:
        return CheckpointError(f"{self.source}: {key} must be {wanted}, not {self.values[key]!r}")

    def positive_int(self, key: str) -> int:
        value = self.values[key]
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
            raise self._fail(key, "a positive integer")
        return value

    def positive_float(self, key: str) -> float:
        value = self.values[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._fail(key, "a positive number")
        if not 0 < value < 1e30:
            raise self._fail(key, "a positive, finite number")
        return float(value)

    def optional_float(self, key: str) -> float | None:
        return None if self.values[key] is None else self.positive_float(key)

    def boolean(self, key: str) -> bool:
        value = self.values[key]
        if not isinstance(value, bool):
            raise self._fail(key, "true or false")
        return value

    def token_id(self, key: str) -> int:
        ids = self.token_ids(key)
        if len(ids) != 1:
            raise self._fail(key, "one token id")
        return ids[0]

    def token_ids(self, key: str) -> tuple[int, ...]:
        return token_ids(self.values[key], f"{self.source}: {key}")

    def mapping(self, key: str) -> Mapping[str, Any]:
        value = self.values.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise self._fail(key, "an object")
        return value or {}


def _kind(value: Any) -> str:
    return type(value).__name__


def _refuse_deciding(config: Mapping[str, Any], source: str) -> None:
    for key, inert in _DECIDING.items():
        if config.get(key) not in (None, inert):
            raise CheckpointError(f"{source}: {key} is supported as {json.dumps(inert)} only")


def _unknown_keys(config: Mapping[str, Any], source: str) -> tuple[str, ...]:
    # Null means that the model doesn't have what the key stands for.
    unknown = sorted(k for k, v in config.items() if k not in KNOWN_KEYS and v is not None)
    if unknown:
        _warn(
            f"{source}: unknown key {', '.join(unknown)}, which neither transformers' Gemma nor "
            "this one reads"
        )
    return tuple(unknown)


@cache
def _warn(message: str) -> None:
    warnings.warn(printable(message), stacklevel=2)


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
    pattern = _first(
        config.get("sliding_window_pattern"),
        _first(config.get("_sliding_window_pattern"), defaults["sliding_window_pattern"]),
    )
    if isinstance(pattern, bool) or not isinstance(pattern, int) or pattern < 1:
        raise CheckpointError(f"{source}: sliding_window_pattern must be a positive integer")
    return tuple(
        "full_attention" if (layer + 1) % pattern == 0 else "sliding_attention"
        for layer in range(layers)
    )


def _text_config(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The text model's config of a multimodal one, with the keys outside `text_config` added."""
    text = config.get("text_config")
    if not isinstance(text, Mapping):
        raise CheckpointError(f"{source}: model_type 'gemma3' needs a text_config object")
    outer = {
        key: value
        for key, value in config.items()
        if key not in _INERT and key != "text_config" and value is not None
    }
    # Of these transformers reads the outer value; published configs give the end of a turn only
    # there.
    leading = {"bos_token_id", "eos_token_id", "tie_word_embeddings"}
    for key, value in outer.items():
        if key in _READ - leading and text.get(key, value) != value:
            raise CheckpointError(f"{source}: {key} differs from text_config.{key}")
    return {"model_type": "gemma3_text", **text, **outer}


def _ropes(
    config: Mapping[str, Any], defaults: Mapping[str, Any], source: str
) -> tuple[Rope, Rope]:
    """RoPE of the global and of the local layers, from the old keys or `rope_parameters`."""
    read = _Reader(config, source)
    global_base = _first(config.get("rope_theta"), defaults["rope_theta"])
    local_base = _first(config.get("rope_local_base_freq"), defaults["rope_local_base_freq"])
    scaling, parameters = read.mapping("rope_scaling"), read.mapping("rope_parameters")
    if local_base is None:
        # Gemma 2 has one RoPE for all layers.
        rope = _rope({**parameters, **scaling}, global_base, f"{source}: RoPE")
        return rope, rope
    per_type = _Reader(parameters, f"{source}: rope_parameters")
    unknown = sorted(parameters.keys() - {"full_attention", "sliding_attention"})
    if unknown:
        raise CheckpointError(
            f"{source}: rope_parameters has {unknown[0]!r}; it is read per layer type, "
            "full_attention and sliding_attention"
        )
    # Where there are two, rope_scaling is the global layers' alone.
    full = {**per_type.mapping("full_attention"), **scaling}
    sliding = per_type.mapping("sliding_attention")
    return (
        _rope(full, global_base, f"{source}: RoPE of full_attention"),
        _rope(sliding, local_base, f"{source}: RoPE of sliding_attention"),
    )


def _first(value: Any, default: Any) -> Any:
    return default if value is None else value


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
    read = _Reader(config, source)
    block = read.mapping("quantization") or read.mapping("quantization_config")
    if not block:
        return None
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
        # Modules of the unused towers may be listed. A wrong value for one of ours can't pass: the
        # shapes of its packed weights and scales tell.
        place = f"{source}: quantization of {path}"
        if value is False:
            overrides.append((path, 0, 0))
        elif isinstance(value, Mapping) and value.get("mode", "affine") == "affine":
            overrides.append((path, *_group_size_and_bits({**block, **value}, place)))
        elif value is not True:
            raise CheckpointError(f"{place}: {value!r} is not supported")
    size, bits = _group_size_and_bits(block, f"{source}: quantization")
    return Quantization(size, bits, tuple(overrides))


def _group_size_and_bits(block: Mapping[str, Any], place: str) -> tuple[int, int]:
    for key, supported in (("group_size", (32, 64, 128)), ("bits", (2, 3, 4, 5, 6, 8))):
        if block.get(key) not in supported or isinstance(block[key], bool | float):
            raise CheckpointError(
                f"{place}: {key} must be one of {', '.join(map(str, supported))}, "
                f"not {block.get(key)!r}"
            )
    return block["group_size"], block["bits"]
