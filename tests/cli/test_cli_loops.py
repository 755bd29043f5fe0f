"""What the verbs say and write of a model that is a loop of the program."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper, parser

TEXT = """<ir_version: 10, opset_import: ["": 20]>
g (float[4,32] x, float[4,32] s) => (float[4,32] y) {
  m = Constant<value: tensor = int64 {50}>()  go = Constant<value: tensor = bool {1}>()
  first = MatMul(x, w)
  y = Loop (m, go, s) <body = b (int64 i, bool c, float[4,32] a) => (bool c, float[4,32] a2) {
    product = MatMul(a, w)  sum = Add(product, first)  a2 = Tanh(sum)
  }>
}"""


@pytest.fixture(scope="module")
def looped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = parser.parse_model(TEXT)
    weights = (np.random.default_rng(0).standard_normal((32, 32)) / 8).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    path = tmp_path_factory.mktemp("loop") / "loop.onnx"
    onnx.save(model, path)
    return path


def test_opt_writes_the_parts_in_one_model(ipucc, looped, tmp_path):
    done = ipucc("opt", looped, "--passes", "clean-up,fuse", "-o", tmp_path / "m.onnx")
    assert done.exit_code == 0, done.output
    onnx.checker.check_model(onnx.load(tmp_path / "m.onnx"), full_check=True)
    rng = np.random.default_rng(1)
    feeds = {name: rng.standard_normal((4, 32), np.float32) for name in "xs"}
    results = [onnxruntime.InferenceSession(path).run(None, feeds)[0] for path in (looped, tmp_path / "m.onnx")]
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)


def test_the_graph_is_that_of_all_parts(ipucc, looped):
    done = ipucc("compile", looped, "--emit", "graph")
    assert done.exit_code == 0, done.output
    for op in ("Loop <body: graph", 'expr = "Tanh(Add(x, a0))"', "MatMul"):
        assert op in done.stdout


def test_explain_looks_into_all_parts(ipucc, looped, machine_file, document):
    options = ("--target", machine_file(tiles=16), "--effort", "fast", "--json")
    done = ipucc("compile", looped, *options, "--explain", "product", "--explain", "first")
    assert done.exit_code == 0, done.output
    assert sorted(e["op"] for e in document(done)["explain"]) == ["first", "product"]
    wrong = ipucc("compile", looped, *options, "--explain", "product", "--explain", "nothing")
    assert wrong.exit_code == 1
    assert "IPU0615" in wrong.stderr


def test_a_sweep_compiles_loops(ipucc, looped, machine_file, document):
    options = ("--target", machine_file(tiles=16), "--effort", "fast", "--jobs", "1", "--json")
    done = ipucc("sweep", looped, "--block", "8", "--density", "0.25", *options)
    assert done.exit_code == 0, done.output
    dense, sparse = document(done)["rows"]
    assert (dense["layers"], sparse["layers"]) == (0, 2)
    assert dense["flops"] == sparse["flops"] > sparse["sparse_flops"] > 0
    # 50 trips of the same step, and what comes before.
    assert dense["flops"] == 51 * 2 * 4 * 32 * 32
