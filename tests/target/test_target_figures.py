"""What the figures of the built-in machines say, held against published numbers."""

from pathlib import Path

import pytest

from ipucc.target import KINDS, list_targets, load_target, target_figures


@pytest.mark.parametrize(
    ("name", "dtype", "partials", "teraflops"),
    [
        ("gc2", "fp16", "fp16", 124.5),
        ("gc2", "fp32", "fp32", 31.1),
        ("gc200", "fp16", "fp16", 250.0),
        ("gc200", "fp32", "fp32", 62.5),
        ("bow", "fp16", "fp16", 348.6),
        ("bow", "fp32", "fp32", 87.1),
        ("c600", "fp16", "fp16", 280.0),
        ("c600", "fp8", "fp16", 560.0),
    ],
)
def test_peak_is_the_vendors(name, dtype, partials, teraflops):
    assert load_target(name).peak_flops(dtype, partials) == pytest.approx(teraflops * 1e12, rel=0.01)


def test_fp32_partials_halve_the_rate_of_wide_matrix_units_only():
    gc200, gc2 = load_target("gc200"), load_target("gc2")
    assert gc200.amp_macs_per_cycle("fp16", "fp16") == 64
    assert gc200.amp_macs_per_cycle("fp16", "fp32") == 32
    assert gc2.amp_macs_per_cycle("fp16", "fp16") == gc2.amp_macs_per_cycle("fp16", "fp32") == 32


@pytest.mark.parametrize(
    ("name", "dtype", "partials"),
    [("gc200", "fp8", "fp16"), ("c600", "fp8", "fp32"), ("gc200", "fp32", "fp16")],
)
def test_a_mode_that_the_machine_lacks_has_no_rate(name, dtype, partials):
    with pytest.raises(ValueError, match=f"{name} has no matrix unit for {dtype}"):
        load_target(name).amp_macs_per_cycle(dtype, partials)


def test_weights_of_one_pass_load_in_the_cycles_of_the_kernel_formula():
    gc200 = load_target("gc200")
    assert gc200.amp_input_channels("fp16") == 16
    assert gc200.amp_weight_cycles("fp16", "fp16") == 32  # 512 bytes, 128 bits a cycle
    assert gc200.amp_weight_cycles("fp32", "fp32") == 64  # 512 bytes, 64 bits a cycle
    assert load_target("c600").amp_input_channels("fp8") == 32


def test_memory_of_the_chips_is_the_published_size():
    assert load_target("gc2").memory_bytes == 304 * 2**20
    assert load_target("gc200").memory_bytes == pytest.approx(897 * 2**20, rel=1e-3)


@pytest.mark.parametrize("name", list_targets())
def test_regions_fill_the_tile_and_leave_room(name):
    target = load_target(name)
    assert target.executable_bytes + target.interleaved_bytes == target.tile_bytes
    assert 0 < target.reserved_bytes < target.executable_bytes
    assert target.usable_bytes == target.tile_bytes - target.reserved_bytes


@pytest.mark.parametrize("name", list_targets())
def test_every_figure_says_where_it_comes_from(name):
    figures = target_figures(name)
    assert len(figures) == len({figure.key for figure in figures})
    for figure in figures:
        assert figure.kind in KINDS
        assert len(figure.source) > 20, figure
        assert figure.unit
        assert getattr(load_target(name), figure.key.split(".")[0]) is not None


def test_time_follows_the_clock():
    gc200, bow = load_target("gc200"), load_target("bow")
    assert gc200.cycles_to_seconds(1_325_000) == pytest.approx(1e-3)
    assert bow.cycles_to_seconds(1_850_000) == pytest.approx(1e-3)
    assert gc200.host_bytes_per_cycle * gc200.clock_hz == pytest.approx(gc200.host_bytes_per_second)


def test_the_documentation_gives_the_figures_of_the_machine_files():
    page = (Path(__file__).parents[2] / "docs" / "targets.md").read_text()
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| `")]
    shown = {cells[0].strip(" `"): [cell.strip() for cell in cells[1:]] for cells in rows if len(cells) == 6}
    given = {
        key: [unit, *values]
        for (key, unit), values in zip(
            [(figure.key, figure.unit) for figure in target_figures("gc200")],
            zip(*([figure.value for figure in target_figures(name)] for name in list_targets()), strict=True),
            strict=True,
        )
    }
    assert {key: [cells[0], *map(float, cells[1:])] for key, cells in shown.items()} == given
