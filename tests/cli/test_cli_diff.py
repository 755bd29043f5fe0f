"""`ipucc diff`: two programs side by side, whatever they were made from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import ipucc as package
from ipucc.program.file import load_program, save_program


def layers(count: int, width: int = 64) -> onnx.ModelProto:
    """Equal layers, which the compiler runs as a loop."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for i in range(count):
        h = f"h{i}" if i else "x"
        nodes += [
            helper.make_node("MatMul", [h, f"w{i}"], [f"a{i}"], name=f"layer{i}.fc"),
            helper.make_node("Relu", [f"a{i}"], [f"r{i}"], name=f"layer{i}.relu"),
            helper.make_node("Softmax", [f"r{i}"], [f"h{i + 1}"], name=f"layer{i}.softmax"),
        ]
        weights.append(numpy_helper.from_array(rng.standard_normal((width, width), np.float32), f"w{i}"))
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [16, width]) for n in ("x", f"h{count}")]
    graph = helper.make_graph(nodes, "deep", value[:1], value[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture(scope="module")
def pair(mlp, tmp_path_factory) -> tuple[str, str]:
    """The perceptron in two precisions."""
    folder = tmp_path_factory.mktemp("pair")
    paths = []
    for precision in ("model", "fp16"):
        paths.append(str(folder / f"{precision}.ipux"))
        package.compile(mlp, dims={"n": 64}, precision=precision).save(paths[-1])
    return paths[0], paths[1]


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("effort", ("fast", "max")), ("recompute", ("auto", "off")), ("partials", ("fp16", "fp32")),
        ("solver", ("cpsat", "greedy")),
    ],
)  # fmt: skip
def test_programs_say_what_they_were_compiled_with(option, values, ipucc, mlp, tmp_path, document):
    paths = [str(tmp_path / f"{value}.ipux") for value in values]
    for value, path in zip(values, paths, strict=True):
        assert ipucc("compile", mlp, "-o", path, "--dim", "n=4", f"--{option}", value).exit_code == 0
    found = document(ipucc("diff", *paths, "--json"))
    assert {**found["settings"], **found["placement"]}[option] == dict(zip(("before", "after"), values, strict=True))


def test_the_document_adds_up(ipucc, pair, document):
    found = document(ipucc("diff", *pair, "--json"))
    assert set(found) == {
        "schema", "before", "after", "equal", "settings", "placement", "cycles", "memory", "tiles", "steps",
        "reordered", "op_count", "ops",
    }  # fmt: skip
    assert (found["schema"], found["equal"], found["before"]) == ("ipucc.diff/1", False, pair[0])
    assert found["settings"]["precision"] == {"before": "model", "after": "fp16"}
    assert found["settings"]["model_sha256"]["before"] == found["settings"]["model_sha256"]["after"]
    assert set(found["placement"]["status"].values()) == {"optimal"}
    assert set(found["cycles"]) == {"total", "compute", "exchange", "sync", "host"}
    for side, path in zip(("before", "after"), pair, strict=True):
        ran = document(ipucc("run", path, "--timing-only", "--json"))["cycles"]
        assert {key: change[side] for key, change in found["cycles"].items()} == ran
        for part, key in (("cycles", "total"), ("compute", "compute"), ("exchange", "exchange"), ("sync", "sync")):
            assert sum(op[side][part] for op in found["ops"] if op[side]) == ran[key], "cycles of ops make the total"
        inspected = document(ipucc("inspect", path, "--json"))
        for key in ("max_tile_bytes", "total_bytes", "code_bytes"):
            assert found["memory"][key][side] == inspected["memory"][key]
        assert found["steps"][side] == len(inspected["steps"])
        plans = {op.name: op.plan for op in load_program(path).ops}
        assert {op["name"]: op[side]["plans"] for op in found["ops"]} == {name: [p] for name, p in plans.items()}
    differences = [op["difference"] for op in found["ops"]]
    assert [abs(d) for d in differences] == sorted((abs(d) for d in differences), reverse=True)
    assert sum(differences) == found["cycles"]["total"]["difference"]
    assert sum(found["tiles"].values()) == 1472
    assert found["op_count"] == len(found["ops"]) == 2


def test_people_read_the_same(ipucc, pair, document):
    found = document(ipucc("diff", *pair, "--json"))
    text = ipucc("diff", *pair).stdout
    for part in ("model -> fp16", "mlp.onnx", "fc1", "fc2", "plans: ", "bytes of code", "steps of a run"):
        assert part in text
    for change in (*found["cycles"].values(), *found["memory"].values()):
        assert f"{change['after']:,}" in text
    top = document(ipucc("diff", *pair, "--json", "--top", "1"))
    assert top["ops"] == found["ops"][:1]
    assert top["op_count"] == 2
    assert "1 shown" in ipucc("diff", *pair, "--top", "1").stdout


def test_a_program_does_not_differ_from_itself(ipucc, pair, document, tmp_path):
    found = document(ipucc("diff", pair[0], pair[0], "--json"))
    assert found["equal"] is True
    assert not any(op["difference"] for op in found["ops"])
    assert found["tiles"]["more"] == found["tiles"]["less"] == 0
    done = ipucc("diff", pair[0], pair[0])
    assert done.exit_code == 0
    assert "Nothing that is compared differs" in done.stdout
    # The same with another plan in the text alone: it must not pass as equal.
    program = load_program(pair[0])
    program.ops = (replace(program.ops[0], plan="another"), *program.ops[1:])
    save_program(program, tmp_path / "other.ipux")
    assert document(ipucc("diff", pair[0], tmp_path / "other.ipux", "--json"))["equal"] is False


def test_models_and_targets_that_differ(ipucc, pair, mlp, tmp_path, document, machine_file):
    (tmp_path / "deep.onnx").write_bytes(layers(2).SerializeToString())
    assert ipucc("compile", tmp_path / "deep.onnx", "-o", tmp_path / "deep.ipux").exit_code == 0
    found = document(ipucc("diff", pair[0], tmp_path / "deep.ipux", "--json"))
    assert found["settings"]["model"] == {"before": "mlp.onnx", "after": "deep.onnx"}
    ops = {op["name"]: op for op in found["ops"]}
    assert ops["fc1"]["after"] is None
    assert ops["layer0.fc"]["before"] is None
    assert ops["fc1"]["difference"] == -ops["fc1"]["before"]["cycles"] < 0
    assert "not there" in ipucc("diff", pair[0], tmp_path / "deep.ipux").stdout
    small = machine_file(tiles=64)
    assert ipucc("compile", mlp, "-o", tmp_path / "s.ipux", "--dim", "n=64", "--target", small).exit_code == 0
    found = document(ipucc("diff", pair[0], tmp_path / "s.ipux", "--json"))
    assert found["settings"]["target"]["after"] == "machine"
    assert sum(found["tiles"].values()) == 1472


def test_layers_in_a_loop_have_their_own_cycles(ipucc, tmp_path, document):
    """A loop carries out the layers one after the other; each has its share, as in a program without loops."""
    paths = []
    for count in (5, 6):
        (tmp_path / "m.onnx").write_bytes(layers(count).SerializeToString())
        paths.append(tmp_path / f"{count}.ipux")
        assert ipucc("compile", tmp_path / "m.onnx", "-o", paths[-1], "--solver", "greedy").exit_code == 0
        assert "repeat" in ipucc("compile", tmp_path / "m.onnx", "--solver", "greedy", "--emit", "program").stdout
    ops = {op["name"]: op for op in document(ipucc("diff", *paths, "--json"))["ops"]}
    assert set(ops) == {f"layer{i}.{kind}" for i in range(6) for kind in ("fc", "softmax")}
    for i in range(6):
        for kind in ("fc", "softmax"):
            op = ops[f"layer{i}.{kind}"]
            assert op["after"]["cycles"] > 0
            assert (op["before"] is None) == (i == 5)


def test_what_is_no_program(ipucc, pair, mlp, tmp_path, document):
    data = Path(pair[0]).read_bytes()
    (tmp_path / "half.ipux").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.ipux").write_text("hello")
    for path, id in (
        (tmp_path / "absent.ipux", "IPU0501"), (tmp_path / "text.ipux", "IPU0502"), (mlp, "IPU0502"),
        (tmp_path / "half.ipux", "IPU0503"),
    ):  # fmt: skip
        for arguments in ((path, pair[0]), (pair[0], path)):
            done = ipucc("diff", *arguments)
            assert (done.exit_code, done.stdout) == (1, "")
            assert f"error[{id}]" in done.stderr
            assert "Traceback" not in done.stderr
        found = document(ipucc("diff", path, pair[0], "--json"))
        assert (found["schema"], found["diagnostics"][0]["id"]) == ("ipucc.error/1", id)


@pytest.mark.parametrize("wrong", [["--top", "0"], ["--top", "few"], ["--topp", "3"], ["third.ipux"]])
def test_option_syntax(ipucc, pair, wrong):
    done = ipucc("diff", *pair, *wrong)
    assert (done.exit_code, done.stdout) == (2, "")
    if wrong[0] == "--topp":
        assert "Did you mean '--top'" in done.stderr


def test_python_compares_programs_in_memory_and_files(pair):
    found = package.diff(pair[0], package.load(pair[1]))
    assert isinstance(found, package.Comparison)
    assert not found.equal
    assert found.cycles["total"].before == package.load(pair[0]).cycles.total
    assert found.to_json(top=1)["ops"] == [found.ops[0].to_json()]
