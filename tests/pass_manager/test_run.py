"""Running pipelines: events, printing, dumps, verification, remarks, and passes that fail."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from ipucc.diagnostics import CompileError, error
from ipucc.graph.edit import Editor
from ipucc.pass_manager import (
    DumpFolder,
    Pass,
    PassContext,
    PassEvent,
    Pipeline,
    Repeat,
    count_nodes,
    option,
    run_pipeline,
)


@pytest.fixture
def model() -> ir.Model:
    found = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 26]>
        g (float[2] x) => (float[2] y) {
          [first] a = Neg(x)
          [second] b = Neg(a)
          [third] y = Relu(b) }"""
    )
    ShapeInferencePass()(found)
    return found


def make(run: Callable[[ir.Model, PassContext], bool], label: str = "made") -> Pass:
    @dataclass(frozen=True)
    class Made(Pass):
        """Made for a test."""

        name: ClassVar[str] = label

        def run(self, model: ir.Model, ctx: PassContext) -> bool:
            return run(model, ctx)

    return Made()


@dataclass(frozen=True)
class Count(Pass):
    """Inserts a Neg before the last node, `times` times."""

    name: ClassVar[str] = "count"
    times: int = option(1, "how often")

    def run(self, model: ir.Model, ctx: PassContext) -> bool:
        editor, last = Editor(model), model.graph[-1]
        for _ in range(self.times):
            made = editor.node("Neg", [last.inputs[0]], before=last)
            last.replace_input_with(0, made.outputs[0])
        ctx.passed(last, "counted", times=self.times)
        return self.times > 0


def test_result_and_events(model: ir.Model) -> None:
    events: list[PassEvent] = []
    result = run_pipeline(model, Pipeline((Count(2), Count(0))), on_event=events.append)
    assert [(t.name, t.changed, t.nodes) for t in result.timings] == [("count", True, 5), ("count", False, 5)]
    assert result.changed
    assert [(e.kind, e.name) for e in events] == [("before", "count"), ("after", "count")] * 2
    assert events[1].timing == result.timings[0]
    assert all(t.seconds >= 0 for t in result.timings)
    assert count_nodes(model) == 5


def test_repeat_ends_when_nothing_changes(model: ir.Model) -> None:
    left = [3]

    def once(model: ir.Model, ctx: PassContext) -> bool:
        left[0] -= 1
        return left[0] > 0

    result = run_pipeline(model, Pipeline((Repeat(10, Pipeline((make(once),))),)))
    assert [t.changed for t in result.timings] == [True, True, False]


def test_remarks_are_collected_once_and_name_the_pass(model: ir.Model) -> None:
    result = run_pipeline(model, Pipeline((Count(1), Count(1))))
    (remark,) = result.remarks
    assert (remark.id, remark.severity, remark.where, remark.node) == ("IPU0320", "remark", "pass count", "third")
    assert remark.to_json()["data"] == {"times": 1}


def test_print_after(model: ir.Model) -> None:
    printed: list[str] = []
    run_pipeline(model, "clean-up,fuse-conv", print_after=["clean-up"], stream=printed.append)
    (text,) = printed
    assert text.startswith("# after clean-up\n")
    assert "Relu" in text
    assert "Neg" not in text
    printed.clear()
    run_pipeline(model, "clean-up,fuse-conv", print_after=["all"], stream=printed.append)
    assert [t.splitlines()[0] for t in printed] == ["# after clean-up", "# after fuse-conv"]


def test_print_after_an_absent_pass(model: ir.Model) -> None:
    with pytest.raises(CompileError, match="no pass 'clean' in clean-up"):
        run_pipeline(model, "clean-up", print_after=["clean"], stream=print)


def test_dumps_are_numbered(model: ir.Model, tmp_path: Path) -> None:
    run_pipeline(model, "clean-up,fuse", dump=DumpFolder(tmp_path / "ir"))
    names = sorted(p.name for p in (tmp_path / "ir").iterdir())
    assert names == ["000-input.txt", "001-clean-up.txt", "002-fuse.txt"]
    assert "Neg" in (tmp_path / "ir/000-input.txt").read_text()
    assert "FusedElementwise" in (tmp_path / "ir/002-fuse.txt").read_text()
    run_pipeline(model, "clean-up", dump=DumpFolder(tmp_path / "ir"))
    assert sorted(p.name for p in (tmp_path / "ir").iterdir()) == ["000-input.txt", "001-clean-up.txt"]


def test_dumps_do_not_touch_a_folder_of_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(CompileError, match="holds other files"):
        DumpFolder(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_dumps_into_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(CompileError, match="IPU0508"):
        DumpFolder(tmp_path / "taken")


def test_a_pass_that_crashes_is_named_with_its_history(model: ir.Model) -> None:
    def crash(model: ir.Model, ctx: PassContext) -> bool:
        raise KeyError("weight")

    with pytest.raises(CompileError) as caught:
        run_pipeline(model, Pipeline((Count(), make(crash, "crash"))))
    (found,) = caught.value.diagnostics
    assert (found.id, found.where) == ("IPU0310", "pass crash")
    assert "the pass 'crash' failed with KeyError: 'weight'" in found.message
    assert found.notes == ("passes before it: count",)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_pass_that_refuses_is_located(model: ir.Model) -> None:
    def refuse(model: ir.Model, ctx: PassContext) -> bool:
        raise error("IPU0401", "too large")

    with pytest.raises(CompileError) as caught:
        run_pipeline(model, Pipeline((make(refuse, "refuse"),)))
    assert caught.value.diagnostics[0].where == "pass refuse"
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("verify", [True, False])
def test_a_pass_that_breaks_the_graph_is_named(verify: bool, model: ir.Model) -> None:
    def spoil(model: ir.Model, ctx: PassContext) -> bool:
        model.graph[0].outputs[0].name = "b"
        return True

    pipeline = Pipeline((make(spoil, "spoil"),))
    if not verify:
        assert run_pipeline(model, pipeline, verify=False).changed
        return
    with pytest.raises(CompileError) as caught:
        run_pipeline(model, pipeline)
    (found,) = caught.value.diagnostics
    assert (found.id, found.where) == ("IPU0309", "pass spoil")
    assert any("IPU0105" in note for note in found.notes)
    assert found.notes[-1] == "it was the first pass"


def test_a_pass_without_run(model: ir.Model) -> None:
    @dataclass(frozen=True)
    class Empty(Pass):
        """Forgot something."""

        name: ClassVar[str] = "empty"

    with pytest.raises(CompileError, match=r"does not define run\(\)"):
        run_pipeline(model, Pipeline((Empty(),)))
