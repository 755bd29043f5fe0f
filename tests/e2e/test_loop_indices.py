"""Loops that pick and place rows by the number of the trip, and slices whose ends are known at run time only."""

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import ipucc
from ipucc.diagnostics import CompileError
from ipucc.program.model import Compute, walk

Array = NDArray[np.generic]
Runs = Callable[..., ipucc.Executable]
Parsed = Callable[[str], onnx.ModelProto]

CONSTANTS = """m = Constant<value: tensor = int64 {40}>()  go = Constant<value: tensor = bool {1}>()
  one = Constant<value: tensor = int64 {1}>()  zero = Constant<value: tensor = int64 {0}>()
  last = Constant<value: tensor = int64 {43}>()  limit = Constant<value: tensor = float {3.0}>()
  v0 = Constant<value: tensor = int64[1] {0}>()  v1 = Constant<value: tensor = int64[1] {1}>()
  four = Constant<value: tensor = int64[1] {4}>()  place = Constant<value: tensor = int64[2] {1, 1}>()"""


def drawn(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def model(ports: str, text: str) -> str:
    return f"g {ports} {{ {CONSTANTS} {text} }}"


def codelets(exe: ipucc.Executable) -> set[str]:
    return {step.codelet.name for step in walk(exe.program.steps, {}) if isinstance(step, Compute)}


STATE = "<body = b (int64 i, bool c, float[4,8] a) => (bool c, float[4,8] a2)"
READS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "one index": (STATE + "{ t = Gather<axis=0>(x, i) u = Mul(a, t) w = Tanh(u) a2 = Sub(w, t) }>", (40, 4, 8)),
    "of another axis, from behind": (
        STATE + "{ j = Sub(last, i) t = Gather<axis=1>(x, j) u = Mul(a, t) w = Tanh(u) a2 = Sub(w, t) }>", (4, 50, 8)),
    "a slice of one": (
        STATE + """{ e = Add(i, one) p = Unsqueeze(i, v0) q = Unsqueeze(e, v0) z = Slice(x, p, q, v1)
          t = Squeeze(z, v1) u = Mul(a, t) w = Tanh(u) a2 = Sub(w, t) }>""", (4, 40, 8)),
    "a block": (
        STATE + """{ k = Unsqueeze(i, v0) p = Mul(k, four) q = Add(p, four) t = Slice(x, p, q, v0)
          u = Mul(a, t) w = Tanh(u) a2 = Sub(w, t) }>""", (160, 8)),
    "of what no trip changes": (
        STATE + """{ n = Abs(x) r = Transpose<perm=[1,0,2]>(n) t = Gather<axis=0>(r, i) u = Mul(a, t)
          w = Tanh(u) a2 = Sub(w, t) }>""", (4, 40, 8)),
}  # fmt: skip


@pytest.mark.parametrize("case", READS)
def test_rows_by_the_number_of_the_trip_are_read_without_an_index(runs: Runs, case: str) -> None:
    body, shape = READS[case]
    dims = ",".join(map(str, shape))
    exe = runs(model(f"(float[{dims}] x, float[4,8] s) => (float[4,8] y)", f"y = Loop (m, go, s) {body}"),
               [{"x": drawn(*shape), "s": drawn(4, 8, seed=1)}])  # fmt: skip
    assert "gather" not in codelets(exe)


def test_an_index_that_data_decides_is_gathered(runs: Runs) -> None:
    text = """y = Loop (m, go, s) <body = b (int64 i, bool c, float[8] a) => (bool c, float[8] a2) {
      j = ArgMax<axis=0, keepdims=1>(a) k = Add(j, v1) r = Slice(x, j, k, v0) t = Squeeze(r, v0) n = Neg(t)
      u = Sub(n, a) a2 = Tanh(u) }>"""
    runs(model("(float[8,8] x, float[8] s) => (float[8] y)", text), [{"x": drawn(8, 8), "s": drawn(8, seed=1)}])


WRITE = """y = Loop (m, go, y0) <body = b (int64 i, bool c, float[50,8] a) => (bool c, float[50,8] a2) {
  j = Sub(last, i) t = Gather<axis=0>(x, j) old = Gather<axis=0>(a, j) p = Tanh(t) q = Add(p, old)
  u = Unsqueeze(q, v0) k = Reshape(j, place) a2 = ScatterND(a, k, u) }>"""


def test_rows_that_are_written_once_are_stacked(runs: Runs) -> None:
    exe = runs(model("(float[44,8] x, float[50,8] y0) => (float[50,8] y)", WRITE),
               [{"x": drawn(44, 8), "y0": drawn(50, 8, seed=1)}])  # fmt: skip
    assert codelets(exe).isdisjoint(("gather", "scatter"))


ATTEND = """cache, y = Loop (m, go, c0) <body = b (int64 i, bool c, float[40,8] a) =>
    (bool c, float[40,8] a2, float[8] o) {
  t = Gather<axis=0>(x, i) r = Unsqueeze(t, v0) k = MatMul(r, w) at = Reshape(i, place) a2 = ScatterND(a, at, k)
  e = Add(i, one) q = Unsqueeze(e, v0) keys = Slice(a2, v0, q, v0) values = Slice(a2, v0, q, v0)
  turned = Transpose(keys) scores = MatMul(r, turned) p = Softmax(scores) z = MatMul(p, values) o = Squeeze(z, v0) }>"""


def test_a_cache_grows_by_a_row_and_is_read_up_to_it(runs: Runs) -> None:
    ports = "(float[40,8] x, float[8,8] w, float[40,8] c0) => (float[40,8] cache, float[40,8] y)"
    feeds = {"x": drawn(40, 8), "w": drawn(8, 8, seed=1), "c0": drawn(40, 8, seed=2)}
    runs(model(ports, ATTEND), [feeds], 2e-5)


COUNTED = """y, n = Loop (, go, s, zero) <body = b (int64 i, bool c, float[8] a, int64 k) =>
    (bool more, float[8] a2, int64 k2) {
  t = Gather<axis=0>(x, k) u = Tanh(a) v = Mul(u, t) w = Abs(v) a2 = Sub(w, t) k2 = Add(k, one)
  more = %s }>"""


@pytest.mark.parametrize("test", ["Less(k2, m)", "Greater(m, k2)", "LessOrEqual(k2, last)", "Not(over)"])
def test_a_condition_that_counts_says_the_number_of_trips(runs: Runs, test: str) -> None:
    text = COUNTED % test
    if test == "Not(over)":
        text = text.replace("more =", "over = GreaterOrEqual(k2, m) more =")
    exe = runs(model("(float[44,8] x, float[8] s) => (float[8] y, int64 n)", text),
               [{"x": drawn(44, 8), "s": drawn(8, seed=1)}])  # fmt: skip
    result = exe.run({"x": drawn(44, 8), "s": drawn(8, seed=1)})
    assert result.outputs["n"] == (44 if test.startswith("LessOrEqual") else 40)
    assert not result.decisions
    assert exe.cycles == result.cycles


def test_a_count_beside_another_condition_is_a_bound(runs: Runs) -> None:
    text = """y, n, all = Loop (, go, s, zero) <body = b (int64 i, bool c, float[8] a, int64 k) =>
        (bool more, float[8] a2, int64 k2, float[8] o) {
      t = Gather<axis=0>(x, k) u = Tanh(a) v = Mul(u, t) w = Abs(v) a2 = Sub(w, t) k2 = Add(k, one) o = Neg(a2)
      m1 = Less(k2, m) top = ReduceMax<keepdims=0>(a2) m2 = Less(top, limit) more = And(m1, m2) }>"""
    feeds = [{"x": drawn(40, 8) * scale, "s": drawn(8, seed=1)} for scale in (0.1, 2.0)]
    exe = runs(model("(float[40,8] x, float[8] s) => (float[8] y, int64 n, float[r,8] all)", text), feeds)
    made = [exe.run(given).outputs["all"].shape[0] for given in feeds]
    assert made[0] == 40
    assert made[1] < 40


def test_a_loop_with_another_in_it_reads_rows_of_both(runs: Runs) -> None:
    text = """y = Loop (m, go, s) <body = b (int64 i, bool c, float[8] a) => (bool c, float[8] a2) { t0 = Tanh(a)
      a2 = Loop (m, go, t0) <body = d (int64 j, bool e, float[8] f) => (bool e, float[8] f2) {
        r = Gather<axis=0>(x, i) t = Gather<axis=0>(r, j) u = Tanh(f) v = Mul(u, t) f2 = Add(v, t) }> }>"""
    runs(
        model("(float[40,40,8] x, float[8] s) => (float[8] y)", text), [{"x": drawn(40, 40, 8), "s": drawn(8, seed=1)}]
    )


def test_slices_that_data_ends(runs: Runs) -> None:
    text = """e = Add(n, four) y = Slice(x, n, e, v0) first = Slice(x, v0, n, v0) r = Slice(x, n, far, v0)
      rest = ReduceSum<keepdims=0>(r, v0)"""
    text = f"far = Constant<value: tensor = int64[1] {{{2**62}}}>() " + text
    ports = "(float[10,4] x, int64[1] n) => (float[a,4] y, float[b,4] first, float[4] rest)"
    # Begins before, inside, near the end and beyond it; negative ones count from the end.
    runs(model(ports, text), [{"x": drawn(10, 4), "n": np.array([n])} for n in (0, 3, 8, 10, 12, -3, -20)])


def test_a_slice_that_may_reach_beyond_the_end_has_no_fixed_extent(parsed: Parsed) -> None:
    body = (
        STATE
        + """{ k = Unsqueeze(i, v0) q = Add(k, four) t = Slice(x, k, q, v0) u = Mul(a, t) w = Tanh(u)
      a2 = Sub(w, t) }>"""
    )
    text = model("(float[40,8] x, float[4,8] s) => (float[4,8] y)", f"y = Loop (m, go, s) {body}")
    with pytest.raises(CompileError) as caught:
        ipucc.compile(parsed(text))
    assert {(d.id, d.node) for d in caught.value.diagnostics} == {("IPU0324", "u"), ("IPU0324", "a2")}


ROWS = "nz = NonZero(x) r0 = Gather<axis=0>(nz, zero) rows = Gather<axis=0>(x, r0)"


def test_bodies_read_rows_of_which_data_says_how_many(runs: Runs) -> None:
    text = (
        ROWS
        + """ pos = Greater(top, limit)
      b = If (pos) <then_branch = t () => (float[6] p) { t = Mul(rows, s) p = ReduceSum<keepdims=0>(t, v0) },
                    else_branch = e () => (float[6] q) { q = ReduceMax<keepdims=0>(rows, v0) }>
      y = Loop (m, go, b) <body = d (int64 i, bool c, float[6] a) => (bool c, float[6] a2) {
        t = Mul(rows, a) u = Tanh(t) r = ReduceSum<keepdims=0>(u, v0) a2 = Sub(r, a) }>"""
    )
    x = drawn(4, 6) * (drawn(4, 6, seed=3) > 0.5)
    feeds = [{"x": x, "s": drawn(6, seed=1), "top": np.array(top, np.float32)} for top in (0, 9)]
    runs(model("(float[4,6] x, float[6] s, float top) => (float[6] y)", text), feeds, 1e-4)


def test_what_a_loop_carries_has_an_extent(parsed: Parsed) -> None:
    text = (
        ROWS
        + """ y = Loop (m, go, rows) <body = b (int64 i, bool c, float[n,6] a) => (bool c, float[n,6] a2) {
      u = Tanh(a) v = Neg(u) w = Abs(v) a2 = Sub(w, u) }>"""
    )
    with pytest.raises(CompileError) as caught:
        ipucc.compile(parsed(model("(float[4,6] x) => (float[n,6] y)", text)))
    assert [d.id for d in caught.value.diagnostics] == ["IPU0324"]
