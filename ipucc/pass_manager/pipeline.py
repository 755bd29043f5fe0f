"""Pipelines as text: `clean-up,fuse,sparsify{block=16,density=0.1},repeat{n=3}(clean-up)`.

    pipeline := item ("," item)*
    item     := name [options] | "repeat" [options] "(" pipeline ")"
    options  := "{" [entry ((","|blank) entry)*] "}"
    entry    := key "=" value | key                      # the key alone means true
    value    := number | "true" | "false" | word | string | "[" [value ((","|blank) value)*] "]"

Text and objects say the same: `parse_pipeline(format_pipeline(p)) == p`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from ipucc.diagnostics import CompileError, Diagnostic, error
from ipucc.pass_manager.base import OptionValue, Pass
from ipucc.pass_manager.options import make_pass
from ipucc.pass_manager.registry import Registry, default_registry

DEFAULT_PASSES: Final = ("clean-up", "fuse", "use-zeros")
"""What a compilation runs when `--passes` is not given; precision and sparsify are inserted before the last by its
options."""

DEFAULT_PIPELINE: Final = ",".join(DEFAULT_PASSES)

MAX_NESTING: Final = 20
MAX_REPEAT: Final = 1000


@dataclass(frozen=True, slots=True)
class Repeat:
    """Runs its pipeline again until it changes nothing, at most `n` times."""

    n: int
    body: "Pipeline"


Step: TypeAlias = "Pass | Repeat"


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Passes in the order in which they run."""

    steps: tuple[Step, ...]

    def __str__(self) -> str:
        return format_pipeline(self)

    def passes(self) -> Iterator[Pass]:
        """Every pass once, in order, those in repeated parts included."""
        for step in self.steps:
            if isinstance(step, Repeat):
                yield from step.body.passes()
            else:
                yield step


def parse_pipeline(text: str, registry: Registry | None = None) -> Pipeline:
    """Reads pipeline text; a blank text is the empty pipeline.

    Raises CompileError, with a caret under the place, for malformed text (IPU0301), unknown passes
    (IPU0302) and options (IPU0303), and wrong values (IPU0304).
    """
    parser = _Parser(text, registry or default_registry())
    return parser.whole()


def format_pipeline(pipeline: Pipeline) -> str:
    """Canonical text: options that have their default value are left out."""
    return ",".join(_format_step(step) for step in pipeline.steps)


def _format_step(step: Step) -> str:
    if isinstance(step, Repeat):
        return f"repeat{{n={step.n}}}({format_pipeline(step.body)})"
    return format_step(step.name, step.changed_options())


def format_step(name: str, options: Mapping[str, OptionValue]) -> str:
    """The text of a pass with these options."""
    inside = ",".join(f"{key.replace('_', '-')}={_format_value(value)}" for key, value in options.items())
    return f"{name}{{{inside}}}" if inside else name


_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_./:-]*")
_NAME: Final = re.compile(r"[a-z][a-z0-9-]*")
_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_NUMBER: Final = re.compile(r"[+-]?(?:inf|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![A-Za-z0-9_.])")
_STRING: Final = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_RESERVED: Final = ("true", "false", "inf")


def _format_value(value: OptionValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ",".join(map(_format_value, value)) + "]"
    if isinstance(value, str):
        if _WORD.fullmatch(value) and value not in _RESERVED:
            return value
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)


class _Parser:
    def __init__(self, text: str, registry: Registry) -> None:
        self.text = text
        self.registry = registry
        self.position = 0

    def whole(self) -> Pipeline:
        self._blanks()
        if self.position == len(self.text):
            return Pipeline(())
        found = self._pipeline(0)
        if self.position < len(self.text):
            raise self._error("expected ',' or the end", self.position)
        return found

    def _pipeline(self, depth: int) -> Pipeline:
        if depth > MAX_NESTING:
            raise self._error(f"more than {MAX_NESTING} nested repeats", self.position)
        steps = [self._step(depth)]
        while self._take(","):
            steps.append(self._step(depth))
        return Pipeline(tuple(steps))

    def _step(self, depth: int) -> Step:
        self._blanks()
        start = self.position
        name = self._match(_NAME)
        if name is None:
            raise self._error("expected the name of a pass", start)
        options: dict[str, OptionValue] = {}
        places: dict[str, int] = {}
        if self._take("{"):
            options, places = self._options()
        if name == "repeat":
            return self._repeat(options, start, depth)
        try:
            cls = self.registry.get(name)
        except CompileError as failure:
            raise self._located(failure, start) from None
        for key, place in places.items():
            try:
                make_pass(cls, {key: options[key]})
            except CompileError as failure:
                raise self._located(failure, place) from None
        try:
            return make_pass(cls, options)
        except CompileError as failure:
            raise self._located(failure, start) from None

    def _repeat(self, options: Mapping[str, OptionValue], start: int, depth: int) -> Repeat:
        n = options.get("n", 2)
        if set(options) - {"n"}:
            raise self._error("repeat has one option, n", start)
        if type(n) is not int or not 1 <= n <= MAX_REPEAT:
            raise self._error(f"n must be an integer from 1 to {MAX_REPEAT}", start)
        if not self._take("("):
            raise self._error("expected '('", self.position)
        body = self._pipeline(depth + 1)
        if not self._take(")"):
            raise self._error("expected ',' or ')'", self.position)
        return Repeat(n, body)

    def _options(self) -> tuple[dict[str, OptionValue], dict[str, int]]:
        options: dict[str, OptionValue] = {}
        places: dict[str, int] = {}
        while not self._take("}"):
            if options:
                self._take(",")
                self._blanks()
            start = self.position
            key = self._match(_KEY)
            if key is None:
                raise self._error("expected an option or '}'", start)
            if key in options:
                raise self._error(f"option {key!r} given twice", start)
            places[key] = start
            options[key] = self._value(0) if self._take("=") else True
        return options, places

    def _value(self, depth: int) -> OptionValue:
        self._blanks()
        start = self.position
        if depth > MAX_NESTING:
            raise self._error(f"more than {MAX_NESTING} nested lists", start)
        if self._take("["):
            items: list[OptionValue] = []
            while not self._take("]"):
                if items:
                    self._take(",")
                items.append(self._value(depth + 1))
            return tuple(items)
        number = self._match(_NUMBER)
        if number is not None:
            return int(number) if re.fullmatch(r"[+-]?\d+", number) else float(number)
        string = _STRING.match(self.text, self.position)
        if string is not None:
            self.position = string.end()
            self._blanks()
            return re.sub(r"\\(.)", r"\1", string[1], flags=re.DOTALL)
        word = self._match(_WORD)
        if word is None:
            raise self._error("expected a value", start)
        return word == "true" if word in ("true", "false") else word

    def _blanks(self) -> None:
        while self.position < len(self.text) and self.text[self.position].isspace():
            self.position += 1

    def _match(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self.text, self.position)
        if found is None:
            return None
        self.position = found.end()
        self._blanks()
        return found[0]

    def _take(self, mark: str) -> bool:
        self._blanks()
        if self.text.startswith(mark, self.position):
            self.position += len(mark)
            self._blanks()
            return True
        return False

    def _caret(self, place: int) -> str:
        return self.text.replace("\n", " ") + "\n" + " " * place + "^"

    def _error(self, message: str, place: int) -> CompileError:
        return error("IPU0301", f"{message} in the pipeline\n{self._caret(place)}")

    def _located(self, failure: CompileError, place: int) -> CompileError:
        first = failure.diagnostics[0]
        return CompileError(
            Diagnostic(
                first.id,
                "error",
                f"{first.message}\n{self._caret(place)}",
                notes=first.notes,
                help=first.help,
            )
        )
