"""Load a Gemma checkpoint, accounting for every tensor of its files and of the model."""

import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from gemma_mlx.checkpoint import Checkpoint, find_checkpoint
from gemma_mlx.config import GemmaConfig
from gemma_mlx.errors import CheckpointError
from gemma_mlx.fusing import fuse
from gemma_mlx.gguf import GgufCheckpoint
from gemma_mlx.models.gemma import GemmaModel, Intervention
from gemma_mlx.quantization import Quantization, Scheme
from gemma_mlx.ranks import ALONE, Ranks
from gemma_mlx.request import check_layer
from gemma_mlx.sites import find_site
from gemma_mlx.system.backend import mx, nn, tree_flatten
from gemma_mlx.tokenizer import GemmaTokenizer

#: Dtypes that activations are computed in. float16 is not among them: Gemma's residual stream
#: outgrows its largest value, 65,504.
COMPUTE_DTYPES: dict[str, mx.Dtype] = {"float32": mx.float32, "bfloat16": mx.bfloat16}

# Text towers of the multimodal checkpoints, as transformers 4, transformers 5 and MLX write them.
_PREFIXES = (
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
)
_UNNEEDED = re.compile(
    r"(model\.)?(vision_tower|multi_modal_projector)\..*|.*\.rotary_emb\.inv_freq"
)


@dataclass(frozen=True)
class Gemma:
    """A loaded checkpoint.

    Attributes:
        model: the network, with its weights in the compute dtype.
        tokenizer: None where the checkpoint has none.
        config: the model's shape and constants.
        fingerprint: sha256 over everything in the checkpoint that decides what comes out.
        eos_token_ids: any of them ends a generation.
        dtype: the compute dtype, "float32" or "bfloat16".
        interventions: those of `gemma_mlx.intervention` that are on now; every forward pass goes
            through them.
    """

    model: GemmaModel
    tokenizer: GemmaTokenizer | None
    config: GemmaConfig
    fingerprint: str
    eos_token_ids: frozenset[int]
    dtype: str
    interventions: list[Intervention] = field(default_factory=list)

    def width(self, site: str, layer: int) -> int:
        """Features of a token's vector at a site of a layer.

        Raises:
            RequestError: no such site or layer, or no vectors there.
        """
        check_layer(layer, self.config)
        return find_site(site).features(self.config)


def device_name() -> str:
    """Where MLX computes: "cpu" or "gpu"."""
    return "gpu" if mx.default_device().type == mx.gpu else "cpu"


def load(
    path_or_repo: str | os.PathLike[str],
    *,
    revision: str | None = None,
    dtype: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
    chat_template: str | os.PathLike[str] | None = None,
    ranks: Ranks = ALONE,
) -> Gemma:
    """Load a Gemma 3 (or Gemma 2) text model from a folder, a GGUF file or a Hugging Face
    repository.

    Args:
        path_or_repo: a folder in Hugging Face or MLX format, a `.gguf` file, or `owner/name` or
            `owner/name/file.gguf` on the hub.
        revision: branch, tag or commit of a hub repository.
        dtype: compute dtype, "float32" or "bfloat16". By default float32 on a CPU device and
            the checkpoint's own on a GPU (float32 for a float16 checkpoint).
        adapter: folder or hub repository of an adapter that was trained on the checkpoint, by
            mlx-lm or PEFT; it is fused into the weights, of which those that it changes are no
            longer quantized.
        chat_template: a Jinja file to use in place of the adapter's or the checkpoint's own.
        ranks: processes that hold the model together, each a part of every layer (tensor
            parallel). All of them then have to make the same calls.

    Raises:
        CheckpointError: a file or tensor that is missing, damaged, unknown or unsupported; the
            message names it.
        RanksError: another process is gone.
    """
    checkpoint = find_checkpoint(
        path_or_repo, revision=revision, adapter=adapter, chat_template=chat_template
    )
    return load_checkpoint(checkpoint, dtype=dtype, ranks=ranks)


def load_checkpoint(
    checkpoint: Checkpoint, *, dtype: str | None = None, ranks: Ranks = ALONE
) -> Gemma:
    """`load` for a checkpoint of `find_checkpoint`."""
    config = checkpoint.config
    # First, because it is read faster, and its faults are said sooner.
    tokenizer = _read_tokenizer(checkpoint)
    ends = end_token_ids(checkpoint, tokenizer)
    weights = _read_weights(checkpoint)
    name = compute_dtype(dtype, weights.values())
    if checkpoint.adapter is not None:
        full = partial(_dequantized, config, weights)
        weights = fuse(weights, checkpoint.adapter, _our_name, full)
    model = GemmaModel(config)
    try:
        if config.quantization is not None:
            _quantize(model, config.quantization, weights)
        _check_tensors(model, weights)
        model.load_weights([(k, _cast(v, COMPUTE_DTYPES[name])) for k, v in weights.items()])
        # Nothing is read from disk yet. A rank that splits its tensors must not keep them whole.
        del weights
        if ranks.size > 1:
            model.shard(ranks)
    except ValueError as error:
        # Tensors that don't fit, or numbers that don't divide: widths by a quantization's group
        # size; heads, features or groups by the number of ranks.
        raise CheckpointError(f"{checkpoint.path}: {error}") from None
    model.eval()
    mx.eval(model.parameters())
    check_finite(model, ranks, checkpoint)
    _check_computable(model, ranks, checkpoint, COMPUTE_DTYPES[name])
    return Gemma(model, tokenizer, config, checkpoint.fingerprint, ends, name)


def _read_tokenizer(checkpoint: Checkpoint) -> GemmaTokenizer | None:
    if not checkpoint.has_tokenizer:
        return None
    config = checkpoint.config
    return GemmaTokenizer(
        checkpoint.path,
        bos_token_id=config.bos_token_id,
        vocab_size=config.vocab_size,
        read=checkpoint.read_tokenizer,
        template=checkpoint.chat_template,
    )


def end_token_ids(checkpoint: Checkpoint, tokenizer: GemmaTokenizer | None) -> frozenset[int]:
    """What ends a generation: the checkpoint's end tokens, and the end of a turn in a chat template
    that isn't its own."""
    ends = checkpoint.eos_token_ids
    if tokenizer is None or not checkpoint.has_foreign_template:
        return ends
    # A base model's own end tokens know nothing of turns.
    return ends if tokenizer.turn_end is None else ends | {tokenizer.turn_end}


def compute_dtype(asked: str | None, weights: Iterable[mx.array]) -> str:
    """The dtype to compute in: the one asked for or, on MLX's default device, these weights'.

    Raises:
        CheckpointError: another one than float32 or bfloat16.
    """
    if asked is None:
        floating = {w.dtype for w in weights if _kind(w) == mx.floating}
        bfloat16 = device_name() != "cpu" and floating == {mx.bfloat16}
        return "bfloat16" if bfloat16 else "float32"
    if asked not in COMPUTE_DTYPES:
        raise CheckpointError(
            f"dtype {asked!r} is not supported: activations are computed in "
            f"{' or '.join(COMPUTE_DTYPES)} (float16 overflows in Gemma's residual stream)"
        )
    return asked


def _read_weights(checkpoint: Checkpoint) -> dict[str, mx.array]:
    weights: dict[str, mx.array] = {}
    for file in checkpoint.weight_files():
        for key, value in _read_file(file, checkpoint).items():
            name = _our_name(key)
            if name in weights:
                raise CheckpointError(f"{file}: tensor {key} occurs twice in the checkpoint")
            if name is not None:
                weights[name] = value
    if checkpoint.config.tie_word_embeddings:
        _drop_tied_head(weights, checkpoint)
    return weights


def _read_file(file: Path, checkpoint: Checkpoint) -> dict[str, mx.array]:
    if isinstance(checkpoint, GgufCheckpoint):
        return {key: mx.array(value) for key, value in checkpoint.tensors()}
    try:
        return mx.load(str(file))  # type: ignore[return-value]
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{file}: MLX can't read it ({error})") from None


def _our_name(key: str) -> str | None:
    """The model's name of a checkpoint tensor; None where the text model doesn't need it."""
    if _UNNEEDED.fullmatch(key):
        return None
    for prefix, ours in _PREFIXES:
        if key.startswith(prefix):
            return ours + key.removeprefix(prefix)
    return key


def _drop_tied_head(weights: dict[str, mx.array], checkpoint: Checkpoint) -> None:
    """Remove a tied head that is written out; an error unless it equals the embedding."""
    for part in ("weight", "scales", "biases"):
        head = weights.pop(f"lm_head.{part}", None)
        embedding = weights.get(f"model.embed_tokens.{part}")
        if head is not None and (embedding is None or not mx.array_equal(head, embedding).item()):
            raise CheckpointError(
                f"{checkpoint.path}: tie_word_embeddings is true, but lm_head.{part} differs "
                f"from model.embed_tokens.{part}"
            )


def _quantize(model: GemmaModel, quantization: Quantization, weights: dict[str, mx.array]) -> None:
    def how(path: str, module: nn.Module) -> bool | dict[str, Any]:
        if not hasattr(module, "to_quantized") or f"{path}.scales" not in weights:
            return False
        scheme = _scheme(quantization, path)
        return scheme is not None and asdict(scheme)

    nn.quantize(model, **asdict(quantization.default), class_predicate=how)


def _scheme(quantization: Quantization, path: str) -> Scheme | None:
    """How the module at a path is quantized."""
    overrides = {_our_name(f"{path}.weight"): scheme for path, scheme in quantization.overrides}
    return overrides.get(f"{path}.weight", quantization.default)


def _dequantized(config: GemmaConfig, weights: dict[str, mx.array], path: str) -> mx.array:
    """A module's weight in full precision."""
    weight, scales = weights[f"{path}.weight"], weights.get(f"{path}.scales")
    scheme = config.quantization and _scheme(config.quantization, path)
    if scales is None or scheme is None:
        return weight
    return mx.dequantize(weight, scales, weights.get(f"{path}.biases"), **asdict(scheme))


def _check_tensors(model: GemmaModel, weights: dict[str, mx.array]) -> None:
    expected: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    faults = [f"missing tensor {key}" for key in sorted(expected.keys() - weights.keys())]
    faults += [f"unexpected tensor {key}" for key in sorted(weights.keys() - expected.keys())]
    if not faults:
        for key, value in sorted(weights.items()):
            if value.shape != expected[key].shape:
                asked = f"the config asks for {expected[key].shape}"
                faults.append(f"wrong shape: {key} is {value.shape}, {asked}")
            elif _kind(value) != _kind(expected[key]):
                faults.append(f"wrong dtype: {key} is {value.dtype}")
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise CheckpointError(f"{faults[0]}{more}")


def _kind(value: mx.array) -> mx.Dtype | mx.DtypeCategory:
    return mx.floating if mx.issubdtype(value.dtype, mx.floating) else value.dtype


def _cast(value: mx.array, dtype: mx.Dtype) -> mx.array:
    return value.astype(dtype) if _kind(value) == mx.floating else value


def check_finite(model: GemmaModel, ranks: Ranks, checkpoint: Checkpoint) -> None:
    bad = [
        key
        for key, value in tree_flatten(model.parameters())
        if _kind(value) == mx.floating and not mx.isfinite(value).all().item()
    ]
    # Each rank sees its own part only, and all of them must raise.
    adapter = "" if checkpoint.adapter is None else f" with {checkpoint.adapter.path}"
    for found in ranks.share(bad):
        if found:
            raise CheckpointError(
                f"{checkpoint.path}{adapter}: tensor {found[0]} holds NaN or infinity"
            )


def _check_computable(
    model: GemmaModel, ranks: Ranks, checkpoint: Checkpoint, dtype: mx.Dtype
) -> None:
    """Refuse a quantization that MLX can't compute with on this device: its CUDA back end has no
    kernel for some modes and shapes, and says so only when it computes."""
    refused = []
    # One module stands for all of its kind.
    modules = {
        (Scheme(module.group_size, module.bits, module.mode), module.weight.shape): (path, module)
        for path, module in model.named_modules()
        if "scales" in module
    }
    for (scheme, _), (path, module) in modules.items():
        width = module.scales.shape[-1] * scheme.group_size
        weight = module.weight, module.scales, module.get("biases")
        try:
            # A token at a time and many have kernels of their own.
            for rows in (1, 16):
                x = mx.zeros((rows, width), dtype)
                mx.eval(mx.quantized_matmul(x, *weight, **asdict(scheme)))
        except (RuntimeError, ValueError) as error:
            refused.append(f"{path}, {scheme.bits} bits in mode {scheme.mode} ({error})")
    for found in ranks.share(refused):
        if found:
            raise CheckpointError(
                f"{checkpoint.path}: MLX can't compute on this {device_name()} with {found[0]}; "
                "convert the checkpoint to another quantization"
            )
