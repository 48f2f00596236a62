"""A model against transformers' own: logits, greedy tokens and every site at every layer.

Ours generates in batches, through its caches; theirs reads each prompt with what was written as one
text, in PyTorch, with hooks at the modules of the same names.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from gemma_mlx import CheckpointError, Request
from harness.backends.model import Model
from harness.backends.taps import PLACES

#: Largest error, as a share of the largest value, of the same computation in float32.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Difference:
    """How far two implementations are apart at one place.

    Attributes:
        what: a site, "logits", or "tokens" (greedy ones that differ, as a share of all).
        layer: where that is worst; None for what has no layer.
        error: the largest difference over the largest value of the reference.
    """

    what: str
    layer: int | None
    error: float


@dataclass(frozen=True)
class Reference:
    """A PyTorch model of transformers, and its decoder layers."""

    model: Any
    layers: Sequence[Any]

    @classmethod
    def of(cls, model: Any, layers: int) -> "Reference":
        """A model with so many decoder layers.

        Raises:
            CheckpointError: there is no such list of layers in it, or more than one.
        """
        found = [
            module
            for name, module in model.named_modules()
            if name.split(".")[-1] in ("layers", "h", "blocks")
            and not any(other in name for other in ("vision", "audio"))
            and len(list(module.children())) == layers
        ]
        if len(found) != 1:
            raise CheckpointError(f"{len(found)} lists of {layers} layers in transformers' model")
        return cls(model, list(found[0].children()))

    def __call__(self, ids: Sequence[int]) -> tuple[np.ndarray, dict[str, list[np.ndarray]]]:
        """Logits (tokens, vocab) of one text and, by site, (tokens, width) of each layer."""
        import torch

        with torch.no_grad(), self._hooked() as seen:
            logits = self.model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits
        sites = {
            site: [_rows(values[n], len(ids)) for n in range(len(self.layers))]
            for site, values in seen.items()
            if len(values) == len(self.layers)
        }
        return logits[0].float().numpy(), sites

    @contextmanager
    def _hooked(self) -> Iterator[dict[str, dict[int, Any]]]:
        seen: dict[str, dict[int, Any]] = {}
        handles = []

        def watch(module: Any, site: str, layer: int, output: bool) -> None:
            def before(_: Any, args: Any, options: Any) -> None:
                # Before another call changes it in place.
                given = args[0] if args else options["hidden_states"]
                seen.setdefault(site, {})[layer] = given.clone()

            def after(_: Any, __: Any, result: Any) -> None:
                first = result[0] if isinstance(result, tuple) else result
                seen.setdefault(site, {})[layer] = first.clone()

            if output:
                handles.append(module.register_forward_hook(after))
            else:
                handles.append(module.register_forward_pre_hook(before, with_kwargs=True))

        for number, layer in enumerate(self.layers):
            watch(layer, "resid_pre", number, False)
            watch(layer, "resid_post", number, True)
            for site, place in PLACES.items():
                module = place.find(layer, lambda parent, name: getattr(parent, name, None))
                if module is not None:
                    watch(module, site, number, place.output)
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()


def load_reference(path: Any, layers: int) -> Reference:
    """transformers' model of a checkpoint folder, in float32.

    Raises:
        CheckpointError: PyTorch isn't there, or transformers can't load it.
    """
    try:
        import torch
    except ImportError:
        raise CheckpointError(
            "verifying needs PyTorch, which runs transformers' models: pip install torch"
        ) from None
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
        name = (config.architectures or ["AutoModelForCausalLM"])[0]
        kind = getattr(transformers, name, transformers.AutoModelForCausalLM)
        model = kind.from_pretrained(
            path, dtype=torch.float32, attn_implementation="eager", local_files_only=True
        )
    except Exception as error:
        # transformers raises whatever its models raise.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(f"{path}: transformers can't load it ({reason})") from error
    return Reference.of(model.eval(), layers)


def compare(
    model: Model, reference: Reference, prompts: Sequence[Sequence[int]], *, max_tokens: int
) -> list[Difference]:
    """Have both read the prompts and what ours writes after them, and hold them side by side.

    Args:
        prompts: token ids.

    Returns:
        Logits first, then tokens, then the sites in the order of a layer.
    """
    layers = tuple(range(model.config.num_hidden_layers))
    request = Request(prompts, layers, max_tokens=max_tokens, sites=model.sites)
    model.check(request)
    logits, tokens = 0.0, []
    sites: dict[str, tuple[float, int]] = {}
    for batch in model.plan(request, None):
        for number, found in zip(batch, model.run(request, batch), strict=True):
            prompt, steps = list(prompts[number]), len(found.token_ids)
            text = [*prompt, *found.token_ids]
            expected, theirs = reference(text)
            logits = max(logits, _error(model.logits(text), expected))
            greedy = expected[len(prompt) - 1 :].argmax(axis=-1).tolist()[:steps]
            tokens += [a != b for a, b in zip(found.token_ids, greedy, strict=True)]
            for site in model.sites:
                if site not in theirs or not steps:
                    continue
                errors = [
                    _error(ours, rows[len(prompt) :])
                    for ours, rows in zip(found.activations[site], theirs[site], strict=True)
                ]
                worst = int(np.argmax(errors))
                sites[site] = max(sites.get(site, (0.0, 0)), (errors[worst], worst))
    return [
        Difference("logits", None, logits),
        Difference("tokens", None, float(np.mean(tokens)) if tokens else 0.0),
        *(Difference(site, layer, error) for site, (error, layer) in sites.items()),
    ]


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))


def _rows(value: Any, tokens: int) -> np.ndarray:
    """(tokens, width) of what one module took or gave for one text."""
    if value.ndim == 4:
        # Gemma 3n's several versions of the residual stream.
        value = value[0]
    return value.float().reshape(tokens, -1).numpy()
