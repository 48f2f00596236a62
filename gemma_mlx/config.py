"""Hugging Face `config.json` of a Gemma 3 (or Gemma 2) text model, as a frozen dataclass."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from typing import Any, Literal, get_args

from gemma_mlx.errors import CheckpointError
from gemma_mlx.quantization import Quantization, read_quantization
from gemma_mlx.system.terminal import printable

LayerType = Literal["sliding_attention", "full_attention"]

_TEXT_TYPES = ("gemma2", "gemma3_text")
_MULTIMODAL_TYPE = "gemma3"
#: The values of `model_type` that this package computes.
MODEL_TYPES = (*_TEXT_TYPES, _MULTIMODAL_TYPE)

# GemmaConfig has the defaults of what it holds as it is in the file; these are of what it derives.
_GEMMA3_DEFAULTS: dict[str, Any] = {
    "_sliding_window_pattern": 6,
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
    "bos_token_id": 2,
    "eos_token_id": 1,
}
_GEMMA2_DEFAULTS: dict[str, Any] = {
    **_GEMMA3_DEFAULTS,
    "vocab_size": 256_000,
    "max_position_embeddings": 8192,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
    "_sliding_window_pattern": 2,
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
_DERIVED_KEYS = {
    *_GEMMA3_DEFAULTS,
    "hidden_act",
    "hidden_activation",
    "layer_types",
    "quantization",
    "quantization_config",
    "rope_parameters",
    "rope_scaling",
    "sliding_window_pattern",
    "sliding_window_size",
    "text_config",
}
# What the forward pass of transformers' or mlx-lm's Gemma depends on besides, and ours doesn't: the
# value that changes nothing.
_DECIDING: dict[str, Any] = {
    "decoder": None,
    "generator": None,
    "is_causal": True,
    "kv_sharing_modes": None,
    "partial_rotary_factor": 1.0,
    "per_layer_config": None,
    "quantize_activations": False,
    "use_bidirectional_attention": False,
}


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
class GemmaConfig:
    """The text model's shape and constants, under the names of config.json: widths in features,
    `sliding_window` and `max_position_embeddings` in tokens.

    The defaults are Gemma 3's: published multimodal checkpoints leave out what equals them.

    Attributes:
        unknown_keys: keys of the file that neither this model nor transformers' Gemma reads, so
            that they can't change what comes out.
    """

    model_type: str
    layer_types: tuple[LayerType, ...]
    global_rope: Rope
    local_rope: Rope
    bos_token_id: int
    eos_token_ids: tuple[int, ...]
    quantization: Quantization | None
    unknown_keys: tuple[str, ...] = field(compare=False)
    vocab_size: int = 262_208
    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 256
    rms_norm_eps: float = 1e-6
    query_pre_attn_scalar: float = 256.0
    sliding_window: int = 4096
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    max_position_embeddings: int = 131_072

    @property
    def qk_norm(self) -> bool:
        """Gemma 3 normalises queries and keys; Gemma 2 caps the attention logits instead."""
        return self.model_type != "gemma2"

    def check_split(self, processes: int) -> None:
        """Refuse to split the model over a number of processes that doesn't divide it.

        Raises:
            CheckpointError: naming the count that `processes` doesn't divide.
        """
        counts = {
            "attention heads": self.num_attention_heads,
            "key-value heads": self.num_key_value_heads,
            "intermediate features": self.intermediate_size,
        }
        if self.num_key_value_heads == 1:
            # Every process keeps it.
            del counts["key-value heads"]
        for what, count in counts.items():
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
        try:
            found = cls._read(config)
        except CheckpointError as error:
            raise CheckpointError(f"{source}: {error}") from None
        if found.unknown_keys:
            _warn(
                f"{source}: unknown key {', '.join(found.unknown_keys)}, which neither "
                "transformers' Gemma nor this one reads"
            )
        return found

    @classmethod
    def _read(cls, config: Mapping[str, Any]) -> "GemmaConfig":
        model_type = config.get("model_type")
        # Null means that the model doesn't have what the key stands for.
        given = {key: value for key, value in config.items() if value is not None}
        for key, inert in _DECIDING.items():
            if given.get(key, inert) != inert:
                raise CheckpointError(f"{key} is supported as {json.dumps(inert)} only")
        if model_type == _MULTIMODAL_TYPE:
            return cls._read(_text_config(given))
        if model_type not in _TEXT_TYPES:
            raise CheckpointError(
                f"unsupported model_type {model_type!r}; supported are {', '.join(MODEL_TYPES)}"
            )
        defaults = _GEMMA2_DEFAULTS if model_type == "gemma2" else _GEMMA3_DEFAULTS
        values, given = {**defaults, **config}, {**defaults, **given}
        plain = _plain_values(values)
        activation = given.get("hidden_activation") or given.get("hidden_act")
        if activation not in (None, "gelu_pytorch_tanh"):
            raise CheckpointError(f"hidden_activation {activation!r} is not supported")
        heads, kv_heads = plain["num_attention_heads"], plain["num_key_value_heads"]
        if heads % kv_heads:
            raise CheckpointError(
                f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
            )
        window = plain["sliding_window"]
        if given.get("sliding_window_size", window) != window:
            raise CheckpointError("sliding_window_size is not sliding_window")
        bos, eos = (token_ids(values[key], key) for key in ("bos_token_id", "eos_token_id"))
        if len(bos) != 1:
            raise CheckpointError(
                f"bos_token_id must be one token id, not {values['bos_token_id']!r}"
            )
        global_rope, local_rope = _ropes(given)
        return cls(
            model_type=str(model_type),
            layer_types=_layer_types(given, plain["num_hidden_layers"]),
            global_rope=global_rope,
            local_rope=local_rope,
            bos_token_id=bos[0],
            eos_token_ids=eos,
            quantization=read_quantization(
                _object(given, "quantization") or _object(given, "quantization_config")
            ),
            unknown_keys=tuple(sorted(given.keys() - KNOWN_KEYS)),
            **plain,
        )


_PLAIN_FIELDS = [plain for plain in fields(GemmaConfig) if plain.default is not MISSING]
_INERT = {*_INERT_KEYS.split()}
_READ = _DERIVED_KEYS | {plain.name for plain in _PLAIN_FIELDS}
#: Keys whose effect on the model is known; all others have none.
KNOWN_KEYS = frozenset(_READ | _INERT | _DECIDING.keys())


def _plain_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """What `GemmaConfig` holds as it is in the file, each value of the type that it declares."""
    found: dict[str, Any] = {}
    for plain in _PLAIN_FIELDS:
        key, value = plain.name, config.get(plain.name, plain.default)
        if plain.type is bool and not isinstance(value, bool):
            raise CheckpointError(f"{key} must be true or false, not {value!r}")
        if plain.type is int:
            value = _positive_int(value, key)
        elif plain.type is float or (plain.type == float | None and value is not None):
            value = _positive_float(value, key)
        found[key] = value
    return found


def _positive_int(value: Any, place: str) -> int:
    if type(value) is not int or not 0 < value < 2**31:
        raise CheckpointError(f"{place} must be a positive integer, not {value!r}")
    return value


def _positive_float(value: Any, place: str) -> float:
    if type(value) not in (int, float) or not 0 < value < 1e30:
        raise CheckpointError(f"{place} must be a positive, finite number, not {value!r}")
    return float(value)


def _object(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The JSON object under a key; empty where there is none."""
    value = config.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise CheckpointError(f"{key} must be an object, not {value!r}")
    return value or {}


def token_ids(value: Any, place: str) -> tuple[int, ...]:
    """Token ids from JSON: one, a list of them, or null for none.

    Raises:
        CheckpointError: it is something else; the message begins with `place`.
    """
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(i) is int and i >= 0 for i in ids):
        raise CheckpointError(f"{place} must be a token id or a list of token ids, not {value!r}")
    return tuple(ids)


@cache
def _warn(message: str) -> None:
    warnings.warn(printable(message), stacklevel=2)


def _layer_types(config: Mapping[str, Any], layers: int) -> tuple[LayerType, ...]:
    explicit = config.get("layer_types")
    if explicit is not None:
        if not isinstance(explicit, list) or len(explicit) != layers:
            raise CheckpointError(f"layer_types must list {layers} layers")
        for name in explicit:
            if name not in get_args(LayerType):
                raise CheckpointError(f"unsupported layer type {name!r} in layer_types")
        return tuple(explicit)
    pattern = _positive_int(
        config.get("sliding_window_pattern", config["_sliding_window_pattern"]),
        "sliding_window_pattern",
    )
    return tuple(
        "full_attention" if (layer + 1) % pattern == 0 else "sliding_attention"
        for layer in range(layers)
    )


def _text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The text model's config of a multimodal one, with the keys outside `text_config` added."""
    text = config.get("text_config")
    if not isinstance(text, Mapping):
        raise CheckpointError("model_type 'gemma3' needs a text_config object")
    outer = {key: config[key] for key in config.keys() - _INERT - {"text_config"}}
    # Of these transformers reads the outer value; published configs give the end of a turn only
    # there.
    leading = {"bos_token_id", "eos_token_id", "tie_word_embeddings"}
    for key in sorted(outer.keys() & _READ - leading):
        if text.get(key, outer[key]) != outer[key]:
            raise CheckpointError(f"{key} differs from text_config.{key}")
    return {"model_type": "gemma3_text", **text, **outer}


def _ropes(config: Mapping[str, Any]) -> tuple[Rope, Rope]:
    """RoPE of the global and of the local layers, from the old keys or `rope_parameters`."""
    global_base, local_base = config["rope_theta"], config["rope_local_base_freq"]
    scaling = _object(config, "rope_scaling")
    parameters = _object(config, "rope_parameters")
    if local_base is None:
        # Gemma 2 has one RoPE for all layers.
        rope = _rope({**parameters, **scaling}, global_base, "RoPE")
        return rope, rope
    unknown = sorted(parameters.keys() - {*get_args(LayerType)})
    if unknown:
        raise CheckpointError(
            f"rope_parameters has {unknown[0]!r}; it is read per layer type, "
            "full_attention and sliding_attention"
        )
    # Where there are two, rope_scaling is the global layers' alone.
    full = {**_object(parameters, "full_attention"), **scaling}
    sliding = _object(parameters, "sliding_attention")
    return (
        _rope(full, global_base, "RoPE of full_attention"),
        _rope(sliding, local_base, "RoPE of sliding_attention"),
    )


def _rope(parameters: Mapping[str, Any], base: float, place: str) -> Rope:
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    known = {"rope_type", "type", "rope_theta", "factor"}
    unknown = [k for k, v in parameters.items() if k not in known and v is not None]
    if kind not in ("default", "linear") or unknown:
        what = ", ".join(unknown) if unknown else f"rope_type {kind!r}"
        raise CheckpointError(f"{place}: {what} is not supported (default and linear are)")
    factor = parameters.get("factor", 1.0) if kind == "linear" else 1.0
    return Rope(
        base=_positive_float(parameters.get("rope_theta", base), f"{place}: rope_theta"),
        factor=_positive_float(factor, f"{place}: factor"),
    )
