"""Frozen dataclasses to and from JSON, strictly.

The manifest and the spec files come from strangers, so reading refuses what is missing, unknown or of the wrong type
and says where. Supported field types: bool, int, float, str, Literal, tuple, dict with string keys, optional values
and nested dataclasses.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from typing import Any, TypeVar

__all__ = ["from_json", "parse_json", "to_json"]

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Plain JSON data (dict, list, str, int, float, bool, None) of a dataclass, without its None fields."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {name: to_json(item) for name, item in pairs if item is not None}
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    return value


def parse_json(content: bytes) -> Any:
    """JSON data of a file from a stranger: no NaN, no infinity, and no key twice.

    Raises:
        ValueError: If it is not such JSON in UTF-8.
    """
    try:
        return json.loads(content, parse_constant=_refuse_constant, object_pairs_hook=_refuse_duplicates)
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def from_json(kind: type[T], data: Any, where: str = "") -> T:
    """Build a dataclass from JSON data.

    Args:
        kind: The dataclass.
        data: What ``json.loads`` returned.
        where: Path of ``data`` within the document, for messages.

    Raises:
        ValueError: Naming the path of the first field that does not fit.
    """
    value: T = _decode(kind, data, where or kind.__name__)
    return value


def _decode(kind: Any, data: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(typing.cast(type, kind), data, where)
    if origin is typing.Literal:
        if data not in typing.get_args(kind) or isinstance(data, bool):
            raise ValueError(f"{where}: {data!r} is not one of {', '.join(map(repr, typing.get_args(kind)))}")
        return data
    if origin in (typing.Union, types.UnionType):
        (inner,) = (arg for arg in typing.get_args(kind) if arg is not type(None))
        return None if data is None else _decode(inner, data, where)
    if origin is tuple:
        return _decode_tuple(typing.get_args(kind), data, where)
    if origin is dict:
        if not isinstance(data, dict):
            raise ValueError(f"{where}: expected an object, got {_name(data)}")
        return {key: _decode(typing.get_args(kind)[1], item, f"{where}.{key}") for key, item in data.items()}
    return _decode_scalar(kind, data, where)


def _decode_dataclass(kind: type, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected an object, got {_name(data)}")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise ValueError(f"{where}: unknown key {unknown[0]!r} (known: {', '.join(fields)})")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise ValueError(f"{where}: missing key {name!r}")
    values = {name: _decode(hints[name], item, f"{where}.{name}") for name, item in data.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _decode_tuple(args: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(data, list):
        raise ValueError(f"{where}: expected a list, got {_name(data)}")
    if len(args) == 2 and args[1] is Ellipsis:
        args = (args[0],) * len(data)
    if len(args) != len(data):
        raise ValueError(f"{where}: expected {len(args)} values, got {len(data)}")
    return tuple(_decode(arg, item, f"{where}[{i}]") for i, (arg, item) in enumerate(zip(args, data, strict=True)))


def _decode_scalar(kind: Any, data: Any, where: str) -> Any:
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        try:
            data = float(data)
        except OverflowError:
            raise ValueError(f"{where}: must be a finite number") from None
    if type(data) is not kind:
        raise ValueError(f"{where}: expected {kind.__name__}, got {_name(data)}")
    if kind is float and not math.isfinite(data):
        raise ValueError(f"{where}: must be a finite number")
    return data


def _name(data: Any) -> str:
    return {dict: "an object", list: "a list", str: "a string", type(None): "null"}.get(type(data), repr(data))


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("an object has the same key twice")
    return data
