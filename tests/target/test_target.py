"""Several linked chips as one target."""

from dataclasses import replace

import pytest

from ipucc.diagnostics import CompileError
from ipucc.target import dump_target, load_target, parse_target, target_figures


def test_a_name_stands_for_several_linked_chips():
    one, two = load_target("gc2"), load_target("gc2x2")
    assert (two.name, two.ipus, two.tiles, two.tiles_per_ipu) == ("gc2x2", 2, 2432, 1216)
    assert replace(two, name="gc2", ipus=1, tiles=1216) == one
    assert two.peak_flops("fp16", "fp16") == 2 * one.peak_flops("fp16", "fp16")
    assert parse_target(dump_target(two), "p.ipux") == two


def test_the_figures_of_several_chips_say_where_they_come_from():
    figures = {f.key: f for f in target_figures("c600x4")}
    assert figures["ipus"].value == 4
    assert figures["tiles"].value == 4 * 1472
    assert figures["tiles"].source.startswith("of 4 chips; of one: ")


@pytest.mark.parametrize("name", ["gc200x0", "gc200x", "mk3x2", "gc200x02"])
def test_a_wrong_number_of_chips_is_no_target(name):
    with pytest.raises(CompileError, match="IPU0701"):
        load_target(name)


def test_tiles_that_cannot_be_shared_out_are_refused(tmp_path):
    path = tmp_path / "odd.toml"
    path.write_text('base = "gc200"\nipus = 3\n')
    with pytest.raises(CompileError, match="not shared out evenly"):
        load_target(path)


def test_a_model_is_not_placed_on_several_chips():
    import onnx
    from onnx import parser

    import ipucc

    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (float[4] x) => (float[4] y) { y = Relu(x) }'
    )
    onnx.checker.check_model(model)
    with pytest.raises(CompileError, match="IPU0706"):
        ipucc.compile(model, target="gc200x2")
