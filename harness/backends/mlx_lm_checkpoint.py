"""A checkpoint that mlx-lm loads: what its config says of it, and what mlx-lm is told instead."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gemma_mlx import Checkpoint, CheckpointError
from gemma_mlx.config import token_ids
from gemma_mlx.system.files import read_json

#: Architectures that tests hold against transformers, at every site.
VERIFIED = frozenset(
    (
        "falcon_h1", "gemma3_text", "gemma3n", "gemma4", "gemma4_text", "gemma4_unified", "jamba",
        "lfm2", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "qwen3_next", "smollm3",
    )
)  # fmt: skip
_LAYER_TYPES = {"full_attention", "sliding_attention"}
# The same numbers under the names that other architectures give them.
_NAMES = {
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "max_position_embeddings": ("n_positions", "n_ctx", "max_seq_len", "max_sequence_length"),
    "vocab_size": (),
}
_ENDLESS = 2**31 - 1
_NOT_IN_JSON = ("Infinity", "-Infinity", "NaN")


@dataclass(frozen=True)
class ModelConfig:
    """What the harness needs of a config.json of any architecture.

    Attributes:
        max_position_embeddings: tokens of the longest text; a large number where nothing is said.
        unknown_keys: always empty: what mlx-lm's model reads, it alone knows.
    """

    model_type: str
    num_hidden_layers: int
    vocab_size: int
    max_position_embeddings: int
    eos_token_ids: tuple[int, ...]
    unknown_keys: tuple[str, ...] = ()

    def check_split(self, processes: int) -> None:
        """Refuse to split the model.

        Raises:
            CheckpointError: always.
        """
        raise CheckpointError(
            f"several processes can hold Gemma 2 and 3 together, not {self.model_type}; without "
            "--tensor-parallel each of them takes prompts of its own"
        )


@dataclass(frozen=True)
class MlxLmCheckpoint(Checkpoint):
    """A checkpoint folder whose model is one of mlx-lm's."""

    @cached_property
    def config(self) -> ModelConfig:  # type: ignore[override]
        """What its config.json says; a `CheckpointError` where it says too little."""
        facts = text_of(self._raw)
        if not all(_fact(facts, key) for key in ("num_hidden_layers", "vocab_size")):
            # Published configs leave out what transformers has a default for.
            facts = text_of(self.normalised_config())
        found = {key: _fact(facts, key) for key in _NAMES}
        for key in ("num_hidden_layers", "vocab_size"):
            if found[key] is None:
                raise CheckpointError(f"{self.path / 'config.json'}: no {key}")
        return ModelConfig(
            model_type=str(self._raw.get("model_type")),
            num_hidden_layers=found["num_hidden_layers"] or 0,
            vocab_size=found["vocab_size"] or 0,
            max_position_embeddings=found["max_position_embeddings"] or _ENDLESS,
            eos_token_ids=token_ids(
                self._raw.get("eos_token_id", facts.get("eos_token_id")),
                f"{self.path / 'config.json'}: eos_token_id",
            ),
        )

    def normalised_config(self) -> dict[str, Any]:
        """The config as mlx-lm's models read it, with nothing left to their own defaults that
        transformers knows; see `normalised`."""
        return normalised(self._raw)

    @cached_property
    def _raw(self) -> dict[str, Any]:
        return _read(self.path)


def model_type(folder: Path) -> str | None:
    """The architecture that config.json names; None where there is no such file or name."""
    if not (folder / "config.json").exists():
        return None
    found = _read(folder).get("model_type")
    return found if isinstance(found, str) else None


def normalised(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json in the form that mlx-lm's models were written for.

    They have defaults of their own, and transformers 5 writes some numbers where they don't look,
    the base of RoPE before all: without a word a model would be another one. So what the file
    leaves out is filled in as transformers would, and what stands in a new place is put into the
    old one, too.
    """
    filled = _filled(config)
    if text_of(filled).get("use_bidirectional_attention") == "all":
        raise CheckpointError("a model whose tokens see those after them, and no language model")
    text = filled.get("text_config")
    if isinstance(text, Mapping):
        inner = _old_places(text)
        # mlx-lm's Gemma 4 takes the vocabulary from outside, and its default if nothing is there.
        outer = {"vocab_size": inner["vocab_size"]} if "vocab_size" in inner else {}
        if filled.get("model_type") == "gemma4_unified":
            # It has no per-layer inputs, and so no key for them; mlx-lm's Gemma 4 has, by default.
            inner = {"hidden_size_per_layer_input": 0, **inner}
        return {**outer, **filled, "text_config": inner}
    return _old_places(filled)


def _filled(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with transformers' defaults, where it knows the architecture."""
    from transformers import CONFIG_MAPPING

    kind = config.get("model_type")
    if kind not in CONFIG_MAPPING:
        return dict(config)
    try:
        found = CONFIG_MAPPING[kind].from_dict(dict(config)).to_dict()
    except Exception as error:
        # transformers raises whatever its configs raise.
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"transformers can't read the config ({reason})") from error
    text, given = found.get("text_config"), config.get("text_config")
    if isinstance(text, Mapping) and isinstance(given, Mapping):
        return {**found, **config, "text_config": {**text, **given}}
    return {**found, **config}


def _old_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with RoPE's numbers where transformers 4 had them."""
    found = {**_of_global_layers(config), **config}
    parameters = config.get("rope_parameters")
    if not isinstance(parameters, Mapping):
        return found
    if parameters.keys() <= _LAYER_TYPES:
        full, sliding = (parameters.get(f"{kind}_attention") or {} for kind in ("full", "sliding"))
        found.update(_rope(full))
        if "rope_theta" in sliding:
            found["rope_local_base_freq"] = sliding["rope_theta"]
    else:
        found.update(_rope(parameters))
    return found


def _of_global_layers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Gemma 4's numbers of its global layers under the names that published configs give them;
    transformers writes them layer by layer."""
    layers = config.get("per_layer_config")
    if not isinstance(layers, Mapping) or not layers:
        return {}
    first, *others = layers.values()
    if not isinstance(first, Mapping) or any(other != first for other in others):
        return {}
    names = {"head_dim": "global_head_dim", "num_key_value_heads": "num_global_key_value_heads"}
    return {name: first[key] for key, name in names.items() if key in first}


def _rope(parameters: Mapping[str, Any]) -> dict[str, Any]:
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    outer = {"rope_theta", "partial_rotary_factor", "original_max_position_embeddings"}
    found = {key: parameters[key] for key in outer if parameters.get(key) is not None}
    scaling = {k: v for k, v in parameters.items() if k != "rope_theta" and v is not None}
    if kind == "longrope" and "short_factor" in scaling:
        # mlx-lm takes the factors for long texts whatever the length.
        scaling["long_factor"] = scaling["short_factor"]
    found["rope_scaling"] = None if kind == "default" else {**scaling, "type": kind}
    return found


def text_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config says of the text model, flat."""
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, Mapping) else dict(config)


def _fact(config: Mapping[str, Any], key: str) -> int | None:
    for name in (key, *_NAMES[key]):
        value = config.get(name)
        if type(value) is int and value > 0:
            return value
    return None


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    content = read_json(path, error=CheckpointError)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return {key: _decoded(value) for key, value in content.items()}


def _decoded(value: Any) -> Any:
    """transformers 5 writes numbers that JSON hasn't as `{"__float__": "Infinity"}`."""
    if isinstance(value, list):
        return [_decoded(each) for each in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"__float__"} and value["__float__"] in _NOT_IN_JSON:
        return float(value["__float__"])
    return {key: _decoded(each) for key, each in value.items()}
