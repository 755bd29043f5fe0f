"""Machine files of the user's: inheritance, and every way to get one wrong."""

import json
from pathlib import Path

import pytest

from ipucc.diagnostics import CompileError
from ipucc.target import dump_target, list_targets, load_target, parse_target, target_figures


@pytest.fixture
def write(tmp_path):
    def _write(text: str, name: str = "mine.toml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return _write


def problems(path) -> list[tuple[str, str]]:
    with pytest.raises(CompileError) as caught:
        load_target(path)
    return [(problem.id, problem.message) for problem in caught.value.diagnostics]


def test_a_file_overrides_the_figures_of_its_base(write):
    path = write('base = "gc200"\ntiles = 64\n[amp]\nunits_f16 = 8\n')
    mine, base = load_target(path), load_target("gc200")
    assert (mine.name, mine.tiles, mine.amp.units_f16) == ("mine", 64, 8)
    assert (mine.tile_bytes, mine.amp.units_f32) == (base.tile_bytes, base.amp.units_f32)
    figure = next(figure for figure in target_figures(path) if figure.key == "tiles")
    assert (figure.kind, figure.source, figure.unit) == ("assumed", str(path), "tiles")


def test_a_base_may_be_a_file_beside_the_file(write):
    write('base = "bow"\ntiles = 8\n', "small.toml")
    path = write('base = "small.toml"\nname = "smaller"\nworkers = 3\n')
    target = load_target(path)
    assert (target.name, target.tiles, target.workers) == ("smaller", 8, 3)
    assert target.clock_hz == load_target("bow").clock_hz


def test_a_whole_file_needs_no_base(write):
    lines = ['name = "copy"']
    for figure in target_figures("c600"):
        lines.append(
            f"{figure.key} = {{value = {figure.value!r}, unit = {figure.unit!r}, "
            f"kind = {figure.kind!r}, source = {json.dumps(figure.source)}}}"
        )
    copy = load_target(write("\n".join(lines)))
    assert dump_target(copy) == dump_target(load_target("c600")) | {"name": "copy", "description": ""}


def test_all_problems_of_a_file_are_reported_at_once(write):
    path = write(
        'base = "gc200"\nclok_hz = 1\ntiles = 0\nworkers = 2.5\nexchange_factor = "much"\nphase_cycles = true\n'
        'clock_hz = {value = 1325, unit = "MHz"}\nlaunch_cycles = {value = 11, kind = "guessed"}\n'
        "fragment_cycles = {vlue = 3}\nmax_send_words = {unit = 'words'}\n[amp]\nunits_f64 = 4\n"
    )
    found = problems(path)
    assert [id for id, _ in found] == ["IPU0705", *["IPU0704"] * 6, "IPU0705", "IPU0704", "IPU0705"]
    words = ["clok_hz", "outside", "whole", "'much'", "True", "'Hz'", "guessed", "vlue", "no value", "f64"]
    for word, (_, message) in zip(words, found, strict=True):
        assert word in message


@pytest.mark.parametrize(
    "figure",
    [
        "tiles = 65537",
        "tiles = -1",
        "clock_hz = nan",
        "clock_hz = inf",
        "tile_bytes = 99999999999999999999",
        "tiles = []",
        "tiles = {value = {value = 1}}",
        'tiles = {value = 3, source = ""}',
        "amp = 3",
        "name = 3",
        'name = ""',
        'description = "two\\nlines"',
    ],
)
def test_absurd_values_are_refused(write, figure):
    assert [id for id, _ in problems(write(f'base = "gc200"\n{figure}\n'))] == ["IPU0704"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("tile_bytes = 65536", "together exceed tile_bytes"),
        ("reserved_bytes = 212992", "use up"),
        ("tile_bytes = 638977", "multiple of 16"),
        ("vector_bytes = 12", "power of two"),
        ("pair_bytes_per_cycle = 2", "must not be below"),
    ],
)
def test_figures_that_contradict_each_other_are_refused(write, text, word):
    ((id, message),) = problems(write(f'base = "gc200"\n{text}\n'))
    assert id == "IPU0704"
    assert word in message


def test_without_a_base_every_figure_must_be_a_table_and_be_there(write):
    ((id, message),) = problems(write("tiles = 64\n"))
    assert (id, message) == ("IPU0704", "'tiles': a figure is a table")
    found = problems(write("tiles = {value = 64}\n"))
    assert {id for id, _ in found} == {"IPU0703"}
    assert "'amp.units_f16' is missing" in [message for _, message in found]


def test_unreadable_files(write, tmp_path):
    assert problems(tmp_path / "none.toml")[0][0] == "IPU0702"
    assert problems(tmp_path)[0][0] == "IPU0702"
    assert problems(write("tiles = ")) == [
        ("IPU0702", "the machine file is not TOML: Invalid value (at end of document)")
    ]
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    assert problems(tmp_path / "binary.toml")[0][0] == "IPU0702"
    assert problems(write("#" * (2 << 20)))[0] == ("IPU0702", "a machine file is smaller than 1 MiB")
    assert problems(write('base = "mine.toml"'))[0] == (
        "IPU0702",
        "more than 8 machine files build on each other",
    )
    assert problems(write("base = 3"))[0][0] == "IPU0704"
    assert problems(write('base = "gc9"'))[0][0] == "IPU0701"


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(CompileError) as caught:
        load_target("gc20")
    (problem,) = caught.value.diagnostics
    assert problem.id == "IPU0701"
    assert "did you mean 'gc200'?" in problem.help


def test_a_dumped_target_survives_json():
    for name in list_targets():
        target = load_target(name)
        again = parse_target(json.loads(json.dumps(dump_target(target))), "program")
        assert again == target
        assert again.digest() == target.digest()


def test_a_tampered_dump_is_refused():
    good = dump_target(load_target("gc200"))
    for change, id in [
        ({"tiles": 0}, "IPU0704"),
        ({"tiles": "many"}, "IPU0704"),
        ({"spare": 1}, "IPU0705"),
        ({"amp": {}}, "IPU0703"),
        ({"base": "gc2"}, "IPU0705"),
    ]:
        with pytest.raises(CompileError) as caught:
            parse_target(good | change, "program")
        assert caught.value.diagnostics[0].id == id


def test_the_digest_tells_machines_apart(write):
    digests = {load_target(name).digest() for name in list_targets()}
    assert len(digests) == len(list_targets())
    assert load_target("bow").digest() == load_target("bow").digest()
    same = load_target(write('base = "gc200"\nname = "gc200"\ndescription = "the same"\n'))
    assert same.digest() == load_target("gc200").digest()
    assert same == load_target("gc200")
    other = load_target(write('base = "gc200"\nname = "gc200"\nphase_cycles = 381\n'))
    assert other.digest() != load_target("gc200").digest()
