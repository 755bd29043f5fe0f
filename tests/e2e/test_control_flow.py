"""Loops and branches that data decides, and loops that are too long to be written out."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import ipucc
from ipucc.diagnostics import CompileError

Array = NDArray[np.generic]
Runs = Callable[..., ipucc.Executable]
Parsed = Callable[[str], onnx.ModelProto]

WHILE = """g (float[4,16] x, float[16,16] w) => (float[4,16] y, int64 n) {
  most = Constant<value: tensor = int64 {%s}>()  go = Constant<value: tensor = bool {1}>()
  zero = Constant<value: tensor = int64 {0}>()   one = Constant<value: tensor = int64 {1}>()
  limit = Constant<value: tensor = float {100.0}>()
  y, n = Loop (most, go, x, zero) <body = b (int64 i, bool c, float[4,16] a, int64 k) =>
      (bool more, float[4,16] a2, int64 k2) {
    p = MatMul(a, w)  a2 = Add(p, a)  k2 = Add(k, one)  s = Abs(a2)  m = ReduceMax<keepdims=0>(s)  more = Less(m, limit)
  }>
}"""

IF = """g (float[4,16] x) => (float[4,16] y, float[4,16] h) {
  s = ReduceSum<keepdims=0>(x)  zero = Constant<value: tensor = float {0.0}>()  c = Greater(s, zero)  h = Abs(x)
  r = If (c) <then_branch = t () => (float[4,16] a) { a0 = Mul(h, x) a = Exp(a0) },
              else_branch = e () => (float[4,16] b) { b = Identity(h) }>
  y = Softmax(r)
}"""

COUNT = """g (int64 m, float[4,16] x) => (float[4,16] y) {
  go = Constant<value: tensor = bool {1}>()
  y = Loop (m, go, x) <body = b (int64 i, bool c, float[4,16] a) => (bool c, float[4,16] a2) {
    f = Cast<to=1>(i)  a2 = Add(a, f)
  }>
}"""

ROWS = """g (float[3] x, bool go) => (float[3] y, float[n,3] all, float[n] tops) {
  m = Constant<value: tensor = int64 {9}>()  top = Constant<value: tensor = float {9.0}>()
  y, rows, tops = Loop (m, go, x) <body = b (int64 i, bool c, float[3] a) =>
      (bool d, float[3] a2, float[3] s, float r) {
    a2 = Add(a, a)  s = Neg(a)  r = ReduceMax<keepdims=0>(a2)  d = Less(r, top)
  }>
  all = Abs(rows)
}"""

SIZES = """g (float[3] x, bool go) => (float[3] y, int64[4] sizes) {
  m = Constant<value: tensor = int64 {1}>()  top = Constant<value: tensor = float {9.0}>()
  y, rows = Loop (m, go, x) <body = b (int64 i, bool c, float[3] a) => (bool d, float[3] a2, float[3] s) {
    a2 = Add(a, a)  s = Neg(a)  r = ReduceMax<keepdims=0>(a2)  d = Less(r, top)
  }>
  n = Shape(rows)  sizes = Concat<axis=0>(n, n)
}"""

NESTED = """g (float[2,8] x, float[8] step) => (float[2,8] y) {
  three = Constant<value: tensor = int64 {3}>()  go = Constant<value: tensor = bool {1}>()
  limit = Constant<value: tensor = float {4.0}>()  scaled = Mul(step, step)
  y = Loop (three, go, x) <body = outer (int64 i, bool c, float[2,8] a) => (bool c2, float[2,8] a3) {
    s = ReduceMax<keepdims=0>(a)  c2 = Less(s, limit)
    big = Greater(s, step0)
    a2 = If (big) <then_branch = t () => (float[2,8] p) { p = Sub(a, scaled) },
                   else_branch = e () => (float[2,8] q) {
      q = Loop (three, go, a) <body = inner (int64 j, bool d, float[2,8] v) => (bool d2, float[2,8] v2) {
        v2 = Add(v, scaled)  w = ReduceMax<keepdims=0>(v2)  d2 = Less(w, limit)
      }>
    }>
    a3 = Add(a2, a)
  }>
}"""

SCAN = """g (float[40,6] x, float[6] h0, float[40] gain) => (float[6] h, float[6,40] ys, float[40] tops) {
  h, ys, tops = Scan (h0, x, gain) <num_scan_inputs = 2, scan_input_directions = [1, 0], scan_output_axes = [1, 0],
                      scan_output_directions = [1, 0], body = b (float[6] s, float[6] v, float g0) =>
      (float[6] s2, float[6] out, float top) {
    half = Constant<value: tensor = float {0.5}>()
    k = Mul(s, half)  u = Mul(v, g0)  s2 = Add(k, u)  e = Tanh(s2)  out = Sub(e, k)  a1 = Abs(out)  a2 = Sqrt(a1)
    top = ReduceMax<keepdims=0>(a2)
  }>
}"""


def drawn(*shape: int, seed: int = 0, scale: float = 1.0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


@pytest.mark.parametrize("most", [50, 2**62])
def test_a_loop_goes_on_while_its_condition_holds(runs: Runs, most: int) -> None:
    x, w = drawn(4, 16), drawn(16, 16, seed=1, scale=0.2)
    exe = runs(WHILE % most, [{"x": x, "w": w}, {"x": 50 * x, "w": w}])
    assert [exe.run({"x": s * x, "w": w}).decisions for s in (1, 50)] == [{"y": (10,)}, {"y": (1,)}]
    # Without a run it is predicted at its bound, or at one trip.
    assert exe.cycles == exe.predict({"y": 50 if most == 50 else 1})
    assert exe.run(timing_only=True, decisions={"y": 10}).cycles == exe.run({"x": x, "w": w}).cycles


def test_a_loop_that_never_ends_is_found_out(
    machine_file: Callable[..., Path], parsed: Parsed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipucc.runtime.engine._MAX_TRIPS", 20)
    exe = ipucc.compile(parsed(WHILE % 2**62), target=str(machine_file(tiles=8)), effort="fast")
    with pytest.raises(CompileError) as caught:
        exe.run({"x": drawn(4, 16), "w": np.zeros((16, 16), np.float32)})
    assert [d.id for d in caught.value.diagnostics] == ["IPU0710"]


def test_a_branch_is_taken(runs: Runs) -> None:
    x = np.abs(drawn(4, 16))
    exe = runs(IF, [{"x": x}, {"x": -x}])
    assert [exe.run({"x": s * x}).decisions for s in (1, -1)] == [{"r": (1,)}, {"r": (0,)}]
    assert exe.cycles == max((exe.predict({"r": b}) for b in (0, 1)), key=lambda c: c.total)


def test_rows_of_a_loop_whose_trips_data_decides_are_cut_for_the_host(runs: Runs) -> None:
    x = np.array([0.5, 0.25, -1], np.float32)
    exe = runs(ROWS, [{"x": x * s, "go": np.array(go)} for s, go in ((1, True), (20, True), (1e-3, True), (1, False))])
    assert exe.run({"x": x, "go": np.array(True)}).outputs["all"].shape == (5, 3)


def test_what_is_computed_twice_before_a_branch_is_known_behind_it(runs: Runs) -> None:
    text = """g (float[2,8] x, bool c) => (float[2,8] one, float[2,8] two, float[2,8] y) {
      one = Sign(x)  two = Sign(x)
      b = If (c) <then_branch = t () => (float[2,8] p) { p = Neg(x) },
                  else_branch = e () => (float[2,8] q) { q = Abs(x) }>
      y = Mul(b, two)
    }"""
    runs(text, [{"x": drawn(2, 8), "c": np.array(c)} for c in (True, False)])


def test_the_size_of_rows_that_data_decides_is_a_value(runs: Runs) -> None:
    x = np.array([0.5, 0.25, -1], np.float32)
    exe = runs(SIZES, [{"x": x * s, "go": np.array(go)} for s, go in ((1, True), (20, True))])
    # A scalar that more than one tile holds: it is cut into a single piece, for one of them.
    assert exe.run({"x": x * 20, "go": np.array(True)}).outputs["sizes"].tolist() == [1, 3, 1, 3]


def test_the_number_of_trips_is_an_input(runs: Runs) -> None:
    exe = runs(COUNT, [{"m": np.array(m), "x": drawn(4, 16)} for m in (3, 0)])
    assert exe.run({"m": np.array(5), "x": drawn(4, 16)}).decisions == {"y": (5,)}


def test_loops_and_branches_within_each_other(runs: Runs) -> None:
    text = NESTED.replace("step0", "limit0").replace("scaled = Mul", "limit0 = Div(limit, limit)  scaled = Mul")
    exe = runs(text, [{"x": drawn(2, 8, scale=s), "step": np.full(8, 0.4, np.float32)} for s in (0.2, 1.0)])
    decided = exe.run({"x": drawn(2, 8, scale=0.2), "step": np.full(8, 0.4, np.float32)}).decisions
    # The loop goes on, by turns, with either branch.
    assert len(decided["y"]) == 1
    assert set(decided["a2"]) == {0, 1}


def test_slices_and_stacks_of_a_long_scan(runs: Runs) -> None:
    exe = runs(SCAN, [{"x": drawn(40, 6), "h0": drawn(6, seed=1), "gain": drawn(40, seed=2)}])
    assert not exe.run({"x": drawn(40, 6), "h0": drawn(6), "gain": drawn(40)}).decisions


def test_control_flow_in_half_precision(runs: Runs) -> None:
    x = np.abs(drawn(4, 16))
    runs(IF, [{"x": x}, {"x": -x}], 2e-2, precision="fp16")
    runs(SCAN, [{"x": drawn(40, 6), "h0": drawn(6, seed=1), "gain": drawn(40, seed=2)}], 2e-2, precision="fp16")


@pytest.mark.parametrize(("op", "direction", "lengths"), [("LSTM", "reverse", True), ("GRU", "bidirectional", False)])
def test_a_long_recurrence_is_one_step_in_a_loop(
    runs: Runs, parsed: Parsed, op: str, direction: str, lengths: bool
) -> None:
    gates, ways = {"LSTM": 4, "GRU": 3}[op], 2 if direction == "bidirectional" else 1
    outs = "y, h, c" if op == "LSTM" else "y, h"
    last = f", float[{ways},3,8] c" if op == "LSTM" else ""
    more, given = (", int32[3] len", ", len") if lengths else ("", "")
    text = f"""g (float[40,3,5] x{more}) => (float[40,{ways},3,8] y, float[{ways},3,8] h{last}) {{
      {outs} = {op}<hidden_size=8, direction="{direction}">(x, w, r, b{given})
    }}"""
    model = parsed(text)
    for name, shape in (("w", (ways, 8 * gates, 5)), ("r", (ways, 8 * gates, 8)), ("b", (ways, 16 * gates))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(drawn(*shape, scale=0.3), name))
    feeds: dict[str, Array] = {"x": drawn(40, 3, 5)}
    if lengths:
        feeds["len"] = np.array([40, 17, 3], np.int32)
    exe = runs(model, [feeds])
    assert len(exe.program.steps) < 40


BAD = {
    "IPU0330": """g (float[2] x) => (float[2] y) { go = Constant<value: tensor = bool {1}>()
        y = Loop (, go, x) <body = b (int64 i, bool c, float[2] a) => (bool c, float[2] a2) { a2 = Exp(a) }> }""",
    "IPU0331": """g (float[2] x, int64 m) => (float[2] y, float[n,2] all) {
        go = Constant<value: tensor = bool {1}>()  top = Constant<value: tensor = float {9.0}>()
        y, all = Loop (m, go, x) <body = b (int64 i, bool c, float[2] a) => (bool d, float[2] a2, float[2] s) {
            a2 = Exp(a)  s = Neg(a)  r = ReduceMax<keepdims=0>(a2)  d = Less(r, top) }> }""",
    "IPU0332": """g (bool c, float[2] x) => (float[n] y) {
        y = If (c) <then_branch = t () => (float[2] p) { p = Neg(x) },
                    else_branch = e () => (float[4] q) { q = Concat<axis=0>(x, x) }> }""",
    "IPU0333": """g (float[2] x, bool go) => (float[n] y) { m = Constant<value: tensor = int64 {3}>()
        y = Loop (m, go, x) <body = b (int64 i, bool c, float[n] a) => (bool c, float[k] a2) {
            a2 = Concat<axis=0>(a, a) }> }""",
}  # fmt: skip


@pytest.mark.parametrize("id", BAD)
def test_what_a_program_cannot_do_is_refused_by_name(parsed: Parsed, id: str) -> None:
    with pytest.raises(CompileError) as caught:
        ipucc.compile(parsed(BAD[id]))
    assert [d.id for d in caught.value.diagnostics] == [id]


def test_decisions_that_a_program_cannot_take(machine_file: Callable[..., Path], parsed: Parsed) -> None:
    exe = ipucc.compile(parsed(WHILE % 50), target=str(machine_file(tiles=8)), effort="fast")
    for decisions, id in (({"z": 1}, "IPU0711"), ({"y": 51}, "IPU0712"), ({"y": [3, -1]}, "IPU0712")):
        with pytest.raises(CompileError) as caught:
            exe.predict(decisions)
        assert [d.id for d in caught.value.diagnostics] == [id]
