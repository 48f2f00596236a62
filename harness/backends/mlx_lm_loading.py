"""Load a checkpoint into mlx-lm's model, accounting for every tensor of its files."""

import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gemma_mlx import ALONE, CheckpointError
from gemma_mlx.fusing import fuse
from gemma_mlx.loading import COMPUTE_DTYPES, check_finite, compute_dtype, end_token_ids
from gemma_mlx.system.backend import mx, nn, tree_flatten
from gemma_mlx.system.terminal import printable
from gemma_mlx.tokenizer import GemmaTokenizer
from harness.backends.gguf import LlamaGguf
from harness.backends.mlx_lm_checkpoint import VERIFIED, MlxLmCheckpoint, text_of
from harness.backends.taps import Taps

if TYPE_CHECKING:
    from harness.backends.mlx_lm import LanguageModel

Weights = dict[str, mx.array]

# What a text model doesn't need: other modalities, and numbers that are computed anyway.
_UNNEEDED = re.compile(
    r".*(rotary_emb\.|inv_freq|vision_|visual|audio_|multi_modal_projector|embed_vision|"
    r"embed_audio|_scale_inv$).*"
)

# rope_theta, rope_local_base_freq, rotary_emb_base, …
_BASE = re.compile(r".*(rope|rotary).*(theta|base|freq).*")

_SHARED = re.compile(r".*layers\.(?P<layer>\d+)\.self_attn\.(k_proj|v_proj|k_norm)\.weight")


def load(checkpoint: MlxLmCheckpoint, *, dtype: str | None = None) -> "LanguageModel":
    """Load a checkpoint into the model that mlx-lm has for its architecture.

    Tensors that the model doesn't take are warned of by name, unless they belong to another
    modality.

    Args:
        dtype: what to compute in, "float32" or "bfloat16"; by default as `gemma_mlx.load`.

    Raises:
        CheckpointError: mlx-lm isn't installed or hasn't the architecture, or a file or tensor is
            missing, damaged or unknown.
    """
    from harness.backends.mlx_lm import LanguageModel

    # mlx_lm lowers the limit on open files.
    try:
        from mlx_lm import utils
    except ImportError as error:
        raise CheckpointError(
            f"{checkpoint.path}: models of type {checkpoint.config.model_type} are run by mlx-lm, "
            f"which can't be loaded ({error}); pip install 'artifact-harness[models]'"
        ) from error
    files = checkpoint.weight_files()
    config, told = checkpoint.config, checkpoint.normalised_config()
    tokenizer = GemmaTokenizer(
        checkpoint.path,
        bos_token_id=None,
        vocab_size=config.vocab_size,
        read=checkpoint.read_tokenizer,
        template=checkpoint.chat_template,
    )
    unread = sorted(file.name for file in files if not file.name.startswith("model"))
    if unread and not isinstance(checkpoint, LlamaGguf):
        raise CheckpointError(
            f"{checkpoint.path}: mlx-lm reads model*.safetensors, not {unread[0]}"
        )
    try:
        if isinstance(checkpoint, LlamaGguf):
            model = _from_gguf(checkpoint, utils)
        else:
            model, _ = utils.load_model(
                checkpoint.path,
                lazy=True,
                model_config=told,
                get_model_classes=_reading(checkpoint, utils),
            )
    except CheckpointError:
        raise
    except Exception as error:
        # Each of its models raises what it likes.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(f"{checkpoint.path}: mlx-lm can't load it ({reason})") from error
    name = compute_dtype(dtype, [value for _, value in tree_flatten(model.parameters())])
    model.set_dtype(COMPUTE_DTYPES[name])
    mx.eval(model.parameters())
    check_finite(model, ALONE, checkpoint)
    ends = end_token_ids(checkpoint, tokenizer) | tokenizer.ends
    if config.model_type not in VERIFIED:
        warnings.warn(
            printable(
                f"{checkpoint.path}: nobody has verified what is captured from models of type "
                f"{config.model_type}; `python -m harness verify --model {checkpoint.path}` holds "
                "it against transformers"
            ),
            stacklevel=2,
        )
    _check_rope(checkpoint, told, model)
    longest = min(config.max_position_embeddings, _window(told, model), _short_rope(told))
    config = replace(config, max_position_embeddings=int(longest))
    return LanguageModel(model, Taps(model.layers), tokenizer, config, ends)


def _check_rope(checkpoint: MlxLmCheckpoint, config: Mapping[str, Any], model: nn.Module) -> None:
    """Refuse a model that computes RoPE with a base that the config doesn't say: some of mlx-lm's
    don't ask for it."""
    said = sorted(set(_rope_bases(config)))
    bases = {float(each.base) for _, each in model.named_modules() if isinstance(each, nn.RoPE)}
    if said and not bases <= set(said):
        raise CheckpointError(
            f"{checkpoint.path}: mlx-lm's {checkpoint.config.model_type} computes RoPE with base "
            f"{min(bases - set(said)):g}, and the config says "
            f"{' and '.join(f'{base:g}' for base in said)}: it would be another model"
        )


def _rope_bases(config: Mapping[str, Any]) -> Iterator[float]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _rope_bases(value)
        elif type(value) in (int, float) and _BASE.fullmatch(key):
            yield float(value)


def _window(config: Mapping[str, Any], model: nn.Module) -> float:
    """Tokens that a layer of the model looks back, where mlx-lm's has no such window: as long as
    a text fits into it, that makes no difference."""
    from mlx_lm.models.cache import KVCache, make_prompt_cache

    window = text_of(config).get("sliding_window")
    off = text_of(config).get("use_sliding_window") is False
    has_windows = not all(type(each) is KVCache for each in make_prompt_cache(model))
    return math.inf if off or has_windows or type(window) is not int else window


def _short_rope(config: Mapping[str, Any]) -> float:
    """Tokens up to which RoPE's factors are those for short texts, with which mlx-lm is told to
    compute (`normalised`)."""
    text = text_of(config)
    scaling = text.get("rope_scaling")
    if not isinstance(scaling, Mapping) or scaling.get("type") != "longrope":
        return math.inf
    found = [block.get("original_max_position_embeddings") for block in (scaling, text)]
    return min((length for length in found if type(length) is int), default=math.inf)


def _from_gguf(checkpoint: LlamaGguf, utils: Any) -> nn.Module:
    """What `utils.load_model` gives of a folder with the same weights, not quantized."""
    config = checkpoint.normalised_config()
    kind, arguments = _reading(checkpoint, utils)(config)
    model = kind(arguments.from_dict(config))
    weights = {name: mx.array(values) for name, values in checkpoint.tensors()}
    model.load_weights(list(model.sanitize(weights).items()))
    model.eval()
    return model


def _reading(checkpoint: MlxLmCheckpoint, utils: Any) -> Callable[..., Any]:
    """What gives mlx-lm the classes of a model: its own ones, of which the model keeps books of the
    tensors that it takes, and takes an adapter's changes."""

    def classes(config: dict[str, Any]) -> tuple[type[nn.Module], type]:
        kind, arguments = utils._get_classes(config)

        class Reading(kind):  # type: ignore[valid-type, misc]
            def sanitize(self, weights: Weights) -> Weights:
                before = dict(weights)
                found = super().sanitize(weights) if hasattr(kind, "sanitize") else weights
                there = {key for key, _ in tree_flatten(self.parameters())}
                found = _without_tied_head(before, found, there, checkpoint)
                _name_unused(before, found, checkpoint)
                found |= _shared_projections(self, found)
                if checkpoint.adapter is not None:
                    found = _fused(self, found, config, checkpoint, utils)
                return found

        return Reading, arguments

    return classes


def _without_tied_head(
    file: Weights, found: Weights, there: set[str], checkpoint: MlxLmCheckpoint
) -> Weights:
    """The weights without a head that is written out and tied; an error where it differs from the
    embedding."""
    heads = [key for key in file if key.endswith("lm_head.weight")]
    if not heads or any(key.endswith("lm_head.weight") for key in there):
        return found
    embeddings = [key for key in file if key.endswith("embed_tokens.weight")]
    if len(embeddings) == 1 and not mx.array_equal(file[heads[0]], file[embeddings[0]]).item():
        raise CheckpointError(
            f"{checkpoint.path}: the config ties the head to the embedding, but {heads[0]} differs "
            f"from {embeddings[0]}"
        )
    return {key: value for key, value in found.items() if not key.endswith("lm_head.weight")}


def _name_unused(file: Weights, found: Weights, checkpoint: MlxLmCheckpoint) -> None:
    """Warn of tensors of the file that are in nothing of what the model takes.

    mlx-lm renames, splits and stacks them; what is left out shows in that fewer numbers are there
    afterwards than in the tensors that went.
    """
    kept = {id(value) for value in found.values()}
    lost = {key: value for key, value in file.items() if id(value) not in kept}
    came = {id(value) for value in file.values()}
    made = {key: value for key, value in found.items() if id(value) not in came}
    unused = [
        key
        for key in sorted(lost)
        if key not in made and not _UNNEEDED.fullmatch(key) and not key.endswith("lm_head.weight")
    ]
    size = sum(value.size for key, value in lost.items() if key in made or key in set(unused))
    if unused and size != sum(value.size for value in made.values()):
        shown = ", ".join(unused[:3]) + (", …" if len(unused) > 3 else "")
        warnings.warn(
            printable(
                f"{checkpoint.path}: mlx-lm's {checkpoint.config.model_type} doesn't take "
                f"{len(unused)} of the file's tensors: {shown}"
            ),
            stacklevel=2,
        )


def _shared_projections(model: nn.Module, weights: Weights) -> Weights:
    """What mlx-lm's Gemma 3n has and never reads: keys and values of layers that take those of
    earlier ones, which transformers 5 leaves out of the file."""
    expected = tree_flatten(model.parameters())
    return {
        key: value
        for key, value in expected
        if key not in weights
        and (match := _SHARED.fullmatch(key))
        and getattr(model.layers[int(match["layer"])].self_attn, "is_kv_shared_layer", False)
    }


def _fused(
    model: nn.Module,
    weights: Weights,
    config: Mapping[str, Any],
    checkpoint: MlxLmCheckpoint,
    utils: Any,
) -> Weights:
    """The weights with the adapter's changes, which are in full precision then."""
    assert checkpoint.adapter is not None
    modules = dict(model.named_modules())

    def full(path: str) -> mx.array:
        weight, scales = weights[f"{path}.weight"], weights.get(f"{path}.scales")
        if scales is None:
            return weight
        how = utils.infer_quant_config(path, modules[path], weights)
        # What the config says of this module holds no longer.
        config.get("quantization", {}).pop(path, None)
        return mx.dequantize(weight, scales, weights.get(f"{path}.biases"), **how)

    return fuse(weights, checkpoint.adapter, lambda key: _model_name(key, weights), full)


def _model_name(key: str, weights: Weights) -> str:
    """The model's name of an adapter's target, which may go by the checkpoint's name of it."""
    if key in weights:
        return key
    start = key.find("layers.")
    tail = key[start:] if start >= 0 else ".".join(key.split(".")[-2:])
    found = [name for name in weights if name.endswith(f".{tail}")]
    return found[0] if len(found) == 1 else key
