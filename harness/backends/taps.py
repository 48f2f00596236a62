"""Hooks in models that weren't written with any: the modules of each decoder layer are wrapped.

A wrapped module is of a subclass of its own class that differs by its call, so that everything else
that its model asks of it, parameters and attributes, stays as it was. Where a hook returns what it
was given, the call returns what it would have returned.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from gemma_mlx.models.gemma import Hook
from gemma_mlx.system.backend import mx, nn


@dataclass(frozen=True)
class Place:
    """Where a site is in a decoder layer.

    Attributes:
        names: what architectures call the module, a path from the layer; the first that is there.
        output: whether the site is the module's output, or its input.
    """

    names: tuple[str, ...]
    output: bool = True

    def find(self, layer: Any, child: Callable[[Any, str], Any]) -> Any:
        """The module in a layer; None where there is none.

        Args:
            child: what a module has under a name; None for nothing.
        """
        for name in self.names:
            module = layer
            for part in name.split("."):
                module = None if module is None else child(module, part)
            if module is not None:
                return module
        return None


_MLPS = ("mlp", "feed_forward", "ffn", "mlp_block", "block_sparse_moe", "moe")
_DOWN = ("down_proj", "c_proj", "fc2", "w2", "dense_4h_to_h")

#: By site, beside `resid_pre` and `resid_post`, which are a layer's own input and output. PyTorch's
#: modules in transformers have the same names.
PLACES: dict[str, Place] = {
    "attn_out": Place(
        (
            "self_attn", "attention", "attn", "linear_attn", "self_attention", "mamba",
            "temporal_block", "conv",
        )
    ),
    "resid_mid": Place(("pre_feedforward_layernorm",), output=False),
    "mlp_post": Place(tuple(f"{mlp}.{down}" for mlp in _MLPS for down in _DOWN), output=False),
    "mlp_out": Place(_MLPS),
    "experts_out": Place(("experts",)),
    "mlp_out_normed": Place(("post_feedforward_layernorm",)),
    "per_layer_out": Place(("post_per_layer_input_norm",)),
}  # fmt: skip


class Taps:
    """The hook that a model's wrapped modules call, if one is on."""

    def __init__(self, layers: Sequence[nn.Module]):
        self._hook: Hook | None = None
        for number, layer in enumerate(layers):
            self._wrap(layer, number, before="resid_pre", after="resid_post")
            for site, place in PLACES.items():
                module = place.find(layer, lambda parent, name: parent.get(name))
                if isinstance(module, nn.Module):
                    where = {"after": site} if place.output else {"before": site}
                    self._wrap(module, number, **where)

    @contextmanager
    def calling(self, hook: Hook) -> Iterator[None]:
        """Have the model call `hook` for as long as the `with` block lasts."""
        before, self._hook = self._hook, hook
        try:
            yield
        finally:
            self._hook = before

    def _wrap(
        self, module: nn.Module, layer: int, *, before: str | None = None, after: str | None = None
    ) -> None:
        def tap(call: Callable[..., Any], x: Any, *args: Any, **options: Any) -> Any:
            hook = self._hook
            if hook is None:
                return call(x, *args, **options)
            if before is not None:
                x = _through(hook, before, layer, x)
            found = call(x, *args, **options)
            return found if after is None else _through(hook, after, layer, found)

        kind: Any = type(module)
        module.__class__ = _wrapped(kind)
        module._tap = tap


@cache
def _wrapped(kind: Any) -> Any:
    class Wrapped(kind):
        def __call__(self, *args: Any, **options: Any) -> Any:
            return self._tap(super().__call__, *args, **options)

    return Wrapped


def _through(hook: Hook, site: str, layer: int, value: Any) -> Any:
    """What a hook makes of a module's input or output, which may be a tuple with more in it."""
    if isinstance(value, tuple):
        first = _through(hook, site, layer, value[0])
        return value if first is value[0] else (first, *value[1:])
    if value.ndim != 4:
        return hook(site, layer, value)
    # Gemma 3n has several versions of the residual stream; the first is the one that blocks read.
    active = value[0]
    changed = hook(site, layer, active)
    return value if changed is active else mx.concatenate([changed[None], value[1:]])
