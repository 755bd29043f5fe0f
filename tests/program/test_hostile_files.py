"""Files that are damaged or made to harm: each ends in a diagnostic, none in a traceback or a hang."""

import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipucc.api import Executable
from ipucc.comparison import diff
from ipucc.diagnostics import CompileError
from ipucc.program.container import write_archive
from ipucc.program.file import load_program, save_program
from ipucc.program.model import Program
from ipucc.program.printing import print_program
from ipucc.program.tensors import pack_tensors
from ipucc.program.timing import program_times

Programs = Callable[[str], Program]
Entries = dict[str, bytes]


@pytest.fixture(scope="module")
def good(compiled: Programs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program with a loop and without weights, so that every byte of the file means something."""
    path = tmp_path_factory.mktemp("good") / "p.ipux"
    save_program(compiled("layers"), path)
    return path


def entries_of(path: Path) -> Entries:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, entries: Entries) -> Path:
    write_archive(path, [(name, len(data), lambda f, data=data: f.write(data)) for name, data in entries.items()])
    return path


def ids_of(path: Path) -> set[str]:
    with pytest.raises(CompileError) as raised:
        load_program(path)
    assert len(str(raised.value).splitlines()) < 60
    return {d.id for d in raised.value.diagnostics}


def changed(path: Path, to: Path, entry: str, change: Callable[[Any], None]) -> Path:
    """The file with a JSON entry changed and all checksums right."""
    entries = entries_of(path)
    document = json.loads(entries[entry])
    change(document)
    entries[entry] = json.dumps(document).encode()
    return write(to, entries)


def put(*path: str | int, value: object) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


# The container


def test_what_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "onnx").write_bytes(b"\x08\x0a\x12\x04torch")
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with zipfile.ZipFile(tmp_path / "other", "w") as archive:
        archive.writestr("manifest.json", '{"format": "something else", "version": 1}')
    for name in ("text", "empty", "onnx", "zip", "other"):
        assert ids_of(tmp_path / name) == {"IPU0502"}, name
    assert ids_of(tmp_path / "absent") == {"IPU0501"}
    assert ids_of(tmp_path) == {"IPU0501"}


def test_every_truncation_is_noticed(good: Path, tmp_path: Path) -> None:
    data = good.read_bytes()
    for keep in (4, 30, 100, len(data) // 2, len(data) - 22, len(data) - 1):
        (tmp_path / "p").write_bytes(data[:keep])
        assert ids_of(tmp_path / "p") == {"IPU0503"}, keep
    (tmp_path / "p").write_bytes(data + b"\0")
    assert ids_of(tmp_path / "p") == {"IPU0503"}


def test_a_zip_bomb_is_refused_before_anything_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", b" " * (1 << 24))
    assert ids_of(tmp_path / "p") == {"IPU0505"}


def test_sizes_beyond_the_limits_are_refused(good: Path, tmp_path: Path) -> None:
    entries = entries_of(good)
    assert ids_of(write(tmp_path / "a", entries | {"manifest.json": b" " * ((1 << 24) + 1)})) == {"IPU0505"}
    many = {f"{i}": b"" for i in range(100)}
    assert ids_of(write(tmp_path / "b", entries | many)) == {"IPU0505"}
    assert ids_of(write(tmp_path / "c", entries | {"../evil": b"x"})) == {"IPU0505"}
    for name in ("placement.json", "program.json", "tables.safetensors", "weights.safetensors"):
        assert ids_of(write(tmp_path / "d", {k: v for k, v in entries.items() if k != name})) == {"IPU0503"}


def test_encrypted_linked_and_doubled_entries(good: Path, tmp_path: Path) -> None:
    data = bytearray(good.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    encrypted = bytearray(data)
    encrypted[at + 8] |= 1
    (tmp_path / "a").write_bytes(encrypted)
    assert ids_of(tmp_path / "a") == {"IPU0505"}
    with zipfile.ZipFile(tmp_path / "b", "w") as archive:
        archive.writestr("manifest.json", "{}")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("manifest.json", "{}")
    assert ids_of(tmp_path / "b") == {"IPU0503"}


def test_entries_that_share_bytes(tmp_path: Path) -> None:
    """Two names for one entry: the classical way to make much out of little."""
    body = b"{}"
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 33, zlib.crc32(body), 2, 2, 13, 0)
    data = local + b"manifest.json" + body
    entry = struct.pack(
        "<4s4B4H3L5H2L", b"PK\x01\x02", 20, 3, 20, 0, 0, 0, 0, 33, zlib.crc32(body), 2, 2, 13, 0, 0, 0, 0, 0, 0
    )
    first = entry + b"manifest.json"
    size = 2 * len(first)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2, 2, size, len(data), 0)
    (tmp_path / "p").write_bytes(data + first + first + end)
    assert ids_of(tmp_path / "p") == {"IPU0503"}


def test_a_directory_that_counts_to_millions(good: Path, tmp_path: Path) -> None:
    data = bytearray(good.read_bytes())
    data[-14:-10] = struct.pack("<2H", 60000, 60000)
    (tmp_path / "p").write_bytes(data)
    assert ids_of(tmp_path / "p") == {"IPU0505"}


# JSON


def test_json_that_is_none(good: Path, tmp_path: Path) -> None:
    entries = entries_of(good)
    for text in (
        b"",
        b"{",
        b"[" * 100_000,
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b"\xff\xfe",
        b"1" * 10_000,
        b"[]",
        b"7",
    ):
        assert ids_of(write(tmp_path / "p", entries | {"program.json": text})) == {"IPU0506"}, text[:20]


PATTERN: dict[str, object] = {
    "values": "x", "places": "p", "shape": [8, 8], "block": [4, 4], "cell": [1, 1], "capacity": 1, "reach": 1,
}  # fmt: skip
MANIFEST: list[tuple[tuple[str | int, ...], object, str]] = [
    (("version",), 5, "IPU0504"),
    (("version",), "1", "IPU0506"),
    (("extra",), 1, "IPU0506"),
    (("inputs",), {"x": 1}, "IPU0506"),
    (("inputs", 0, 1), "complex64", "IPU0506"),
    (("inputs", 0, 2), [1 << 30, 1 << 30], "IPU0506"),
    (("inputs", 0, 2), [-1, 2], "IPU0506"),
    (("inputs", 0, 0), "\ud800", "IPU0506"),
    (("outputs", 0, 0), "other", "IPU0509"),
    (("missing_weights",), ["w1"], "IPU0506"),
    (("target", "tiles"), 0, "IPU0506"),
    (("target", "tiles"), 8, "IPU0506"),
    (("target", "clock_hz"), "fast", "IPU0506"),
    (("target_digest",), "0" * 64, "IPU0506"),
    (("info",), [], "IPU0506"),
    (("patterns",), {}, "IPU0506"),
    (("patterns",), [PATTERN], "IPU0506"),  # its inputs have other shapes
    (("patterns",), [PATTERN | {"more": 1}], "IPU0506"),
    (("patterns",), [PATTERN | {"cell": [0, 1]}], "IPU0506"),
    (("patterns",), [PATTERN | {"block": [4]}], "IPU0506"),
    (("patterns",), [PATTERN | {"reach": 3}], "IPU0506"),
    (("patterns",), [PATTERN | {"shape": [1 << 30, 8]}], "IPU0506"),
    (("extents",), [], "IPU0506"),
    (("extents",), {"y": [[0]]}, "IPU0506"),
    (("extents",), {"y": [[-1, "y"]]}, "IPU0506"),
    (("extents",), {"y": [[0, "y"]]}, "IPU0509"),  # which is no number
    (("extents",), {"y": [[9, "y"]]}, "IPU0509"),
    (("extents",), {"other": [[0, "y"]]}, "IPU0509"),
]


@pytest.mark.parametrize(("path", "value", "id"), MANIFEST)
def test_wrong_fields_of_the_manifest(
    path: tuple[str | int, ...], value: object, id: str, good: Path, tmp_path: Path
) -> None:
    assert ids_of(changed(good, tmp_path / "p", "manifest.json", put(*path, value=value))) == {id}


PLACEMENT: list[tuple[tuple[str | int, ...], object]] = [
    (("ops",), None),
    (("ops",), [7]),
    (("ops", 0, "plan"), None),
    (("ops", 0, "cycles"), "many"),
    (("ops", 0, "cycles"), -1),
    (("ops", 0, "result_bytes"), 1 << 63),
    (("ops", 0, "nodes"), "conv"),
    (("ops", 0, "nodes"), ["\ud800"]),
    (("ops", 0, "more"), 1),
]


@pytest.mark.parametrize(("path", "value"), PLACEMENT)
def test_wrong_fields_of_the_placement(path: tuple[str | int, ...], value: object, good: Path, tmp_path: Path) -> None:
    assert ids_of(changed(good, tmp_path / "p", "placement.json", put(*path, value=value))) == {"IPU0506"}


def first_step(kind: str) -> Callable[[Any], Any]:
    def find(steps: Any) -> Any:
        for step in steps:
            if step["do"] == kind:
                return step
            if step["do"] == "repeat" and (inner := find(step["body"])):
                return inner
        return None

    return lambda document: find(document["steps"])


PROGRAM: list[tuple[str, tuple[str | int, ...], object, str]] = [
    ("", ("code_bytes",), 1 << 40, "IPU0507"),
    ("", ("steps",), None, "IPU0506"),
    ("", ("buffers", 2, "offset"), 1 << 50, "IPU0507"),
    ("", ("buffers", 2, "offset"), 624 * 1024 - 16, "IPU0507"),
    ("", ("buffers", 2, "offset"), 16, "IPU0507"),
    ("", ("buffers", 2, "offset"), True, "IPU0506"),
    ("", ("buffers", 2, "dtype"), "float16", "IPU0506"),
    ("", ("buffers", 2, "layout"), 10_000, "IPU0506"),
    ("", ("buffers", 2, "alias"), 9_999, "IPU0507"),
    ("", ("layouts", 0, "shape"), [1 << 31] * 40, "IPU0506"),
    ("", ("layouts", 0, "tiles"), -1, "IPU0506"),
    ("", ("layouts", 0, "itemsize"), 0, "IPU0506"),
    ("", ("layouts", 0, "cuts"), [], "IPU0506"),
    ("", ("layouts", 0, "core"), [], "IPU0506"),
    ("", ("layouts", 0, "core"), 1, "IPU0506"),
    ("", ("views", 0, "groups"), [], "IPU0506"),
    ("", ("views", 0, "groups", 0, 3), 1 << 31, "IPU0506"),
    ("", ("views", 0, "groups", 0, 0), [50], "IPU0506"),
    ("", ("tracks", 0), [[0, 0, 0]], "IPU0506"),
    ("", ("tracks", 0), [], "IPU0509"),
    ("", ("codelets", 0, "name"), "os.system", "IPU0511"),
    ("", ("codelets", 0, "dtype"), 7, "IPU0506"),
    ("", ("codelets", 0, "more"), 7, "IPU0506"),
    ("", ("codelets", 0, "batch"), ["no such axis"], "IPU0509"),
    ("", ("codelets", 1, "expr"), "Relu(" * 200, "IPU0509"),
    ("compute", ("do",), "jump", "IPU0506"),
    ("compute", ("codelet",), 1 << 70, "IPU0506"),
    ("compute", ("results",), [], "IPU0509"),
    ("compute", ("operands", 0, 0), 500, "IPU0507"),
    ("compute", ("operands", 0, 2), {"float": "big"}, "IPU0506"),
    ("compute", ("workers",), 1 << 70, "IPU0506"),
    ("compute", ("beside",), 7, "IPU0506"),
    ("compute", ("beside",), [{"do": "jump"}], "IPU0506"),
    ("exchange", ("moves", 0, 4), "yes", "IPU0506"),
    ("exchange", ("order",), "random", "IPU0506"),
    ("exchange", ("moves", 0, 0), -1, "IPU0507"),
    ("exchange", ("fills",), [[0, "x"]], "IPU0506"),
    ("repeat", ("count",), 1 << 60, "IPU0505"),
    ("repeat", ("count",), 1 << 16, "IPU0507"),
    ("repeat", ("count",), 0, "IPU0509"),
    ("repeat", ("strides",), [[0, 1 << 40]], "IPU0507"),
    ("repeat", ("names",), None, "IPU0506"),
    ("repeat", ("names",), [["a"]], "IPU0509"),
    ("repeat", ("names", 0, 0), 7, "IPU0506"),
    ("host_write", ("tensor",), "nobody", "IPU0509"),
]


@pytest.mark.parametrize(("step", "path", "value", "id"), PROGRAM)
def test_wrong_fields_of_the_program(
    step: str, path: tuple[str | int, ...], value: object, id: str, good: Path, tmp_path: Path
) -> None:
    def change(document: Any) -> None:
        put(*path, value=value)(first_step(step)(document) if step else document)

    assert id in ids_of(changed(good, tmp_path / "p", "program.json", change))


def test_functions_without_end(good: Path, tmp_path: Path) -> None:
    def recursive(document: Any) -> None:
        call = {"do": "call", "function": "f", "inputs": [], "outputs": []}
        document["functions"] = {"f": [call]}
        document["steps"].insert(0, call)

    assert ids_of(changed(good, tmp_path / "a", "program.json", recursive)) == {"IPU0509"}

    def exponential(document: Any) -> None:
        document["functions"] = {
            f"f{i}": [{"do": "call", "function": f"f{i + 1}", "inputs": [], "outputs": []}] * 2 for i in range(50)
        } | {"f50": []}
        document["steps"].insert(0, {"do": "call", "function": "f0", "inputs": [], "outputs": []})

    assert ids_of(changed(good, tmp_path / "b", "program.json", exponential)) == {"IPU0505"}

    def nested(document: Any) -> None:
        body: Any = []
        for _ in range(40):
            body = [{"do": "repeat", "count": 1, "body": body, "strides": [], "names": []}]
        document["steps"] += body

    assert ids_of(changed(good, tmp_path / "c", "program.json", nested)) == {"IPU0505"}


def test_more_buffers_and_iterations_than_can_be_followed(good: Path, tmp_path: Path) -> None:
    def many(document: Any) -> None:
        document["buffers"] += [document["buffers"][0] | {"alias": -1, "alias_offset": 0}] * 40_000
        moves = [[2, b, None, None] for b in range(len(document["buffers"]) - 40_000, len(document["buffers"]))]
        step = first_step("exchange")(document)
        step["fills"] = [[b, 0.0] for _, b, _, _ in moves]

    assert ids_of(changed(good, tmp_path / "a", "program.json", many)) == {"IPU0505"}

    def long(document: Any) -> None:
        body: Any = [step for step in document["steps"] if step["do"] == "exchange"]
        for _ in range(12):
            body = [{"do": "repeat", "count": 3, "body": body, "strides": [], "names": []}] * 1
        document["steps"][-1:-1] = body * 200

    assert ids_of(changed(good, tmp_path / "b", "program.json", long)) == {"IPU0505"}


# Tables


def with_tables(good: Path, to: Path, arrays: dict[str, np.ndarray]) -> Path:
    entries = entries_of(good)
    size = int.from_bytes(entries["tables.safetensors"][:8], "little")
    header = json.loads(entries["tables.safetensors"][8 : 8 + size])
    data = entries["tables.safetensors"][8 + size :]
    kinds = {"I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
    tables = {
        k: np.frombuffer(data[slice(*v["data_offsets"])], kinds[v["dtype"]]).reshape(v["shape"])
        for k, v in header.items()
    }
    packed = bytearray()
    total, writer = pack_tensors(tables | arrays)

    class Sink:
        def write(self, part: Any) -> None:
            packed.extend(part)

    writer(Sink())  # type: ignore[arg-type]
    assert len(packed) == total
    return write(to, entries | {"tables.safetensors": bytes(packed)})


def table_shape(good: Path, name: str) -> tuple[int, ...]:
    tables = entries_of(good)["tables.safetensors"]
    size = int.from_bytes(tables[:8], "little")
    return tuple(json.loads(tables[8 : 8 + size])[name]["shape"])


def test_tables_of_wrong_type_shape_or_content(good: Path, tmp_path: Path) -> None:
    entries = entries_of(good)
    program = json.loads(entries["program.json"])
    tiles = str(program["layouts"][0]["tiles"])
    shape = table_shape(good, tiles)
    assert ids_of(with_tables(good, tmp_path / "a", {tiles: np.zeros(shape)})) == {"IPU0506"}
    assert ids_of(with_tables(good, tmp_path / "b", {tiles: np.zeros((2, 2), np.int32)})) == {"IPU0506"}
    assert ids_of(with_tables(good, tmp_path / "c", {tiles: np.full(shape, 16)})) <= {"IPU0506", "IPU0507"}
    assert ids_of(with_tables(good, tmp_path / "d", {tiles: np.zeros(shape, np.int8)})) <= {"IPU0507", "IPU0509"}
    cells = str(first_step("compute")(program)["operands"][0][1])
    assert ids_of(with_tables(good, tmp_path / "e", {cells: np.full(16, 1000)})) == {"IPU0507"}
    count = str(program["tracks"][0][-1][4])
    assert ids_of(with_tables(good, tmp_path / "f", {count: np.full(2, 1 << 31)})) <= {"IPU0506", "IPU0507", "IPU0509"}


@pytest.mark.parametrize(
    "header",
    [
        {"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "v": {"dtype": "F32", "shape": [4],
                                                                           "data_offsets": [0, 16]}},
        {"w": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}},
        {"w": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 16]}},
        {"w": {"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}},
        {"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 1 << 40]}},
        {"w": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}},
        {"w": {"dtype": "X7", "shape": [4], "data_offsets": [0, 16]}},
        {"w": {"dtype": "F32", "shape": [0, 1 << 47, 1 << 47], "data_offsets": [0, 0]}},
        {"w": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}},
        {"w": [1]},
        {"__metadata__": {"a": "b"}},
    ],
)  # fmt: skip
def test_headers_that_lie(header: dict[str, Any], good: Path, tmp_path: Path) -> None:
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(16)
    assert ids_of(write(tmp_path / "p", entries_of(good) | {"weights.safetensors": content})) == {"IPU0506"}


def test_header_sizes_that_lie(good: Path, tmp_path: Path) -> None:
    entries = entries_of(good)
    for content, id in ((b"", "IPU0503"), (b"\xff" * 8, "IPU0505"), ((1 << 20).to_bytes(8, "little"), "IPU0503")):
        assert ids_of(write(tmp_path / "p", entries | {"weights.safetensors": content})) == {id}


# At random


def read_or_refused(path: Path) -> Program | None:
    """The program of a file, None where it is refused as files are refused; everything else that is raised is."""
    refused: tuple[str, ...] = ()
    try:
        return load_program(path)
    except CompileError as problem:
        refused = tuple(d.id for d in problem.diagnostics)
    assert all(id.startswith("IPU05") for id in refused)
    return None


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=3))
def test_flipped_bytes_never_pass_unnoticed(good: Path, tmp_path: Path, flips: list[tuple[float, int]]) -> None:
    data = bytearray(good.read_bytes())
    for where, mask in flips:
        data[min(len(data) - 1, int(where * len(data)))] ^= mask
    (tmp_path / "p.ipux").write_bytes(data)
    program = read_or_refused(tmp_path / "p.ipux")
    if program is None:
        return
    # Bytes that mean nothing (versions of the tool that packed it, access rights): the program is the same one.
    save_program(program, tmp_path / "q.ipux")
    assert (tmp_path / "q.ipux").read_bytes() == good.read_bytes()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["manifest.json", "placement.json", "program.json", "tables.safetensors"]),
    st.floats(0, 1),
    st.one_of(
        st.binary(min_size=1, max_size=2), st.sampled_from([b"0", b"-1", b"99999999", b"1e9", b"[]", b'""', b"null"])
    ),
)
def test_changes_with_right_checksums_are_refused_or_run(
    good: Path, tmp_path: Path, entry: str, where: float, patch: bytes
) -> None:
    """What passes the reader and the verifier can be printed, timed and compared, whatever it is."""
    entries = entries_of(good)
    data = bytearray(entries[entry])
    at = min(len(data) - 1, int(where * len(data)))
    data[at : at + len(patch)] = patch
    write(tmp_path / "p.ipux", entries | {entry: bytes(data)})
    program = read_or_refused(tmp_path / "p.ipux")
    if program is None:
        return
    print_program(program)
    program_times(program)
    json.dumps(diff(Executable(program), good).to_json(), allow_nan=False)
