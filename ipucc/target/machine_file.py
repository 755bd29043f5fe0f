"""Machine files: TOML in, `Target` out, and for every figure its unit, its kind and its source.

A figure is a table `{value = 1472, unit = "tiles", kind = "vendor", source = "..."}`. In a file that builds
on another one (`base = "gc200"`) only the figures that differ are given, and a bare number is short for a
figure of kind `assumed`. A wrong file is reported whole: every bad figure in one `CompileError`.
"""

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, fields, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import get_type_hints

from ipucc.diagnostics import CompileError, Diagnostic, JsonValue
from ipucc.target.target import Amp, Range, Target

KINDS = ("measured", "vendor", "source-code", "inferred", "fitted", "assumed")
"""How a figure is known, from the surest to the least sure; `fitted` is tuned on published measurements."""

_BUILT_IN = ("gc2", "gc200", "bow", "c600")
_LINKED = re.compile(r"(\w+)x([1-9]\d{0,2})", re.ASCII)
_FIGURE_KEYS = ("value", "unit", "kind", "source")
_TEXTS = ("name", "description")
_MAX_BASES = 8
_MAX_FILE_BYTES = 1 << 20
_REGION_GRAIN = 16
"""Regions of tile memory start on the widest access, so that an address in one is aligned in the tile."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a machine file. `key` is dotted (`amp.units_f16`), `kind` is one of `KINDS`."""

    key: str
    value: int | float
    unit: str
    kind: str
    source: str


@dataclass(frozen=True, slots=True)
class _Slot:
    """What a machine file may say under one key."""

    range: Range
    integer: bool


def _slots(cls: type[Target] | type[Amp], prefix: str = "") -> dict[str, _Slot]:
    hints = get_type_hints(cls)
    slots: dict[str, _Slot] = {}
    found: tuple[Field[object], ...] = fields(cls)
    for item in found:
        if "range" in item.metadata:
            slots[prefix + item.name] = _Slot(item.metadata["range"], hints[item.name] is int)
    return slots


_SLOTS: dict[str, _Slot] = _slots(Target) | _slots(Amp, "amp.")


def list_targets() -> list[str]:
    """Names of the machines that come with ipucc, oldest first."""
    return list(_BUILT_IN)


def load_target(name_or_path: str | Path) -> Target:
    """The machine of a built-in name, or of a machine file (a path with a folder or the suffix .toml).

    `gc200x2` stands for two linked chips of `gc200`, and so for every built-in name.

    Raises `CompileError` with IPU0701 (unknown name), IPU0702 (unreadable file), IPU0703 (missing figure),
    IPU0704 (figure of the wrong type, unit or size) and IPU0705 (unknown field), all problems of a file at
    once.
    """
    chip, count = _chips(name_or_path)
    return _build(_read(chip)).linked(count)


def _chips(name_or_path: str | Path) -> tuple[str | Path, int]:
    """The name of one chip, and how many of it a name stands for."""
    match = _LINKED.fullmatch(name_or_path) if isinstance(name_or_path, str) else None
    return (match[1], int(match[2])) if match and match[1] in _BUILT_IN else (name_or_path, 1)


def target_figures(name_or_path: str | Path) -> list[Figure]:
    """Every figure of a machine in the order of `Target`, for printing. Raises like `load_target`."""
    chip, count = _chips(name_or_path)
    machine = _read(chip)
    whole = _build(machine).linked(count)
    figures = dict(machine.figures)
    if count > 1:
        sources = {"ipus": f"{count} chips, by name", "tiles": f"of {count} chips; of one: {figures['tiles'].source}"}
        for key, source in sources.items():
            figures[key] = replace(figures[key], value=getattr(whole, key), source=source)
    return [figures[key] for key in _SLOTS]


def dump_target(target: Target) -> dict[str, JsonValue]:
    """The figures of a machine as plain JSON values, without their sources: what a program file keeps."""
    return asdict(target)


def parse_target(document: Mapping[str, object], where: str) -> Target:
    """The machine that `dump_target` wrote, checked as strictly as a machine file; `where` names the file.

    Raises `CompileError` with IPU0703, IPU0704 or IPU0705.
    """
    bare = _Machine(where, "", "", {})
    return _build(_merge(document, "", where, bare))


@dataclass(frozen=True, slots=True)
class _Machine:
    """A machine file with its bases merged in; figures in any order, each valid by itself."""

    where: str
    name: str
    description: str
    figures: dict[str, Figure]


def _error(id: str, where: str, message: str, *help: str) -> Diagnostic:
    return Diagnostic(id=id, severity="error", message=message, where=where, help=help)


@lru_cache(maxsize=16)
def _parsed(content: bytes) -> Mapping[str, object]:
    """A machine file's text, which is read by every compilation and seldom changes."""
    return tomllib.loads(content.decode())


def _closest(word: str, known: list[str], what: str) -> tuple[str, ...]:
    near = difflib.get_close_matches(word, known, n=1)
    return (f"did you mean {near[0]!r}?",) if near else (f"{what}: {', '.join(known)}",)


def _read(name_or_path: str | Path, folder: Path | None = None, depth: int = 0) -> _Machine:
    where = str(name_or_path)
    path = Path(name_or_path)
    is_path = isinstance(name_or_path, Path) or path.suffix == ".toml" or len(path.parts) > 1
    if not is_path and where not in _BUILT_IN:
        suggestion = _closest(where, list_targets(), "known targets")
        raise CompileError(
            _error("IPU0701", where, f"unknown target {where!r}", *suggestion, "a machine file ends in .toml")
        )
    try:
        if is_path:
            located = path if folder is None else folder / path
            if located.exists() and not located.is_file():
                raise CompileError(_error("IPU0702", where, "a machine file must be a plain file"))
            if located.stat().st_size > _MAX_FILE_BYTES:
                raise CompileError(_error("IPU0702", where, "a machine file is smaller than 1 MiB"))
            content, here = located.read_bytes(), located.parent
        else:
            content, here = resources.files("ipucc.target").joinpath(f"{where}.toml").read_bytes(), None
        document = dict(_parsed(content))
    except OSError as error:
        reason = error.strerror or str(error)
        raise CompileError(_error("IPU0702", where, f"the machine file cannot be read: {reason}")) from error
    except (ValueError, RecursionError) as error:  # text, TOML, a number of too many digits
        raise CompileError(_error("IPU0702", where, f"the machine file is not TOML: {error}")) from error

    base_name = document.pop("base", None)
    if base_name is None:
        return _merge(document, path.stem, where, None)
    if not isinstance(base_name, str) or not base_name:
        raise CompileError(_error("IPU0704", where, "'base' must be the name of a target or a machine file"))
    if depth == _MAX_BASES:
        raise CompileError(_error("IPU0702", where, f"more than {_MAX_BASES} machine files build on each other"))
    return _merge(document, path.stem, where, _read(base_name, here, depth + 1))


def _merge(document: Mapping[str, object], name: str, where: str, base: _Machine | None) -> _Machine:
    """The machine that a document describes; without a base every figure must be a table."""
    problems: list[Diagnostic] = []
    name = _text(document, "name", name, where, problems)
    description = _text(document, "description", base.description if base else "", where, problems)
    figures = dict(base.figures) if base else {}
    for key, given in _flatten(document, where, problems).items():
        if key not in _SLOTS:
            message = f"unknown field {key!r}"
            problems.append(_error("IPU0705", where, message, *_closest(key, list(_SLOTS), "known fields")))
            continue
        figure = _figure(key, given, where, may_be_bare=base is not None)
        if isinstance(figure, Figure):
            figures[key] = figure
        else:
            problems.append(figure)
    if problems:
        raise CompileError(problems)
    return _Machine(where, name, description, figures)


def _text(document: Mapping[str, object], key: str, default: str, where: str, problems: list[Diagnostic]) -> str:
    value = document.get(key, default)
    if not isinstance(value, str) or not value.isprintable() or (key in document and not value):
        problems.append(_error("IPU0704", where, f"{key!r} must be one line of text"))
        return default
    return value


def _flatten(document: Mapping[str, object], where: str, problems: list[Diagnostic]) -> dict[str, object]:
    """Dotted keys of all figures: those at the top and those of the table `amp`."""
    found = {key: value for key, value in document.items() if key not in _TEXTS and key != "amp"}
    amp = document.get("amp", {})
    if isinstance(amp, Mapping):
        found |= {f"amp.{key}": value for key, value in amp.items()}
    else:
        problems.append(_error("IPU0704", where, "'amp' must be a table of figures"))
    return found


def _figure(key: str, given: object, where: str, may_be_bare: bool) -> Figure | Diagnostic:
    """The figure under `key`, or what is wrong with it. A bare number is an assumed figure, if allowed."""
    slot = _SLOTS[key]

    def refuse(message: str, *help: str) -> Diagnostic:
        return _error("IPU0704", where, f"{key!r}: {message}", *help)

    if isinstance(given, Mapping):
        table: Mapping[str, object] = given
        if unknown := [name for name in table if name not in _FIGURE_KEYS]:
            suggestion = _closest(unknown[0], list(_FIGURE_KEYS), "known fields")
            return _error("IPU0705", where, f"{key!r}: unknown field {unknown[0]!r}", *suggestion)
    elif may_be_bare:
        table = {"value": given}
    else:
        return refuse("a figure is a table", f'{key} = {{value = ..., unit = "{slot.range.unit}", ...}}')

    value, unit = table.get("value"), table.get("unit", slot.range.unit)
    kind, source = table.get("kind", "assumed"), table.get("source", where)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return refuse(f"the value must be a number, not {value!r}" if "value" in table else "it has no value")
    if slot.integer and not isinstance(value, int):
        return refuse(f"the value must be a whole number, not {value}")
    if unit != slot.range.unit:
        return refuse(f"the unit must be {slot.range.unit!r}, not {unit!r}")
    if not slot.range.low <= value <= slot.range.high:
        return refuse(f"{value} lies outside {slot.range.low:.10g} .. {slot.range.high:.10g} {slot.range.unit}")
    if not isinstance(kind, str) or kind not in KINDS:
        return refuse(f"the kind must be one of {', '.join(KINDS)}, not {kind!r}")
    if not isinstance(source, str) or not source:
        return refuse("the source must be text")
    return Figure(key, value if slot.integer else float(value), slot.range.unit, kind, source)


def _build(machine: _Machine) -> Target:
    where, figures = machine.where, machine.figures
    if missing := [key for key in _SLOTS if key not in figures]:
        help = "build on a known machine: base = 'gc200'"
        raise CompileError([_error("IPU0703", where, f"{key!r} is missing", help) for key in missing])
    values = {key: figure.value for key, figure in figures.items()}
    amp = {key.removeprefix("amp."): value for key, value in values.items() if key.startswith("amp.")}
    top = {key: value for key, value in values.items() if not key.startswith("amp.")}
    # The type of every value was held against the fields' own types when it was read.
    target = Target(
        name=machine.name,
        description=machine.description,
        amp=Amp(**amp),  # type: ignore[arg-type]
        **top,  # type: ignore[arg-type]
    )
    if problems := [_error("IPU0704", where, message) for message in _contradictions(target)]:
        raise CompileError(problems)
    return target


def _contradictions(target: Target) -> list[str]:
    """What is wrong between figures that are each fine by themselves."""
    found: list[str] = []
    if target.executable_bytes + target.interleaved_bytes > target.tile_bytes:
        found.append(
            f"executable_bytes {target.executable_bytes} and interleaved_bytes {target.interleaved_bytes} "
            f"together exceed tile_bytes {target.tile_bytes}"
        )
    if target.reserved_bytes >= target.executable_bytes:
        found.append(f"reserved_bytes {target.reserved_bytes} use up executable_bytes {target.executable_bytes}")
    for key in ("tile_bytes", "executable_bytes", "interleaved_bytes", "reserved_bytes"):
        if getattr(target, key) % _REGION_GRAIN:
            found.append(f"{key} must be a multiple of {_REGION_GRAIN}")
    if target.tiles % target.ipus:
        found.append(f"tiles {target.tiles} are not shared out evenly to ipus {target.ipus}")
    if target.vector_bytes & (target.vector_bytes - 1):
        found.append("vector_bytes must be a power of two")
    if target.pair_bytes_per_cycle < target.exchange_bytes_per_cycle:
        found.append("pair_bytes_per_cycle must not be below exchange_bytes_per_cycle")
    return found
