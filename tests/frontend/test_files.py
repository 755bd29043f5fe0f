"""Opening models: every bad file is one diagnostic, and external weights stay on disk."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, parser

from ipucc.diagnostics import CompileError
from ipucc.frontend import MissingTensor, load_model

HEADER = '<ir_version: 10, opset_import: ["": 26]>\n'


def model(text: str) -> onnx.ModelProto:
    return parser.parse_model(HEADER + text)


def failure(source: object, **options: object) -> CompileError:
    with pytest.raises(CompileError) as caught:
        load_model(source, **options)  # type: ignore[arg-type]
    return caught.value


def ids(source: object) -> list[str]:
    return [diagnostic.id for diagnostic in failure(source).diagnostics]


SMALL = "g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }"


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("empty.onnx", b"", "empty"),
        ("text.onnx", b"import torch\nprint(1)\n", "text"),
        ("zip.onnx", b"PK\x03\x04" + bytes(100), "zip"),
        ("pointer.onnx", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "LFS"),
        ("noise.onnx", bytes(range(256)) * 20, "truncated"),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, name: str, data: bytes, text: str) -> None:
    (tmp_path / name).write_bytes(data)
    problem = failure(tmp_path / name).diagnostics
    assert [d.id for d in problem] == ["IPU0102"]
    assert text in problem[0].message


def outcome(path: Path) -> tuple[str, ...]:
    """The ids of a file's problems; nothing but a CompileError may come out."""
    try:
        load_model(path)
    except CompileError as problem:
        return tuple(diagnostic.id for diagnostic in problem.diagnostics)
    return ()


def test_every_truncation_is_a_diagnostic(tmp_path: Path) -> None:
    proto = model("g (float[2,3] x) => (float[2,3] y) <float[3] w = {1,2,3}> { a = Add(x, w) y = Relu(a) }")
    data = proto.SerializeToString()
    path = tmp_path / "cut.onnx"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert all(id.startswith("IPU01") for id in outcome(path))


def test_damaged_bytes_never_crash(tmp_path: Path) -> None:
    proto = model("g (float[2,3] x) => (float[2,3] y) <float[3] w = {1,2,3}> { a = Add(x, w) y = Relu(a) }")
    data = proto.SerializeToString()
    random = np.random.default_rng(0)
    path = tmp_path / "damaged.onnx"
    seen: set[str] = set()
    for _ in range(300):
        damaged = bytearray(data)
        for place in random.integers(0, len(data), 3):
            damaged[place] = random.integers(0, 256)
        path.write_bytes(bytes(damaged))
        seen.update(outcome(path))
    assert {"IPU0102", "IPU0117", "IPU0118"} <= seen


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert ids(tmp_path / "absent.onnx") == ["IPU0101"]
    assert ids(tmp_path) == ["IPU0101"]
    assert ids(tmp_path / "fifo") == ["IPU0101"]
    assert ids("a\0b.onnx") == ["IPU0101"]
    (tmp_path / "huge.onnx").touch()
    os.truncate(tmp_path / "huge.onnx", 3 << 30)
    assert "2 GiB" in str(failure(tmp_path / "huge.onnx"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"x")
    (tmp_path / "m.onnx").chmod(0)
    assert ids(tmp_path / "m.onnx") == ["IPU0101"]


def test_empty_graphs() -> None:
    assert ids(model("g (float[2] x) => (float[2] y) {}")) == ["IPU0103"]
    assert ids(model("g (float[2] x) => () { y = Relu(x) }")) == ["IPU0103"]
    passed = load_model(model("g (float[2] x) => (float[2] x) {}"))
    assert [value.name for value in passed.graph.outputs] == ["x"]


def test_a_cycle_is_named_node_by_node() -> None:
    text = "g (float[2] x) => (float[2] y) { [p] a = Add(x, c) [q] b = Relu(a) [r] c = Neg(b) [s] y = Abs(c) }"
    (problem,) = failure(model(text)).diagnostics
    assert problem.id == "IPU0104"
    for name in ("p", "q", "r"):
        assert f'"{name}"' in problem.message
    assert '"s"' not in problem.message


def test_a_cycle_through_a_subgraph() -> None:
    text = """g (bool c, float[2] x) => (float[2] y) {
      [branch] y = If (c) <then_branch = t () => (float[2] p) { p = Relu(z) },
                           else_branch = e () => (float[2] q) { q = Neg(x) }>
      [back] z = Abs(y)
    }"""
    assert ids(model(text)) == ["IPU0104"]


def test_nodes_out_of_order_are_sorted() -> None:
    imported = load_model(model("g (float[2] x) => (float[2] y) { [s] y = Abs(a) [r] a = Neg(x) }"))
    assert [node.name for node in imported.graph] == ["r", "s"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("g (float[2] x) => (float[2] y) { a = Relu(x) a = Neg(x) y = Abs(a) }", ["IPU0105"]),
        ("g (float[2] x) => (float[2] x) { x = Relu(x) }", ["IPU0105", "IPU0104"]),
        ("g (float[2] x, float[2] x) => (float[2] y) { y = Add(x, x) }", ["IPU0105"]),
        ("g (float[2] x) => (float[2] y, float[2] y) { y = Relu(x) }", ["IPU0105"]),
        ("g (float[2] x) => (float[2] y) <float[2] y = {1,2}> { y = Relu(x) }", ["IPU0105"]),
        ("g (float[2] x) => (float[2] y) { y = Add(x, lost) }", ["IPU0117"]),
        ("g (float[2] x) => (float[2] y) { a = Relu(x) }", ["IPU0117"]),
    ],
)
def test_names(text: str, expected: list[str]) -> None:
    assert sorted(ids(model(text))) == sorted(expected)


def test_all_problems_of_a_file_come_at_once() -> None:
    text = "g (float[2] x) => (float[2] y) { a = Add(x, p) b = Add(a, q) b = Neg(a) }"
    assert ids(model(text)) == ["IPU0105", "IPU0117", "IPU0117", "IPU0117"]


def test_tensors_whose_data_does_not_fit_their_shape() -> None:
    proto = model("g (float[2,3] x) => (float[2,3] y) <float[3] w = {1,2,3}> { y = Add(x, w) }")
    proto.graph.initializer[0].dims[0] = 1 << 40
    assert ids(proto) == ["IPU0118"]
    proto.graph.initializer[0].dims[0] = -3
    assert ids(proto) == ["IPU0118"]
    proto.graph.initializer[0].dims[0] = 3
    proto.graph.initializer[0].data_type = 99
    assert ids(proto) == ["IPU0118"]
    proto.graph.initializer[0].CopyFrom(helper.make_tensor("w", TensorProto.INT4, [3], [1, -2, 3]))
    assert "IPU0118" not in ids(proto)


def test_inputs_that_are_no_tensors() -> None:
    proto = model(SMALL)
    proto.graph.input[0].type.Clear()
    assert ids(proto) == ["IPU0115"]
    sequence = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [2]))
    proto.graph.input[0].type.CopyFrom(sequence)
    assert ids(proto) == ["IPU0119"]


def test_too_new_opset() -> None:
    proto = model(SMALL)
    proto.opset_import[0].version = 40
    assert ids(proto) == ["IPU0112"]


def test_the_source_is_left_alone() -> None:
    proto = parser.parse_model(
        '<ir_version: 3, opset_import: ["": 11]> g (float[N,3] x, float[3] w) => (float[N,3] y) '
        "<float[3] w = {1,2,3}> { a = Add(x, w) y = Softmax<axis=1>(a) }"
    )
    before = proto.SerializeToString(deterministic=True)
    load_model(proto, dims={"N": 2})
    assert proto.SerializeToString(deterministic=True) == before
    source = ir.from_proto(proto)
    load_model(source, dims={"N": 2})
    assert ir.to_proto(source).SerializeToString(deterministic=True) == ir.to_proto(
        ir.from_proto(proto)
    ).SerializeToString(deterministic=True)


def external(folder: Path, location: str, *, offset: int | None = None, length: int | None = None) -> Path:
    """A model y = x + w whose weight of 12 bytes is said to lie at `location`."""
    proto = model("g (float[2,3] x) => (float[2,3] y) <float[3] w = {1,2,3}> { y = Add(x, w) }")
    weight = proto.graph.initializer[0]
    weight.ClearField("float_data")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": offset, "length": length}
    for key, value in entries.items():
        if value is not None:
            weight.external_data.add(key=key, value=str(value))
    folder.mkdir(exist_ok=True)
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    return folder / "m.onnx"


def test_external_weights_are_found_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = external(tmp_path / "model", "w.bin", offset=4)
    (tmp_path / "model/w.bin").write_bytes(np.array([9, 1, 2, 3], np.float32).tobytes())
    monkeypatch.chdir(tmp_path / "model")
    imported = load_model("m.onnx")
    monkeypatch.chdir(tmp_path)
    tensor = imported.graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    np.testing.assert_array_equal(tensor.numpy(), [1, 2, 3])
    assert ids(external(tmp_path / "model", "w.bin", offset=8)) == ["IPU0106"]
    assert ids(external(tmp_path / "model", "w.bin", length=8)) == ["IPU0106"]
    assert path.exists()


def test_absent_weights_are_missing_tensors(tmp_path: Path) -> None:
    imported = load_model(external(tmp_path, "gone.bin"))
    tensor = imported.graph.initializers["w"].const_value
    assert isinstance(tensor, MissingTensor)
    assert tensor.shape == [3]
    assert tensor.dtype == ir.DataType.FLOAT
    with pytest.raises(CompileError, match=r"gone\.bin") as caught:
        tensor.numpy()
    assert caught.value.diagnostics[0].id == "IPU0108"
    with pytest.raises(CompileError):
        tensor.tobytes()


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "a/../../secret.bin", "link.bin"])
def test_weights_outside_the_folder_are_not_opened(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(12))
    path = external(tmp_path / "model", location)
    (tmp_path / "model/link.bin").symlink_to(tmp_path / "secret.bin")
    assert ids(path) == ["IPU0107"]


def test_weights_that_are_no_plain_files(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    assert ids(external(tmp_path, "inner")) == ["IPU0106"]
    (tmp_path / "w.bin").write_bytes(bytes(12))
    os.link(tmp_path / "w.bin", tmp_path / "twin.bin")
    assert ids(external(tmp_path, "w.bin")) == ["IPU0106"]


def test_three_gigabytes_of_weights_are_not_read(tmp_path: Path) -> None:
    size, count = 5000, 32
    weights = [TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[size, size]) for i in range(count)]
    for index, weight in enumerate(weights):
        weight.data_location = TensorProto.EXTERNAL
        for key, value in (
            ("location", "w.bin"),
            ("offset", index * 4 * size * size),
            ("length", 4 * size * size),
        ):
            weight.external_data.add(key=key, value=str(value))
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(count)]
    ends = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [1, size]) for i in (0, count)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "m.onnx")
    with open(tmp_path / "w.bin", "wb") as file:
        file.truncate(4 * size * size * count)
    code = (
        "import resource, sys; from ipucc.frontend import load_model\n"
        "rss = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "before = rss(); load_model(sys.argv[1]); print(rss() - before)"
    )
    grown = int(subprocess.check_output([sys.executable, "-c", code, tmp_path / "m.onnx"], text=True))
    assert grown < 100
