"""Options of passes: reading them off the dataclass, and checking values given as text or from Python."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass

from ipucc.diagnostics import error
from ipucc.pass_manager.base import OptionValue, Pass


@dataclass(frozen=True, slots=True)
class OptionInfo:
    """One option of a pass, for help texts and JSON."""

    name: str
    type: str
    default: OptionValue
    help: str
    choices: tuple[OptionValue, ...]


def describe_options(cls: type[Pass]) -> tuple[OptionInfo, ...]:
    """The options of a pass in the order of its fields. Raises CompileError for a field without a default."""
    hints = typing.get_type_hints(cls)
    found = []
    for item in dataclasses.fields(cls):
        if item.default is dataclasses.MISSING:
            raise error("IPU0306", f"option {item.name!r} of pass {cls.name!r} has no default")
        help_text, choices = item.metadata.get("help", ""), item.metadata.get("choices", ())
        found.append(OptionInfo(item.name, _spell(hints[item.name]), item.default, help_text, choices))
    return tuple(found)


def make_pass(cls: type[Pass], options: Mapping[str, OptionValue]) -> Pass:
    """An instance with the given options; names may be written with dashes.

    Raises CompileError (IPU0303, IPU0304) for an unknown option and for a value of the wrong type or not
    among the choices.
    """
    known = {info.name: info for info in describe_options(cls)}
    hints = typing.get_type_hints(cls)
    values: dict[str, OptionValue] = {}
    for given, value in options.items():
        name = given.replace("-", "_")
        if name not in known:
            raise error(
                "IPU0303",
                f"unknown option {given!r} of pass {cls.name!r}",
                help=suggest(name, known) or [f"{cls.name} has the options {', '.join(known) or 'none'}"],
            )
        if name in values:
            raise error("IPU0304", f"option {given!r} of pass {cls.name!r} given twice")
        accepted, converted = _convert(value, hints[name])
        if not accepted:
            raise error("IPU0304", f"option {name!r} of pass {cls.name!r} takes {known[name].type}, not {value!r}")
        choices = known[name].choices
        if choices and converted not in choices:
            allowed = ", ".join(map(str, choices))
            raise error("IPU0304", f"option {name!r} of pass {cls.name!r} is one of {allowed}, not {value!r}")
        values[name] = converted
    return cls(**values)


def suggest(name: str, known: typing.Iterable[str]) -> list[str]:
    """`did you mean` help for a misspelt name, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return [f"did you mean {close[0]!r}?"] if close else []


def _convert(value: OptionValue, hint: object) -> tuple[bool, OptionValue]:
    """Whether the value has the type of the hint, and the value in that type (an int may stand for a
    float)."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        for one in args:
            accepted, converted = _convert(value, one)
            if accepted:
                return True, converted
        return False, value
    if origin is typing.Literal:
        return value in args, value
    if origin is tuple:
        if not isinstance(value, tuple):
            return False, value
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(inner) != len(value):
            return False, value
        pairs = [_convert(v, h) for v, h in zip(value, inner, strict=True)]
        return all(ok for ok, _ in pairs), tuple(v for _, v in pairs)
    if hint is float and type(value) is int:
        return True, float(value)
    return type(value) is hint, value


def _spell(hint: object) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_spell(a) for a in args)
    if origin is typing.Literal:
        return " or ".join(str(a) for a in args)
    if origin is tuple:
        return "a list of " + _spell(args[0]) if args[-1] is Ellipsis else f"[{', '.join(map(_spell, args))}]"
    return hint.__name__ if isinstance(hint, type) else str(hint)
