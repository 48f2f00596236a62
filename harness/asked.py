"""What was asked of an experiment: values that can't be meant, and what a model hasn't.

Everything here raises a `gemma_mlx.RequestError` that names the argument.
"""

import os
from collections.abc import Collection, Iterable, Sequence
from numbers import Integral
from typing import Any

from gemma_mlx import RequestError
from gemma_mlx.config import GemmaConfig
from gemma_mlx.sites import VECTOR_SITES


def check_known(name: str, chosen: Sequence[str], known: Sequence[str]) -> None:
    """Refuse what isn't one of `known`, and a text in place of several."""
    for value in [chosen] if isinstance(chosen, str) else chosen:
        if isinstance(chosen, str) or value not in known:
            raise RequestError(f"{name}: {value!r}; choose from {', '.join(known)}")


def check_whole(name: str, value: Any) -> None:
    """Refuse what isn't a whole number from 1."""
    if not _is_whole(value, 1):
        raise RequestError(f"{name}: {value!r}; must be a whole number from 1")


def check_kind(name: str, value: Any, *kinds: type) -> None:
    """Refuse what is of none of these types."""
    if not isinstance(value, kinds):
        wanted = " or ".join("a path" if k is os.PathLike else k.__name__ for k in kinds)
        raise RequestError(f"{name}: {value!r}; must be {wanted}")


def check_layers(layers: Any) -> None:
    """Refuse what isn't the numbers of layers."""
    if not (isinstance(layers, Collection) and all(_is_whole(layer, 0) for layer in layers)):
        raise RequestError(f"layers: {layers!r}; give their numbers, as in [6] or range(6)")


def layers_of(config: GemmaConfig, asked: Iterable[int] | None, model: object) -> tuple[int, ...]:
    """The layers asked for, in order and each once; all of the model's for None."""
    every = range(config.num_hidden_layers)
    layers = tuple(every if asked is None else sorted(set(asked)))
    absent = [layer for layer in layers if layer not in every]
    if absent or not layers:
        raise RequestError(
            f"layer {absent[0]} doesn't exist; {model} has layers 0 to {every[-1]}"
            if absent
            else "layers: name at least one"
        )
    return layers


def sites_of(config: GemmaConfig, asked: Iterable[str], model: object) -> tuple[str, ...]:
    """The sites asked for, each once. Of other architectures they are known once the model is
    loaded."""
    sites = tuple(dict.fromkeys(asked))
    absent = [site for site in sites if site not in VECTOR_SITES]
    if absent and isinstance(config, GemmaConfig):
        raise RequestError(
            f"site {absent[0]!r} isn't in {model}; there are {', '.join(VECTOR_SITES)}"
        )
    return sites


def _is_whole(value: Any, low: int) -> bool:
    """Whether a value is a whole number from `low`, NumPy's included."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= low
