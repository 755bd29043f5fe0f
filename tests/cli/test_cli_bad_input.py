"""Bad input ends in a short error with an id and the right exit code, and leaves nothing behind."""

import io
import resource
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ipucc.program.file import load_program, save_program
from ipucc.program.model import Exchange

FLOAT = TensorProto.FLOAT


def tensor(name: str, shape, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def refused(result, code: int, *ids: str) -> str:
    """The error text of a command that gave this exit code and exactly these ids."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    found = [line.split("[")[1].split("]")[0] for line in result.stderr.splitlines() if line.startswith("error[")]
    assert sorted(set(found)) == sorted(ids), result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) < 30, "an error fits on a screen"
    return result.stderr


@pytest.fixture
def refuse(ipucc, tmp_path):
    """Compiles a file that cannot be compiled; no result and no draft of one may be left."""

    def compile_it(path: object, *ids: str, code: int = 1, options: tuple[str, ...] = ()) -> str:
        before = sorted(p.name for p in tmp_path.iterdir())
        text = refused(ipucc("compile", path, "-o", tmp_path / "out.ipux", *options), code, *ids)
        assert sorted(p.name for p in tmp_path.iterdir()) == before
        return text

    return compile_it


# Models


def test_a_truncated_model(refuse, mlp, tmp_path):
    data = Path(mlp).read_bytes()
    for size in (0, 40, len(data) // 2, len(data) - 3):
        (tmp_path / "m.onnx").write_bytes(data[:size])
        refuse(tmp_path / "m.onnx", "IPU0102")


def test_files_that_are_no_models(refuse, tmp_path, program):
    (tmp_path / "m.onnx").write_text("This is not a model.\n")
    assert "text" in refuse(tmp_path / "m.onnx", "IPU0102")
    assert "program" in refuse(program, "IPU0102")
    refuse(tmp_path / "absent.onnx", "IPU0101")
    refuse(tmp_path, "IPU0101")


def test_an_empty_graph(refuse, write):
    refuse(write([], [tensor("x", [2])], [tensor("y", [2])]), "IPU0103")


def test_a_cycle(refuse, write):
    nodes = [helper.make_node("Add", ["x", "b"], ["a"], name="one"), helper.make_node("Relu", ["a"], ["b"], name="two")]
    text = refuse(write(nodes, [tensor("x", [2])], [tensor("b", [2])]), "IPU0104")
    assert "one" in text


def test_all_unknown_ops_are_named_at_once(refuse, write, ipucc):
    nodes = [
        helper.make_node("Frobnicate", ["x"], ["a"], name="first", domain="acme"),
        helper.make_node("Relu", ["x"], ["b"], name="fine"),
        helper.make_node("Expand", ["b", "n"], ["c"], name="second"),
    ]
    inputs = [tensor("x", [4]), tensor("n", [2], TensorProto.INT64)]
    path = write(nodes, inputs, [tensor("a", [4]), tensor("c", ["k", 4])])
    text = refuse(path, "IPU0201", "IPU0206")
    assert "first" in text
    assert "second" in text
    assert "fine" not in text
    assert refused(ipucc("validate", path), 1, "IPU0201", "IPU0206").count("error[") == 2


def test_symbolic_dimensions_without_a_size(refuse, mlp):
    assert "--dim n=N" in refuse(mlp, "IPU0109")
    refuse(mlp, "IPU0110", options=("--dim", "n=4", "--dim", "m=4"))
    refuse(mlp, "IPU0111", options=("--input-shape", "x=4,31"))


def external(location: str) -> list:
    weight = numpy_helper.from_array(np.ones((300, 4), np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    return [[helper.make_node("MatMul", ["x", "w"], ["y"])], [tensor("x", [2, 300])], [tensor("y", [2, 4])], [weight]]


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "a/../../secret.bin"])
def test_external_weights_stay_in_the_folder(refuse, write, tmp_path, location):
    (tmp_path.parent / "secret.bin").write_bytes(bytes(4800))
    assert "outside" in refuse(write(*external(location)), "IPU0107")


def test_external_weights_that_are_too_short(refuse, write, tmp_path):
    (tmp_path / "w.bin").write_bytes(bytes(100))
    refuse(write(*external("w.bin")), "IPU0106")


def test_absent_external_weights_allow_timing_alone(ipucc, write, tmp_path):
    path, program = write(*external("w.bin")), tmp_path / "m.ipux"
    assert ipucc("compile", path, "-o", program).exit_code == 0
    assert ipucc("run", program, "--timing-only").exit_code == 0
    assert "'w'" in refused(ipucc("run", program, "--input", "x=ones"), 1, "IPU0510")


def test_weights_beyond_the_chip_are_refused_at_once(refuse, write):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    weight = helper.make_tensor("w", FLOAT, [1], [0.0])
    weight.dims[:] = [40000, 40000]
    weight.ClearField("float_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="absent.bin")
    path = write(nodes, [tensor("x", [1, 40000])], [tensor("y", [1, 40000])], [weight])
    assert "--precision fp16" in refuse(path, "IPU0401", code=3)


# Options


@pytest.mark.parametrize(
    ("options", "code", "id"),
    [
        (["--target", "gc201"], 1, "IPU0701"),
        (["--target", "absent.toml"], 1, "IPU0702"),
        (["--passes", "fuze"], 1, "IPU0302"),
        (["--passes", "fuse{"], 2, "IPU0301"),
        (["--passes", "sparsify{blok=4}"], 1, "IPU0303"),
        (["--passes", "fuse", "--block", "16"], 2, "IPU0308"),
        (["--passes", "fuse", "--mask", "m.npz"], 2, "IPU0308"),
        (["--mask", "m.npz", "--density", "0.5"], 2, "IPU0308"),
        (["--budget", "9000", "--density", "0.5"], 2, "IPU0308"),
        (["--budget", "9000", "--block", "16"], 2, "IPU0308"),
        (["--budget", "-5"], 1, "IPU0304"),
        (["--mask", "m.npz"], 1, "IPU0312"),
        (["--block", "16x8x4"], 2, "IPU0614"),
        (["--block", "5"], 1, "IPU0304"),
        (["--score", "wanda"], 1, "IPU0304"),
        (["--score", "wanda", "--calibrate", "c.npz"], 1, "IPU0605"),
        (["--load", "absent.py"], 1, "IPU0306"),
        (["--print-after", "fuze"], 1, "IPU0302"),
        (["--dim", "n"], 2, "IPU0614"),
        (["--dim", "n=four"], 2, "IPU0614"),
        (["--input-shape", "x=4;32"], 2, "IPU0606"),
        (["--input-shape", "x=4,32", "--input-shape", "x=5,32"], 2, "IPU0606"),
    ],
)
def test_wrong_options_of_compile(refuse, mlp, options, code, id):
    given = options if options[0] in ("--dim", "--input-shape") else ["--dim", "n=4", *options]
    refuse(mlp, id, code=code, options=tuple(given))


def test_misspelt_verbs_and_options_get_a_suggestion(ipucc, mlp):
    for arguments, hint in (
        (["compil", mlp], "Did you mean 'compile'"),
        (["compile", mlp, "--outptu", "x"], "Did you mean '--output'"),
        (["run", "m.ipux", "--time-only"], "Did you mean '--timing-only'"),
    ):
        done = ipucc(*arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert hint in done.stderr


@pytest.mark.parametrize(
    "arguments", [["compile"], ["compile", "m.onnx"], ["compile", "m.onnx", "--solver", "magic"], ["opt", "m.onnx"], []]
)
def test_incomplete_commands_are_syntax_errors(ipucc, arguments):
    assert ipucc(*arguments).exit_code == 2


def test_results_that_cannot_be_written(ipucc, mlp, program, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "absent" / "m.ipux", tmp_path / "file" / "m.ipux", tmp_path):
        refused(ipucc("compile", mlp, "--dim", "n=4", "-o", path), 1, "IPU0508")
        refused(ipucc("opt", mlp, "--dim", "n=4", "--passes", "", "-o", path), 1, "IPU0508")
        refused(ipucc("run", program, "--input", "x=ones", "--output", path), 1, "IPU0508")
        refused(ipucc("compile", mlp, "--dim", "n=4", "--emit", "graph", "-o", path), 1, "IPU0508")
    (tmp_path / "dumps").mkdir()
    (tmp_path / "dumps" / "mine.txt").write_text("keep me")
    done = ipucc("compile", mlp, "--dim", "n=4", "-o", tmp_path / "m.ipux", "--dump-ir", tmp_path / "dumps")
    refused(done, 1, "IPU0508")
    assert (tmp_path / "dumps" / "mine.txt").read_text() == "keep me"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dumps", "file"]


def test_a_failed_compilation_leaves_the_old_program_alone(ipucc, mlp, tmp_path):
    (tmp_path / "m.ipux").write_text("old")
    assert ipucc("compile", mlp, "-o", tmp_path / "m.ipux").exit_code == 1
    assert (tmp_path / "m.ipux").read_text() == "old"


# Programs


def test_damaged_programs(ipucc, mlp, program, tmp_path):
    data = Path(program).read_bytes()
    bad = tmp_path / "bad.ipux"
    for verb in ("run", "inspect", "validate"):
        bad.write_text("no program")
        refused(ipucc(verb, bad), 1, "IPU0502")
        bad.write_bytes(data[: len(data) // 2])
        refused(ipucc(verb, bad), 1, "IPU0503")
        refused(ipucc(verb, tmp_path / "absent.ipux"), 1, "IPU0501")
    refused(ipucc("run", mlp), 1, "IPU0502")


def test_a_flipped_byte_is_noticed(ipucc, program, tmp_path):
    data = bytearray(Path(program).read_bytes())
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(data), 10):
        hurt = bytearray(data)
        hurt[at] ^= 0x55
        (tmp_path / "bad.ipux").write_bytes(hurt)
        done = ipucc("validate", tmp_path / "bad.ipux")
        assert done.exit_code in (0, 1), done.output  # 0: a byte of padding
        assert "IPU0901" not in done.output


def test_validate_sees_data_that_goes_to_the_wrong_place(ipucc, program, tmp_path):
    """Two tiles get each other's data: every address and every byte count is right."""
    changed = load_program(program)
    exchanges = [i for i, step in enumerate(changed.steps) if isinstance(step, Exchange)]
    step = changed.steps[exchanges[0]]
    move = step.moves[0]
    at = next(i for i, t in enumerate(move.tracks) if len(set(t.dst_cell.tolist())) == len(t.dst_cell) > 1)
    cells = move.tracks[at].src_cell.copy()
    cells[[0, 1]] = cells[[1, 0]]
    tracks = list(move.tracks)
    tracks[at] = replace(tracks[at], src_cell=cells)
    changed.steps[exchanges[0]] = replace(step, moves=(replace(move, tracks=tuple(tracks)), *step.moves[1:]))
    save_program(changed, tmp_path / "bad.ipux")
    assert step.name in refused(ipucc("validate", tmp_path / "bad.ipux"), 1, "IPU0902")


# Inputs of a run


def test_inputs_that_do_not_fit_are_all_named(ipucc, program, tmp_path):
    text = refused(ipucc("run", program), 1, "IPU0601")
    assert "x: float32 [4, 32]" in text
    assert "--input" in text
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 31)), z=np.zeros(1))
    refused(ipucc("run", program, "--inputs", tmp_path / "a.npz"), 1, "IPU0602", "IPU0603", "IPU0604")
    refused(ipucc("run", program, "--input", "z=ones"), 1, "IPU0601", "IPU0602")


def test_malformed_input_options(ipucc, program):
    for option in ("x", "x=", "=ones", "x=random", "x=random:a", "x=twos"):
        refused(ipucc("run", program, "--input", option), 2, "IPU0606")
    refused(ipucc("run", program, "--input", "x=ones", "--input", "x=zeros"), 2, "IPU0606")
    for clash in (["--input", "x=ones"], ["--checked"], ["--check", "m.onnx"], ["--output", "y.npz"]):
        assert clash[0] in refused(ipucc("run", program, "--timing-only", *clash), 2, "IPU0613")


def npy(array: np.ndarray, **options: bool) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def test_hostile_numpy_files(ipucc, program, tmp_path):
    good = npy(np.ones((4, 32), np.float32))
    bombs = {
        "text": b"hello",
        "empty": b"",
        "short": good[:-4],
        "pickle": npy(np.array([{"a": 1}], object), allow_pickle=True),
        "header": good.replace(b"{'descr'", b"{'descr'+", 1),
        "huge": good.replace(b"(4, 32)", b"(4, 99999999999999)", 1),
    }
    for name, data in bombs.items():
        (tmp_path / "x.npy").write_bytes(data)
        with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", data)
        ids = {"pickle": ("IPU0603", "IPU0604"), "huge": ("IPU0603",)}.get(name, ("IPU0605",))
        refused(ipucc("run", program, "--input", f"x=@{tmp_path / 'x.npy'}"), 1, *ids)
        refused(ipucc("run", program, "--inputs", tmp_path / "x.npz"), 1, *ids)
    (tmp_path / "x.npz").write_bytes(b"no zip")
    refused(ipucc("run", program, "--inputs", tmp_path / "x.npz"), 1, "IPU0605")
    refused(ipucc("run", program, "--inputs", tmp_path), 1, "IPU0605")


def test_a_compressed_bomb_is_not_unpacked(ipucc, program, tmp_path):
    """A member may promise the right shape and go on for gigabytes; only what the input needs is read."""
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as file:
        file.write(npy(np.ones((4, 32), np.float32)))
        for _ in range(64):
            file.write(bytes(1 << 20))
    assert ipucc("run", program, "--inputs", tmp_path / "x.npz").exit_code == 0


# References


def test_a_reference_that_is_no_reference(ipucc, program, write, tmp_path):
    done = ipucc("run", program, "--input", "x=ones", "--check", tmp_path / "absent.onnx")
    refused(done, 1, "IPU0101")
    other = write([helper.make_node("Relu", ["a"], ["b"])], [tensor("a", [2])], [tensor("b", [2])])
    refused(ipucc("run", program, "--input", "x=ones", "--check", other), 1, "IPU0609")


# Faults of ipucc itself


def test_internal_errors_say_so(ipucc, mlp, tmp_path, monkeypatch, document):
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("ipucc.compiler.compile_model", fail)
    arguments = ["compile", mlp, "--dim", "n=4", "-o", tmp_path / "m.ipux"]
    assert "oops" in refused(ipucc(*arguments), 70, "IPU0901")
    assert "Traceback" in ipucc(*arguments, "-v").stderr
    assert "Traceback" in ipucc("--verbose", *arguments).stderr
    monkeypatch.setenv("IPUCC_TRACEBACK", "1")
    assert "Traceback" in ipucc(*arguments).stderr
    done = ipucc(*arguments, "--json")
    found = document(done)
    assert (found["schema"], found["exit_code"], found["diagnostics"][0]["id"]) == ("ipucc.error/1", 70, "IPU0901")


@pytest.mark.parametrize(("failure", "code", "text"), [(KeyboardInterrupt, 130, "interrupted"),
                                                       (MemoryError, 70, "IPU0903")])  # fmt: skip
def test_interrupts_and_full_memory(ipucc, mlp, tmp_path, monkeypatch, failure, code, text):
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr("ipucc.compiler.compile_model", fail)
    done = ipucc("compile", mlp, "--dim", "n=4", "-o", tmp_path / "m.ipux")
    assert done.exit_code == code
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_errors_are_documents_too(ipucc, mlp, tmp_path, document):
    found = document(ipucc("compile", mlp, "-o", tmp_path / "m.ipux", "--json"))
    assert (found["schema"], found["exit_code"]) == ("ipucc.error/1", 1)
    (problem,) = found["diagnostics"]
    assert problem["id"] == "IPU0109"
    assert problem["message"]


# Results


def test_a_result_never_takes_the_place_of_what_it_is_made_from(ipucc, mlp, program, tmp_path):
    model, compiled, values = tmp_path / "m.onnx", tmp_path / "p.ipux", tmp_path / "x.npz"
    model.write_bytes(Path(mlp).read_bytes())
    compiled.write_bytes(Path(program).read_bytes())
    np.savez(values, x=np.zeros((4, 32), np.float32))
    alias = tmp_path / "alias"
    alias.symlink_to(model)
    before = {p: p.read_bytes() for p in (model, compiled, values)}
    for output in (model, alias, f"{tmp_path}/./m.onnx"):
        assert "m.onnx" in refused(ipucc("compile", model, "-o", output, "--dim", "n=4"), 1, "IPU0508")
        refused(ipucc("compile", model, "-o", output, "--dim", "n=4", "--emit", "placement"), 1, "IPU0508")
    for output in (compiled, values, model):
        refused(
            ipucc("run", compiled, "--inputs", values, "--check", model, "--output", output), 1, "IPU0508"
        )  # fmt: skip
    refused(ipucc("run", compiled, "--input", f"x=@{values}", "--output", values), 1, "IPU0508")
    assert {p: p.read_bytes() for p in before} == before


def test_a_dash_is_standard_output_for_text_and_no_file(ipucc, mlp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = ipucc("compile", mlp, "--dim", "n=4", "--emit", "placement")
    assert ipucc("compile", mlp, "--dim", "n=4", "--emit", "placement", "-o", "-").stdout == text.stdout
    assert "./-" in refused(ipucc("compile", mlp, "--dim", "n=4", "-o", "-"), 1, "IPU0508")
    refused(ipucc("opt", mlp, "--dim", "n=4", "--passes", "clean-up", "-o", "-"), 1, "IPU0508")
    assert "no file" in refused(ipucc("compile", mlp, "--dim", "n=4", "-o", ""), 1, "IPU0508")
    assert list(tmp_path.iterdir()) == []


def test_a_model_where_a_program_is_wanted_says_how_to_make_one(ipucc, mlp):
    assert f"ipucc compile {mlp}" in refused(ipucc("run", mlp), 1, "IPU0502")
    assert f"ipucc compile {mlp}" in refused(ipucc("diff", mlp, mlp), 1, "IPU0502")


EIGHT = """<ir_version: 10, opset_import: ["": 22, "my.ops": 1]>
g (float[4,8] x, uint8[n] file) => (float[4,8] y, int32[4,3] d, uint8[h,w,3] e, float[4,8] f, float[8,8] t) {
  [draw] a = Bernoulli (x)
  [own] b = my.ops.Thing (x)
  [noise] z = RandomNormalLike (x)
  [many] d = Multinomial <sample_size = 3> (x)
  [picture] e = ImageDecoder (file)
  [behind] f = my.ops.Other (b)
  [even] r = RandomUniformLike (x)
  [list] s = SequenceConstruct (x, r)
  t = ConcatFromSequence <axis = 0> (s)
  p = Add (a, b)
  y = Add (p, z)
}"""


def test_validate_lists_eight_nodes_at_once_in_two_seconds(tmp_path):
    model = onnx.parser.parse_model(EIGHT)
    onnx.save(model, tmp_path / "eight.onnx")
    code = "import sys; from ipucc.cli.main import main; sys.argv[0] = 'ipucc'; main()"

    def seconds(*command: str) -> tuple[float, str]:
        """Of the processor: other work on this machine counts less."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        done = subprocess.run([sys.executable, "-c", *command], capture_output=True, text=True, check=False)
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before, done.stderr

    bare, _ = seconds("import onnx, onnx_ir")
    taken, said = seconds(code, "validate", str(tmp_path / "eight.onnx"), "--dim", "n=9")
    for name in ("draw", "own", "noise", "many", "picture", "behind", "even", "list"):
        assert f'node "{name}"' in said, name
    # The bound holds for a machine at rest; on a busy one the import of onnx says how busy it is.
    assert taken < max(2.0, 4 * bare)
