"""Frozen dataclasses as JSON values, their JSON Schema, and the way back.

NaN is null, infinities are "inf" and "-inf", keys (layer, site) their id, and a pair of prompts is
its name.
"""

import math
import types
from collections.abc import Hashable, Mapping
from dataclasses import Field, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from harness.analysis.layers import layer_id
from harness.data.activations import LayerSite
from harness.data.pairs import Pair

# The pattern is about strings alone; several schemas to choose from take ten times as long.
_NUMBER = {"type": ["number", "null", "string"], "pattern": "^-?inf$"}
_PLAIN: dict[Any, dict[str, Any]] = {
    float: _NUMBER,
    int: {"type": "integer"},
    str: {"type": "string"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    # Names of categories are the only ones of these.
    Hashable: {"type": "string"},
    Pair: {"type": "string"},
}
_ID = r"^layer_(0|[1-9]\d*)-(\w+)$"


def plain(value: Any) -> Any:
    """Dataclasses, mappings and sequences as JSON values."""
    if isinstance(value, Pair):
        return str(value)
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in _saved(value)}
    if isinstance(value, Mapping):
        return {_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _saved(record: Any) -> list[Field[Any]]:
    """The fields of a dataclass that a file has."""
    return [f for f in fields(record) if f.metadata.get("saved", True)]


def _key(key: Any) -> str:
    return layer_id(*key) if isinstance(key, tuple) else str(key)


def schema_of(kind: Any) -> dict[str, Any]:
    """JSON Schema (2020-12) of what `plain` makes of values of a type."""
    if kind in _PLAIN:
        return _PLAIN[kind]
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return record({f.name: schema_of(hints[f.name]) for f in _saved(kind)})
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema_of(argument) for argument in arguments]}
    if origin is tuple and arguments[-1] is ...:
        return {"type": "array", "items": schema_of(arguments[0])}
    if origin is tuple:
        return {
            "type": "array",
            "prefixItems": [schema_of(argument) for argument in arguments],
            "minItems": len(arguments),
            "maxItems": len(arguments),
        }
    if origin is Mapping:
        keys = _ID if arguments[0] == LayerSite else ""
        return {
            "type": "object",
            "propertyNames": {"pattern": keys},
            "additionalProperties": schema_of(arguments[1]),
        }
    raise TypeError(f"no schema for {kind}")


def record(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Schema of an object that has these keys and no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def from_plain(kind: Any, value: Any, pairs: Mapping[str, Pair] | None = None) -> Any:
    """The value of a type that `plain` made this of; it meets the type's schema.

    Raises:
        KeyError: a pair that isn't in `pairs`, which has them by name.
    """
    if kind is float:
        return math.nan if value is None else float(value)
    if kind is Pair:
        return (pairs or {})[value]
    if is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        read = {f.name: from_plain(hints[f.name], value[f.name], pairs) for f in _saved(kind)}
        return kind(**read)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (other,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else from_plain(other, value, pairs)
    if origin is tuple:
        kinds = [arguments[0]] * len(value) if arguments[-1] is ... else arguments
        return tuple(from_plain(k, v, pairs) for k, v in zip(kinds, value, strict=True))
    if origin is Mapping:
        keys = map(_layer_site, value) if arguments[0] == LayerSite else value
        items = (from_plain(arguments[1], item, pairs) for item in value.values())
        return dict(zip(keys, items, strict=True))
    return value


def _layer_site(id: str) -> LayerSite:
    layer, _, site = id.removeprefix("layer_").partition("-")
    return int(layer), site
