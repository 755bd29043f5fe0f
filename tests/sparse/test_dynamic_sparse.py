"""Block-sparse products whose pattern is an input, end to end: numbers, patterns set on a program, overflow."""

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import helper

import ipucc
from ipucc.program.model import Compute, Repeat
from ipucc.sparsity import Buckets

TYPES = {"float32": 1, "float16": 10}
LIMITS = {"float32": 1e-4, "float16": 2e-2}


def product(buckets: Buckets, m: int, dtype: str = "float32", kind: str = "forward") -> onnx.ModelProto:
    """One product: `forward`, `transposed`, or `sampled`."""
    (k, n), size = buckets.shape, (*buckets.grid, buckets.capacity)
    attrs = {"shape": buckets.shape, "block": buckets.block, "cell": buckets.cell, "reach": buckets.reach}
    value = helper.make_tensor_value_info
    values = value("w.values", TYPES[dtype], (*size, *buckets.block))
    places = value("w.places", onnx.TensorProto.INT16, (*size, 2))
    if kind == "sampled":
        node = helper.make_node("SampledMatMul", ["x", "g", "w.places"], ["y"], "fc", domain="ipucc", **attrs)
        inputs = [value("x", TYPES[dtype], (m, k)), value("g", TYPES[dtype], (m, n)), places]
        output = value("y", TYPES[dtype], (*size, *buckets.block))
    else:
        turned = kind == "transposed"
        node = helper.make_node(
            "DynamicSparseMatMul", ["x", "w.values", "w.places"], ["y"], "fc", domain="ipucc", expr="x",
            transposed=int(turned), **attrs,
        )  # fmt: skip
        inputs = [value("x", TYPES[dtype], (m, n if turned else k)), values, places]
        output = value("y", TYPES[dtype], (m, k if turned else n))
    graph = helper.make_graph([node], "product", inputs, [output])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ipucc", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def pattern(buckets: Buckets, share: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A random mask that fits, a weight, and the weight under the mask."""
    rng = np.random.default_rng(seed)
    mask = buckets.capped(rng.random(buckets.blocks) < share, rng.random(buckets.blocks))
    weight = (rng.standard_normal(buckets.shape) / np.sqrt(buckets.shape[0])).astype(np.float32)
    k, n = buckets.shape
    return mask, weight, weight * np.kron(mask, np.ones(buckets.block))[:k, :n].astype(np.float32)


def close(got: np.ndarray, want: np.ndarray, dtype: str) -> bool:
    return bool(np.abs(got - want).max() <= LIMITS[dtype] * np.abs(want).max())


FORMS = [
    (Buckets((64, 96), (16, 16), (2, 2), 3), 24),
    (Buckets((70, 50), (16, 16), (2, 2), 2, 2), 33),
    (Buckets((70, 50), (8, 8), (3, 2), 4, 2), 33),
    (Buckets((40, 200), (4, 4), (4, 16), 20, 2), 7),
    (Buckets((40, 72), (16, 8), (2, 3), 3), 12),
    (Buckets((37, 45), (1, 1), (10, 9), 20, 2), 13),
    (Buckets((64, 48), (1, 1), (16, 16), 64), 16),
]
NAMES = ["16", "16-uneven", "8-uneven", "4-wide", "16x8", "1-uneven", "1"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", ["forward", "transposed"])
@pytest.mark.parametrize(("buckets", "m"), FORMS, ids=NAMES)
def test_numbers_of_ten_random_patterns(buckets, m, kind, dtype):
    exe = ipucc.compile(product(buckets, m, dtype, kind), solver="greedy")
    for seed in range(10):
        mask, weight, kept = pattern(buckets, 0.1 + seed * 0.1, seed)
        exe.set_pattern("w", mask, weight)
        kept = kept.astype(dtype).astype(np.float32)
        w = kept.T if kind == "transposed" else kept
        x = np.random.default_rng(seed).standard_normal((m, w.shape[0])).astype(dtype)
        result = exe.run({"x": x}, checked=seed == 0)
        assert close(result.outputs["y"], x.astype(np.float32) @ w, dtype)
        assert result.cycles == exe.cycles


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("buckets", "m"), FORMS, ids=NAMES)
def test_sampled_products_at_ten_random_patterns(buckets, m, dtype):
    exe = ipucc.compile(product(buckets, m, dtype, "sampled"), solver="greedy")
    for seed in range(10):
        mask, weight, _ = pattern(buckets, 0.1 + seed * 0.1, seed)
        rng = np.random.default_rng(seed)
        x, g = (rng.standard_normal((m, n)).astype(dtype) for n in buckets.shape)
        places = buckets.encode(mask, weight).places
        got = exe.run({"x": x, "g": g, "w.places": places}).outputs["y"]
        want = buckets.encode(mask, x.astype(np.float32).T @ g.astype(np.float32)).values
        assert close(got, want, dtype)
        assert (got[places[..., 0] < 0] == 0).all()


@pytest.mark.parametrize("kind", ["forward", "transposed", "sampled"])
def test_a_model_in_fp32_runs_in_fp16(kind):
    buckets = Buckets((40, 48), (8, 8), (2, 3), 4, 2)
    exe = ipucc.compile(product(buckets, 10, "float32", kind), precision="fp16", solver="greedy")
    mask, weight, kept = pattern(buckets, 0.5, 0)
    rng = np.random.default_rng(0)
    inputs = {name: rng.standard_normal(shape).astype(kind_) for name, kind_, shape in exe.inputs if name in "xg"}
    if kind == "sampled":
        inputs["w.places"] = buckets.encode(mask, weight).places
        want = buckets.encode(mask, inputs["x"].T @ inputs["g"]).values
    else:
        exe.set_pattern("w", mask, weight)
        want = inputs["x"] @ (kept.T if kind == "transposed" else kept)
    got = exe.run(inputs).outputs["y"]
    assert got.dtype == np.float32
    assert close(got, want, "float16")


def test_equal_layers_become_a_loop_with_patterns_of_their_own():
    weights = [np.random.default_rng(i).standard_normal((96, 96)).astype(np.float32) / 7 for i in range(8)]
    nodes = []
    for i in range(8):
        nodes.append(helper.make_node("MatMul", [f"h{i}", f"w{i}"], [f"p{i}"], f"fc{i}"))
        nodes.append(helper.make_node("Relu", [f"p{i}"], [f"h{i + 1}"]))
    ends = [helper.make_tensor_value_info(name, 1, [24, 96]) for name in ("h0", "h8")]
    held = [onnx.numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)]
    graph = helper.make_graph(nodes, "layers", ends[:1], ends[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    exe = ipucc.compile(model, passes="clean-up,fuse,dynamic-sparse{block=8,density=0.4}", solver="greedy")
    assert any(isinstance(s, Repeat) for s in exe.program.steps)
    rng = np.random.default_rng(0)
    x = h = rng.standard_normal((24, 96)).astype(np.float32)
    for i, w in enumerate(weights):
        mask = rng.random((12, 12)) < 0.35
        exe.set_pattern(f"w{i}", mask, w)
        h = np.maximum(h @ (w * np.kron(mask, np.ones((8, 8)))), 0)
    assert close(exe.run({"h0": x}).outputs["h8"], h, "float32")


def test_a_long_contraction_of_a_sampled_product_is_cut_and_added_up():
    buckets = Buckets((32, 32), (16, 16), (2, 2), 3)
    exe = ipucc.compile(product(buckets, 600, "float16", "sampled"), solver="greedy")
    assert sum(isinstance(s, Compute) for s in exe.program.steps) > 1
    mask, weight, _ = pattern(buckets, 0.7, 0)
    x, g = (np.random.default_rng(n).standard_normal((600, 32)).astype(np.float16) for n in (1, 2))
    got = exe.run({"x": x, "g": g, "w.places": buckets.encode(mask, weight).places}).outputs["y"]
    want = buckets.encode(mask, x.astype(np.float32).T @ g.astype(np.float32)).values
    assert close(got, want, "float16")


def test_a_hundred_patterns_through_one_program(monkeypatch):
    buckets, m = Buckets((96, 128), (8, 8), (4, 4), 6, 2), 16
    exe = ipucc.compile(product(buckets, m), solver="greedy")
    alone = ipucc.compile(product(Buckets((96, 128), (8, 8), (4, 4), 6), m), solver="greedy")
    monkeypatch.setattr("ipucc.compiler.compile_model", lambda *_, **__: pytest.fail("compiled again"))
    steps, cycles = list(exe.program.steps), exe.cycles
    x = np.random.default_rng(0).standard_normal((m, 96)).astype(np.float32)
    rng, spilled, refused = np.random.default_rng(1), [], 0
    while len(spilled) < 100:
        mask = rng.random(buckets.blocks) < rng.uniform(0.05, 0.33)
        weight = rng.standard_normal(buckets.shape).astype(np.float32)
        if not buckets.fits(mask):
            with pytest.raises(ipucc.CompileError, match="beyond capacity") as failure:
                exe.set_pattern("w", mask, weight)
            assert failure.value.diagnostics[0].id == "IPU0623"
            refused += 1
            continue
        report = exe.set_pattern("w", mask, weight)
        assert (report.blocks, report.slots) == (mask.sum(), 12 * 6 * 1)
        assert report.fullest <= report.capacity == 6
        assert (report.spilled > 0) == (buckets.counts(mask).max() > 6)
        spilled.append(report.spilled)
        result = exe.run({"x": x})
        want = x @ (weight * np.kron(mask, np.ones((8, 8))).astype(np.float32))
        assert close(result.outputs["y"], want, "float32")
        assert result.cycles == cycles
    assert np.count_nonzero(spilled) > 10
    assert refused > 0
    assert all(a is b for a, b in zip(exe.program.steps, steps, strict=True))
    # What overflow costs is part of every run: the partials of the next group's columns.
    assert 0 < cycles.total - alone.cycles.total < 0.3 * alone.cycles.total


def test_a_mask_capped_to_the_buckets_needs_no_reach():
    buckets = Buckets((64, 64), (8, 8), (4, 4), 4)
    exe = ipucc.compile(product(buckets, 8), solver="greedy")
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 64)).astype(np.float32)
    full = np.ones((8, 8), bool)
    kept = buckets.capped(full, np.abs(weight).reshape(8, 8, 8, 8).sum(axis=(1, 3)))
    assert exe.set_pattern("w", kept, weight).to_json() == {
        "name": "w", "blocks": 16, "slots": 16, "fullest": 4, "capacity": 4, "spilled": 0,
    }  # fmt: skip


@pytest.fixture(scope="module")
def small() -> ipucc.Executable:
    return ipucc.compile(product(Buckets((20, 12), (4, 4), (3, 2), 5), 4), solver="greedy")


def run(exe: ipucc.Executable, inputs: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
    return exe.run({"x": np.eye(4, 20, dtype=np.float32), **(inputs or {})}).outputs["y"]


def test_masks_and_values_in_every_form_mean_the_same(small):
    weight = np.arange(240, dtype=np.float64).reshape(20, 12) + 1
    mask = np.zeros((5, 3), bool)
    mask[0, 1] = mask[0, 2] = mask[4, 0] = True
    small.set_pattern("w", mask, weight)
    want = np.zeros((4, 12))
    want[:, 4:] = weight[:4, 4:]
    assert (run(small) == want).all()
    blocks = np.stack([weight[:4, 4:8], weight[:4, 8:], weight[16:, :4]])
    small.set_pattern("w", mask.astype(int), blocks)
    assert (run(small) == want).all()
    elements = np.kron(mask, np.ones((4, 4)))
    elements[1, 5] = 0
    want[1, 5] = 0
    small.set_pattern("w", elements, weight)
    assert (run(small) == want).all()


def test_a_pattern_stays_until_it_is_set_again(small, tmp_path):
    weight = np.ones((20, 12), np.float32)
    mask = np.zeros((5, 3), bool)
    mask[0, 0] = True
    small.set_pattern("w", mask, weight)
    before = run(small)
    for name, wrong in (
        ("v", (mask, weight)), ("w", (np.ones((5, 3)), weight)), ("w", (mask[:4], weight)), ("w", (mask, weight[:3])),
        ("w", (mask * 2, weight)), ("w", (mask, weight > 0)),
    ):  # fmt: skip
        with pytest.raises(ipucc.CompileError):
            small.set_pattern(name, *wrong)
    assert (run(small) == before).all()
    # Inputs that are given count for one run.
    given = {"w.values": np.zeros((2, 2, 5, 4, 4), np.float32)}
    assert (run(small, given) == 0).all()
    assert (run(small) == before).all()
    small.save(tmp_path / "a.ipux")
    again = ipucc.load(tmp_path / "a.ipux")
    assert again.patterns == ("w",)
    assert (run(again) == before).all()
    mask[0, 1] = True
    again.set_pattern("w", mask, weight)
    assert run(again).sum() == 2 * before.sum()
    assert again.cycles == small.cycles


@pytest.mark.parametrize(
    ("name", "mask", "values", "id", "text"),
    [
        ("ww", np.ones((5, 3)), np.ones((20, 12)), "IPU0621", "did you mean 'w'"),
        ("other", np.ones((5, 3)), np.ones((20, 12)), "IPU0621", "the patterns are: w"),
        ("w", np.ones((4, 3)), np.ones((20, 12)), "IPU0622", r"the mask has the shape \[4, 3\]"),
        ("w", np.full((5, 3), 0.5), np.ones((20, 12)), "IPU0622", "numbers 0 and 1"),
        ("w", np.eye(5, 3), np.ones((2, 4, 4)), "IPU0622", r"of the 3 blocks of the mask, \[3, 4, 4\]"),
        ("w", np.eye(5, 3), np.full((20, 12), "a"), "IPU0622", "not numbers"),
        ("w", np.ones((5, 3)), np.ones((20, 12)), "IPU0623", "15 blocks in all, 20 slots in 2 x 2 buckets of 5"),
    ],
)
def test_what_is_wrong_with_a_pattern_is_told(small, name, mask, values, id, text):
    with pytest.raises(ipucc.CompileError, match=text) as failure:
        small.set_pattern(name, mask, values)
    assert failure.value.diagnostics[0].id == id


def test_a_program_without_a_pattern_asks_for_it():
    exe = ipucc.compile(product(Buckets((8, 8), (4, 4), (2, 2), 2), 4), solver="greedy")
    with pytest.raises(ipucc.CompileError, match=r"2 inputs have no values\n.* w\.values: float32 \[1, 1, 2, 4, 4\]"):
        exe.run({"x": np.zeros((4, 8), np.float32)})
    assert exe.run(timing_only=True).cycles == exe.cycles


def test_a_pattern_of_constants_is_a_weight():
    buckets = Buckets((16, 16), (4, 4), (2, 2), 3)
    model = product(buckets, 4)
    mask, weight, kept = pattern(buckets, 0.4, 0)
    made = buckets.encode(mask, weight)
    for name, array in (("w.values", made.values), ("w.places", made.places)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    exe = ipucc.compile(model, solver="greedy")
    assert exe.patterns == ()
    x = np.eye(4, 16, dtype=np.float32)
    assert close(exe.run({"x": x}).outputs["y"], x @ kept, "float32")


def test_a_file_whose_pattern_has_another_shape_is_refused(tmp_path):
    exe = ipucc.compile(product(Buckets((8, 8), (4, 4), (2, 2), 2), 4), solver="greedy")
    exe.program.weights["w.values"] = np.zeros((1, 1, 2, 4, 3), np.float32)
    exe.save(tmp_path / "a.ipux")
    with pytest.raises(ipucc.CompileError, match=r"its value has the shape \(1, 1, 2, 4, 3\)"):
        ipucc.load(tmp_path / "a.ipux")
