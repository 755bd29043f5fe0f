"""Pipelines as text: grammar, round trip, errors that mark their place."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipucc.diagnostics import CompileError
from ipucc.pass_manager import (
    DEFAULT_PIPELINE,
    Pass,
    Pipeline,
    Registry,
    Repeat,
    describe_options,
    format_pipeline,
    option,
    parse_pipeline,
)


@dataclass(frozen=True)
class Everything(Pass):
    """Has an option of every kind."""

    name: ClassVar[str] = "everything"

    flag: bool = option(False, "a flag")
    count: int = option(3, "a number")
    share: float = option(0.5, "a share")
    text: str = option("plain", "a text")
    mode: Literal["a", "b"] = option("a", "a choice")
    sizes: tuple[int, ...] = option((), "numbers")
    names: tuple[str, ...] = option(("x",), "names")
    block: int | tuple[int, int] = option(16, "one number or two")
    level: int = option(1, "a level", choices=(1, 2, 4))


@dataclass(frozen=True)
class Plain(Pass):
    """Has none."""

    name: ClassVar[str] = "plain-pass"


REGISTRY = Registry()
REGISTRY.add("everything", "the tests", lambda: Everything)
REGISTRY.add("plain-pass", "the tests", lambda: Plain)

numbers = st.floats(allow_nan=False)
everything = st.builds(
    Everything,
    flag=st.booleans(),
    count=st.integers(),
    share=numbers,
    text=st.text(),
    mode=st.sampled_from(["a", "b"]),
    sizes=st.lists(st.integers(), max_size=3).map(tuple),
    names=st.lists(st.text(), max_size=3).map(tuple),
    block=st.one_of(st.integers(), st.tuples(st.integers(), st.integers())),
    level=st.sampled_from([1, 2, 4]),
)
pipelines = st.recursive(
    st.lists(st.one_of(everything, st.just(Plain())), max_size=3).map(lambda s: Pipeline(tuple(s))),
    lambda inner: st.builds(
        lambda n, body, rest: Pipeline((*body.steps, Repeat(n, body), *rest.steps) if body.steps else rest.steps),
        st.integers(1, 1000),
        inner,
        inner,
    ),
    max_leaves=4,
)


@settings(max_examples=50, deadline=None)
@given(pipelines)
def test_round_trip(pipeline: Pipeline) -> None:
    text = format_pipeline(pipeline)
    assert parse_pipeline(text, REGISTRY) == pipeline
    assert str(pipeline) == text


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", ""),
        ("  plain-pass  ", "plain-pass"),
        ("plain-pass , plain-pass", "plain-pass,plain-pass"),
        ("everything{}", "everything"),
        ("everything{count=3}", "everything"),
        ("everything{flag}", "everything{flag=true}"),
        ("everything{flag count=4, share=1}", "everything{flag=true,count=4,share=1.0}"),
        ("everything{ sizes=[1 2,3], names=[] }", "everything{sizes=[1,2,3],names=[]}"),
        ('everything{text="a b\\"c", block=[4,8]}', 'everything{text="a b\\"c",block=[4,8]}'),
        ('everything{text="true"}', 'everything{text="true"}'),
        ("everything{names=[layer1/conv, m.fc]}", "everything{names=[layer1/conv,m.fc]}"),
        ("everything{share=-inf}", "everything{share=-inf}"),
        ("repeat{n=3}(plain-pass,everything)", "repeat{n=3}(plain-pass,everything)"),
        ("repeat(repeat{n=5}(plain-pass))", "repeat{n=2}(repeat{n=5}(plain-pass))"),
    ],
)
def test_spellings(text: str, canonical: str) -> None:
    assert format_pipeline(parse_pipeline(text, REGISTRY)) == canonical


@pytest.mark.parametrize(
    ("text", "id", "message", "column", "help"),
    [
        ("plain-pas", "IPU0302", "unknown pass 'plain-pas'", 0, "did you mean 'plain-pass'?"),
        ("plain-pass,,", "IPU0301", "expected the name of a pass", 11, None),
        ("plain-pass everything", "IPU0301", "expected ',' or the end", 11, None),
        ("everything{cuont=4}", "IPU0303", "unknown option 'cuont'", 11, "did you mean 'count'?"),
        ("plain-pass{a=1}", "IPU0303", "unknown option 'a'", 11, "plain-pass has the options none"),
        ("everything{flag=true count=x}", "IPU0304", "takes int, not 'x'", 21, None),
        ("everything{count=1.5}", "IPU0304", "takes int, not 1.5", 11, None),
        ("everything{count=true}", "IPU0304", "takes int, not True", 11, None),
        ("everything{level=3}", "IPU0304", "is one of 1, 2, 4", 11, None),
        ("everything{mode=c}", "IPU0304", "takes a or b", 11, None),
        ("everything{sizes=[1,a]}", "IPU0304", "takes a list of int", 11, None),
        ("everything{block=[1,2,3]}", "IPU0304", "takes int or [int, int]", 11, None),
        ("everything{count=1,count=2}", "IPU0301", "option 'count' given twice", 19, None),
        ("everything{count=", "IPU0301", "expected a value", 17, None),
        ('everything{text="a}', "IPU0301", "expected a value", 16, None),
        ("everything{count=1", "IPU0301", "expected an option or '}'", 18, None),
        ("repeat{n=0}(plain-pass)", "IPU0301", "n must be an integer", 0, None),
        ("repeat{n=2}", "IPU0301", "expected '('", 11, None),
        ("repeat(plain-pass", "IPU0301", "expected ',' or ')'", 17, None),
        ("repeat(" * 30 + "plain-pass" + ")" * 30, "IPU0301", "nested repeats", 147, None),
    ],
)
def test_errors(text: str, id: str, message: str, column: int, help: str | None) -> None:
    with pytest.raises(CompileError) as caught:
        parse_pipeline(text, REGISTRY)
    (found,) = caught.value.diagnostics
    assert found.id == id
    first, *_, marker = found.message.splitlines()
    assert message in first
    assert marker == " " * column + "^"
    assert help is None or found.help[0] == help


def test_options_are_described() -> None:
    infos = {info.name: info for info in describe_options(Everything)}
    assert list(infos) == ["flag", "count", "share", "text", "mode", "sizes", "names", "block", "level"]
    assert infos["block"].type == "int or [int, int]"
    assert infos["level"].choices == (1, 2, 4)
    assert infos["flag"].help == "a flag"


def test_the_default_pipeline_parses() -> None:
    assert format_pipeline(parse_pipeline(DEFAULT_PIPELINE)) == DEFAULT_PIPELINE


@pytest.mark.parametrize(
    "text",
    [
        "clean-up,fuse,sparsify{block=8,density=0.25,when=pays,exclude=[a,b]},precision",
        "fuse{guards=assume,epilogue=false},fuse-epilogue{max-operands=4},clean-up{cse=false}",
    ],
)
def test_the_options_of_the_built_in_passes(text: str) -> None:
    assert format_pipeline(parse_pipeline(text)) == text
