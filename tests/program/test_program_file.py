"""Program files: what is written is what is read, in the same bytes everywhere, whole or not at all."""

import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from ipucc.codelets.base import Cells
from ipucc.diagnostics import CompileError
from ipucc.program import model
from ipucc.program.file import load_program, save_program
from ipucc.program.model import Fill, HostRead, Program
from ipucc.program.printing import print_program
from ipucc.program.timing import program_times
from ipucc.runtime.engine import Engine

Programs = Callable[[str], Program]
NAMES = ("mlp", "half", "conv", "layers", "call")


@pytest.mark.parametrize("name", NAMES)
def test_a_program_comes_back_as_it_was(name: str, compiled: Programs, feeds: Callable, tmp_path: Path) -> None:
    first = compiled(name)
    save_program(first, tmp_path / "a.ipux")
    second = load_program(tmp_path / "a.ipux")
    save_program(second, tmp_path / "b.ipux")
    assert (tmp_path / "a.ipux").read_bytes() == (tmp_path / "b.ipux").read_bytes()
    assert print_program(first) == print_program(second)
    assert first.manifest == second.manifest
    assert first.ops == second.ops
    assert program_times(first) == program_times(second)
    x = feeds(first, 0)
    assert np.array_equal(Engine(first).run(x)["y"], Engine(second).run(x)["y"])


def test_equal_layouts_are_one_object_after_reading(compiled: Programs, tmp_path: Path) -> None:
    save_program(compiled("layers"), tmp_path / "p.ipux")
    read = load_program(tmp_path / "p.ipux")
    assert len({id(b.layout) for b in read.buffers}) < len(read.buffers)
    for a in read.buffers:
        for b in read.buffers:
            assert (a.layout is b.layout) == a.layout.same_as(b.layout)


def test_the_file_is_a_stored_zip_without_traces(compiled: Programs, tmp_path: Path) -> None:
    save_program(compiled("mlp"), tmp_path / "p.ipux")
    with zipfile.ZipFile(tmp_path / "p.ipux") as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
            assert info.compress_type == zipfile.ZIP_STORED
        names = archive.namelist()
    assert names == sorted(names)
    assert "placement.json" in names


def test_tables_and_weights_are_safetensors(compiled: Programs, tmp_path: Path) -> None:
    program = compiled("mlp")
    save_program(program, tmp_path / "p.ipux")
    with zipfile.ZipFile(tmp_path / "p.ipux") as archive:
        weights = safetensors.numpy.load(archive.read("weights.safetensors"))
        tables = safetensors.numpy.load(archive.read("tables.safetensors"))
    assert weights.keys() == program.weights.keys()
    for name, value in program.weights.items():
        assert np.array_equal(weights[name], value)
    assert all(t.dtype.kind == "i" for t in tables.values())


def test_weights_stay_in_the_file_until_they_are_used(compiled: Programs, tmp_path: Path) -> None:
    save_program(compiled("mlp"), tmp_path / "p.ipux")
    for value in load_program(tmp_path / "p.ipux").weights.values():
        assert value is not None
        root = value
        while isinstance(root.base, np.ndarray):
            root = root.base
        assert isinstance(root, np.memmap)
        assert not value.flags.writeable
        assert value.flags.aligned


def test_weights_of_every_type_keep_their_bits(program: Programs, tmp_path: Path) -> None:
    p = program("mlp")
    bits = np.arange(1 << 16, dtype=np.uint16)
    given = {
        "half": bits.view(np.float16), "brain": bits.view(ml_dtypes.bfloat16), "flags": np.array([True, False]),
        "long": np.array([[-(1 << 60)], [1 << 60]]), "byte": np.array([-1, 2], np.int8), "empty": np.zeros((0, 3)),
        "scalar": np.array(3.5, np.float32), "strided": np.arange(12.0).reshape(3, 4)[:, ::2],
        "swapped": np.arange(3, dtype=">i4"),
    }  # fmt: skip
    p.weights.update(given)
    save_program(p, tmp_path / "p.ipux")
    read = load_program(tmp_path / "p.ipux").weights
    for name, value in given.items():
        found = read[name]
        assert found is not None
        assert found.shape == value.shape
        assert found.dtype == value.dtype.newbyteorder("<")
        assert found.tobytes() == np.ascontiguousarray(value.astype(found.dtype)).tobytes()


def test_a_weight_of_another_type_is_refused(program: Programs, tmp_path: Path) -> None:
    p = program("mlp")
    p.weights["odd"] = np.array([1j])
    with pytest.raises(TypeError, match="complex128"):
        save_program(p, tmp_path / "p.ipux")
    assert not list(tmp_path.iterdir())


def test_absent_weights_stay_absent(program: Programs, feeds: Callable, tmp_path: Path) -> None:
    p = program("mlp")
    p.weights = dict.fromkeys(p.weights)
    save_program(p, tmp_path / "p.ipux")
    assert (tmp_path / "p.ipux").stat().st_size < 200_000
    read = load_program(tmp_path / "p.ipux")
    assert read.weights == dict.fromkeys(sorted(p.weights))
    program_times(read)
    with pytest.raises(CompileError, match="IPU0510"):
        Engine(read).run(feeds(p, 0))


def test_infinite_fills_survive(program: Programs, tmp_path: Path) -> None:
    p = program("conv")
    exchange = next(s for s in p.steps if isinstance(s, model.Exchange))
    at = p.steps.index(exchange)
    fill = Fill(exchange.moves[0].dst, float("-inf"))
    p.steps[at] = model.Exchange(exchange.name, exchange.moves, (fill,), exchange.order)
    read_step = p.steps[-1]
    assert isinstance(read_step, HostRead)
    p.steps[-1] = HostRead(read_step.tensor, read_step.buffer, read_step.view, float("nan"))
    save_program(p, tmp_path / "p.ipux")
    read = load_program(tmp_path / "p.ipux")
    again = read.steps[at]
    assert isinstance(again, model.Exchange)
    assert again.fills == (fill,)
    last = read.steps[-1]
    assert isinstance(last, HostRead)
    assert np.isnan(last.fill)


def test_every_field_of_the_model_is_in_the_file() -> None:
    """A field that is added to the model must be added to the file (and here)."""
    known = {
        model.Buffer: "name dtype layout offset alias alias_offset",
        model.Move: "src dst tracks view keeps",
        model.Fill: "buffer value",
        model.Exchange: "name moves fills order",
        model.Binding: "buffer cells fill",
        model.Compute: "name codelet tiles cells operands results macs workers beside",
        model.HostWrite: "tensor buffer view fill",
        model.HostRead: "tensor buffer view fill",
        model.Repeat: "count body strides names",
        model.Call: "function inputs outputs",
        model.Program: "target buffers steps inputs outputs weights functions code_bytes manifest ops patterns extents",
        model.PlannedOp: "name kind plan cycles resident_bytes result_bytes temporary_bytes nodes",
        Cells: "lo n sizes",
    }
    for kind, names in known.items():
        assert " ".join(f.name for f in fields(kind)) == names, kind


def test_the_manifest_is_json_for_everybody(program: Programs, tmp_path: Path) -> None:
    p = program("mlp")
    p.manifest["note"] = {"deep": [1, 2.5, None]}
    save_program(p, tmp_path / "p.ipux")
    with zipfile.ZipFile(tmp_path / "p.ipux") as archive:
        manifest = json.loads(archive.read("manifest.json"))
    assert manifest["format"] == "ipucc program"
    assert manifest["version"] == 4
    assert manifest["target"]["tiles"] == 16
    assert manifest["info"]["note"] == {"deep": [1, 2.5, None]}
    assert load_program(tmp_path / "p.ipux").manifest == p.manifest


@pytest.mark.parametrize("where", ["missing/p.ipux", ".", "file/p.ipux"])
def test_an_unwritable_result_is_an_error_and_leaves_nothing(where: str, compiled: Programs, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CompileError, match="IPU0508"):
        save_program(compiled("mlp"), tmp_path / where)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_failure_keeps_the_old_file(compiled: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.ipux"
    save_program(compiled("mlp"), path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CompileError, match="No space left"):
        save_program(compiled("conv"), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["p.ipux"]


def test_a_link_is_followed(compiled: Programs, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link.ipux").symlink_to(tmp_path / "there" / "p.ipux")
    save_program(compiled("mlp"), tmp_path / "link.ipux")
    assert (tmp_path / "link.ipux").is_symlink()
    load_program(tmp_path / "there" / "p.ipux")
