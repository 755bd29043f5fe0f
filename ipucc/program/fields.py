"""Typed access to JSON that was written by nobody knows whom: every wrong field is an IPU0506 that names its place."""

import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from math import inf, isfinite, isnan, nan
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from ipucc.diagnostics import CompileError, error

__all__ = ["Field", "parse_json", "plain", "typed_fields"]

_FLOATS = {"inf": inf, "-inf": -inf, "nan": nan}


def plain(value: object) -> object:
    """`value` for strict JSON: tuples as lists, infinities and NaN as {"float": "-inf"}. Floats keep every bit."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not isfinite(value):
        return {"float": "nan" if isnan(value) else ("inf" if value > 0 else "-inf")}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    return value


def parse_json(content: bytes, what: str, where: str) -> "Field":
    """The root of a JSON document in UTF-8. Raises IPU0506 for text that is no strict JSON."""
    try:
        value = json.loads(content.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as problem:
        raise error("IPU0506", f"{what} is not JSON: {problem}", where=where) from problem
    return Field(value, what, where)


class Field:
    """One value of a JSON document with the path that leads to it."""

    __slots__ = ("path", "value", "where")

    def __init__(self, value: object, path: str, where: str) -> None:
        self.value = value
        self.path = path
        self.where = where

    def wrong(self, why: str, id: str = "IPU0506") -> CompileError:
        """The error that this field deserves."""
        return error(id, f"{self.path}: {why}", where=self.where)

    def __getitem__(self, key: str) -> "Field":
        table = self._table()
        if key not in table:
            raise self.wrong(f"{key!r} is missing")
        return Field(table[key], f"{self.path}.{key}", self.where)

    def keys(self, *expected: str) -> "Field":
        """This table, which must have exactly these keys."""
        table = self._table()
        for key in expected:
            if key not in table:
                raise self.wrong(f"{key!r} is missing")
        for key in table:
            if key not in expected:
                raise self.wrong(f"unknown key {_short(key)}")
        return self

    def items(self) -> Iterator[tuple[str, "Field"]]:
        """Keys and values of a table, in the order of the text."""
        for key, value in self._table().items():
            yield key, Field(value, f"{self.path}.{_short(key)}", self.where)

    def elements(self, count: int | None = None) -> list["Field"]:
        """The elements of a list, of which there must be `count` if that is given."""
        if not isinstance(self.value, list):
            raise self.wrong(f"must be a list, not {_short(self.value)}")
        if count is not None and len(self.value) != count:
            raise self.wrong(f"must have {count} elements, not {len(self.value)}")
        return [Field(v, f"{self.path}[{i}]", self.where) for i, v in enumerate(self.value)]

    def integer(self, low: int, high: int, id: str = "IPU0506") -> int:
        """A whole number with low <= n <= high; `id` is that of the error when it lies outside."""
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self.wrong(f"must be a whole number, not {_short(self.value)}")
        if not low <= self.value <= high:
            raise self.wrong(f"{_short(self.value)} lies outside {low}..{high}", id)
        return self.value

    def boolean(self) -> bool:
        """The value, true or false."""
        if not isinstance(self.value, bool):
            raise self.wrong("neither true nor false")
        return self.value

    def integers(self, low: int, high: int, id: str = "IPU0506") -> tuple[int, ...]:
        """A list of such numbers."""
        return tuple(f.integer(low, high, id) for f in self.elements())

    def number(self) -> float:
        """A float, infinities and NaN included (see `plain`)."""
        value = _float_of(self.value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(f"must be a number, not {_short(self.value)}")
        try:
            return float(value)
        except OverflowError as problem:
            raise self.wrong("the number is too large") from problem

    def text(self) -> str:
        """A string that can be written as UTF-8."""
        if not isinstance(self.value, str) or not _is_text(self.value):
            raise self.wrong(f"must be text, not {_short(self.value)}")
        return self.value

    def _table(self) -> dict[str, object]:
        if not isinstance(self.value, dict):
            raise self.wrong(f"must be an object, not {_short(self.value)}")
        return self.value


def typed_fields(cls: type, given: Field, skip: str) -> dict[str, object]:
    """The fields of a dataclass from a JSON table, each held against its annotation; `skip` is no field.

    Lists stay lists. Raises IPU0506 for a missing, unknown or wrongly typed field.
    """
    assert is_dataclass(cls)
    hints = get_type_hints(cls)
    names = [f.name for f in fields(cls)]
    given.keys(skip, *names)
    out: dict[str, object] = {}
    for name in names:
        value = _restored(given[name].value)
        if not _fits(value, hints[name]):
            raise given[name].wrong(f"{_short(given[name].value)} is no {_spelled(hints[name])}")
        out[name] = value
    return out


def _fits(value: object, hint: Any) -> bool:
    """Whether a JSON value may stand for a type: numbers, text, None, literals, unions and (nested) tuples of them."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is tuple:
        if not isinstance(value, list):
            return False
        if len(args) == 2 and args[1] is Ellipsis:
            return all(_fits(v, args[0]) for v in value)
        return len(value) == len(args) and all(_fits(v, a) for v, a in zip(value, args, strict=True))
    if origin in (Union, types.UnionType):
        return any(_fits(value, a) for a in args)
    if origin is Literal:
        return isinstance(value, str | int) and value in args
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
    if hint is str:
        return isinstance(value, str) and _is_text(value)
    if hint is bool or hint is type(None):
        return isinstance(value, hint)
    raise TypeError(f"a program file cannot hold a parameter of type {hint}")


def _spelled(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")


def _restored(value: object) -> object:
    """The inverse of `plain`; tables that are no float are left for the caller to refuse."""
    if isinstance(value, list):
        return [_restored(v) for v in value]
    return _float_of(value)


def _float_of(value: object) -> object:
    if isinstance(value, dict) and value.keys() == {"float"} and isinstance(value["float"], str):
        return _FLOATS.get(value["float"], value)
    return value


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _short(value: object) -> str:
    text = repr(value)
    text = text.encode("ascii", "backslashreplace").decode()
    return text if len(text) <= 40 else text[:37] + "..."


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _refuse(name: str) -> object:
    raise ValueError(f"{name} is no JSON number")
