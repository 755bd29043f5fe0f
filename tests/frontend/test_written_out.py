"""Ops that the import writes in others give onnxruntime's numbers, through compiled programs."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

import ipucc
from ipucc.diagnostics import CompileError
from ipucc.frontend import load_model
from ipucc.graph.schemas import oracle_model

RNG = np.random.default_rng(11)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def model_of(op, feeds, outputs=1, consts=None, opset=22, **attributes):
    """A model of one node; operands in the order of `feeds` and then `consts`, initializers."""
    kind = helper.np_dtype_to_tensor_dtype
    inputs = [helper.make_tensor_value_info(name, kind(a.dtype), a.shape) for name, a in feeds.items()]
    weights = [onnx.numpy_helper.from_array(a, name) for name, a in (consts or {}).items()]
    names = [f"y{i}" for i in range(outputs)]
    given = [*feeds, *(consts or {})]
    bare = [onnx.ValueInfoProto(name=name) for name in names]
    graph = helper.make_graph([helper.make_node(op, given, names, **attributes)], "g", inputs, bare, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def assert_like_onnxruntime(machine_file, model, feeds, tolerance=1e-5):
    wanted = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
    exe = ipucc.compile(model, target=str(machine_file(tiles=6)), solver="greedy", effort="fast")
    got = exe.run(feeds).outputs
    for value, expected in zip(model.graph.output, wanted, strict=True):
        assert got[value.name].dtype == expected.dtype
        np.testing.assert_allclose(got[value.name], expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("form", "masked"),
    [
        ({"pads": [1, 0, 1, 2], "strides": [2, 1], "group": 2, "offset_group": 1}, False),
        ({"dilations": [2, 1], "group": 1, "offset_group": 2}, True),
    ],
)
def test_deform_conv(machine_file, form, masked):
    x, w = floats(2, 4, 7, 6), floats(6, 4 // form["group"], 3, 2)
    pads, strides = form.get("pads", [0] * 4), form.get("strides", [1, 1])
    reach = [(k - 1) * d for k, d in zip((3, 2), form.get("dilations", [1, 1]), strict=True)]
    out = [(n + pads[d] + pads[d + 2] - reach[d] - 1) // strides[d] + 1 for d, n in enumerate((7, 6))]
    taps = 6 * form["offset_group"]
    feeds = {"x": x, "w": w, "offset": 2 * floats(2, 2 * taps, *out), "b": floats(6)}
    feeds |= {"mask": floats(2, taps, *out)} if masked else {}
    assert_like_onnxruntime(machine_file, model_of("DeformConv", feeds, **form), feeds, 1e-4)


@pytest.mark.parametrize(("mode", "form"), [("avg", "half_pixel"), ("max", "output_half_pixel")])
def test_roi_align(machine_file, mode, form):
    corner = RNG.uniform(-4, 14, (5, 2))
    rois = np.concatenate([corner, corner + RNG.uniform(0.2, 9, (5, 2))], axis=1).astype(np.float32)
    feeds = {"x": floats(2, 3, 9, 8), "rois": rois, "batches": np.array([0, 1, 1, 0, 1])}
    model = model_of(
        "RoiAlign", feeds, opset=16, mode=mode, output_height=3, output_width=2, sampling_ratio=2, spatial_scale=0.75,
        coordinate_transformation_mode=form,
    )  # fmt: skip
    assert_like_onnxruntime(machine_file, model, feeds)


def test_samples_whose_number_depends_on_data_are_refused():
    feeds = {"x": floats(1, 3, 9, 8), "rois": floats(2, 4), "batches": np.array([0, 0])}
    with pytest.raises(CompileError, match="the number of samples depends on data"):
        ipucc.compile(model_of("RoiAlign", feeds))


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("sizes", [(5, 4), (3, 4, 2)])
def test_affine_grid(machine_file, corners, sizes):
    feeds = {"theta": floats(2, len(sizes), len(sizes) + 1)}
    size = {"size": np.array([2, 3, *sizes])}
    assert_like_onnxruntime(machine_file, model_of("AffineGrid", feeds, consts=size, align_corners=corners), feeds)


@pytest.mark.parametrize(
    "form", [{}, {"strides": [2, 3]}, {"dilations": [1, 2], "pads": [1, 0, 2, 1], "strides": [2, 1]}]
)
def test_col2im(machine_file, form):
    image, block, pads = (7, 8), (2, 3), form.get("pads", [0] * 4)
    steps = zip(image, block, form.get("strides", [1, 1]), form.get("dilations", [1, 1]), strict=True)
    places = [(n + pads[i] + pads[i + 2] - d * (k - 1) - 1) // s + 1 for i, (n, k, s, d) in enumerate(steps)]
    feeds = {"x": floats(2, 3 * 6, int(np.prod(places)))}
    consts = {"image": np.array(image), "block": np.array(block)}
    assert_like_onnxruntime(machine_file, model_of("Col2Im", feeds, consts=consts, **form), feeds)


@pytest.mark.parametrize(
    "form",
    [
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        {"kernel_shape": [3, 2], "pads": [1, 0, 2, 1], "strides": [2, 1], "ceil_mode": 1},
        {"kernel_shape": [2, 2], "dilations": [2, 3], "storage_order": 1},
        {"kernel_shape": [3, 3], "auto_pad": "SAME_LOWER", "strides": [2, 2]},
    ],
)
def test_positions_of_maxima(machine_file, form):
    # Equal elements: the first counts.
    feeds = {"x": RNG.integers(-3, 3, (2, 3, 7, 8)).astype(np.float32)}
    assert_like_onnxruntime(machine_file, model_of("MaxPool", feeds, 2, **form), feeds)


def test_maxima_go_back_to_their_places(machine_file):
    x = floats(2, 3, 6, 8)
    pool, back = {"kernel_shape": [2, 2], "strides": [2, 2]}, {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        helper.make_node("MaxPool", ["x"], ["m", "i"], **pool),
        helper.make_node("MaxUnpool", ["m", "i"], ["y"], **back),
    ]
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, x.shape) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    assert_like_onnxruntime(machine_file, model, {"x": x})


@pytest.mark.parametrize("center", [0, 1])
def test_selection_of_boxes(machine_file, center):
    place, size = RNG.uniform(0, 10, (2, 30, 2)), RNG.uniform(0.5, 6, (2, 30, 2))
    boxes = np.concatenate([place, size if center else place + size], axis=2).astype(np.float32)
    scores = RNG.integers(0, 12, (2, 3, 30)).astype(np.float32) / 12  # some are equal
    feeds = {"boxes": boxes, "scores": scores}
    consts = {"most": np.array([7]), "iou": np.array([0.3], np.float32), "least": np.array([0.25], np.float32)}
    model = model_of("NonMaxSuppression", feeds, consts=consts, center_point_box=center)
    assert_like_onnxruntime(machine_file, model, feeds)
    # The body of the op that it becomes says the same in ONNX's own.
    imported = load_model(model)
    names = [str(value.name) for value in imported.graph.outputs]
    proto = oracle_model(imported)
    rows, count = onnxruntime.InferenceSession(proto.SerializeToString()).run(names, feeds)
    wanted = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)[0]
    np.testing.assert_array_equal(rows[: int(count)], wanted)


def test_thresholds_of_boxes_may_come_from_data(machine_file):
    feeds = {"boxes": np.array([[[0, 0, 1, 1], [0, 0.1, 1, 1.1], [0, 3, 1, 4]]], np.float32),
             "scores": np.array([[[0.9, 0.8, 0.1]]], np.float32)}  # fmt: skip
    bare = model_of("NonMaxSuppression", feeds, consts={"most": np.array([3])})
    for name in ("iou", "least"):
        bare.graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]))
        bare.graph.node[0].input.append(name)
    exe = ipucc.compile(bare, target=str(machine_file(tiles=6)), solver="greedy", effort="fast")
    for iou, least, boxes in ((0.5, 0.0, [0, 2]), (0.9, 0.0, [0, 1, 2]), (0.5, 0.5, [0])):
        given = {"iou": np.array([iou], np.float32), "least": np.array([least], np.float32)}
        assert exe.run(feeds | given).outputs["y0"][:, 2].tolist() == boxes


def test_statistics_of_a_batch(machine_file):
    feeds = {"x": floats(4, 3, 5), "scale": floats(3), "b": floats(3), "mean": floats(3), "var": np.abs(floats(3))}
    model = model_of("BatchNormalization", feeds, 3, training_mode=1, momentum=0.7)
    exe = ipucc.compile(model, target=str(machine_file(tiles=6)), solver="greedy", effort="fast")
    got = exe.run(feeds).outputs
    mean, var = feeds["x"].mean((0, 2)), feeds["x"].var((0, 2))
    y = (feeds["x"] - mean[:, None]) / np.sqrt(var + 1e-5)[:, None] * feeds["scale"][:, None] + feeds["b"][:, None]
    for name, wanted in (("y0", y), ("y1", 0.7 * feeds["mean"] + 0.3 * mean), ("y2", 0.7 * feeds["var"] + 0.3 * var)):
        np.testing.assert_allclose(got[name], wanted, rtol=1e-5, atol=1e-5)


def test_determinants(machine_file):
    feeds = {"x": floats(3, 5, 4, 4)}
    exe = ipucc.compile(model_of("Det", feeds), target=str(machine_file(tiles=6)), solver="greedy", effort="fast")
    np.testing.assert_allclose(exe.run(feeds).outputs["y0"], np.linalg.det(feeds["x"]), rtol=1e-4, atol=1e-5)


def test_the_boxes_of_a_detector(machine_file):
    text = """<ir_version: 10, opset_import: ["": 20]>
        g (float[1,24,4] boxes, float[1,3,24] scores) => (float[?,4] kept, float[?] score, int64[?] kind)
        <int64[1] most = {5}, float[1] iou = {0.4}, float[1] least = {0.1}, int64 one = {1}, int64 two = {2},
         int64[1] first = {0}> {
          found = NonMaxSuppression (boxes, scores, most, iou, least)
          at = Gather<axis=1> (found, two)
          kind = Gather<axis=1> (found, one)
          all = Squeeze (boxes, first)
          kept = Gather (all, at)
          score = GatherND (scores, found) }"""
    place, size = RNG.uniform(0, 10, (1, 24, 2)), RNG.uniform(0.5, 6, (1, 24, 2))
    boxes = np.concatenate([place, place + size], axis=2).astype(np.float32)
    feeds = {"boxes": boxes, "scores": RNG.random((1, 3, 24), np.float32)}
    assert_like_onnxruntime(machine_file, onnx.parser.parse_model(text), feeds)


@pytest.mark.parametrize(("mode", "padding"), [("nearest", "reflection"), ("cubic", "border")])
def test_places_about_the_border(machine_file, mode, padding):
    """The nearest place is taken before it is mirrored; what lies before the border is interpolated."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 22]> g (float[1,1,8,1] x, float[1,6,1,2] grid) => (float[1,1,6,1] y) {{
            y = GridSample <align_corners = 0, mode = "{mode}", padding_mode = "{padding}"> (x, grid)
        }}"""
    )
    feeds = {"x": (np.arange(8, dtype=np.float32) % 3).reshape(1, 1, 8, 1)}
    feeds["grid"] = np.stack([np.zeros(6), [-1.25, -0.95, 0.1, 0.97, 1.2, 1.5]], 1).astype(np.float32)[None, :, None]
    got = ipucc.compile(model, target=str(machine_file(tiles=8)), solver="greedy", effort="fast").run(feeds)
    wanted = ReferenceEvaluator(model).run(None, feeds)[0]
    np.testing.assert_allclose(got.outputs["y"], wanted, rtol=1e-5, atol=1e-5)
