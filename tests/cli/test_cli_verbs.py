"""Every verb of the command does what its contract says."""

import hashlib

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from ipucc.program.file import load_program
from ipucc.target import load_target

X = np.random.default_rng(7).standard_normal((4, 32), np.float32)


def expected(model: str, x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(model).run(None, {"x": x})[0]


# compile


def test_compile_reports_its_figures_as_one_document(ipucc, mlp, tmp_path, document):
    done = ipucc("compile", mlp, "-o", tmp_path / "m.ipux", "--dim", "n=4", "--json")
    assert done.exit_code == 0, done.output
    found = document(done)
    assert set(found) == {
        "schema", "model", "target", "precision", "nodes", "placement", "cycles", "memory", "explain", "passes",
        "seconds",
    }  # fmt: skip
    assert found["schema"] == "ipucc.compile/1"
    assert (found["target"], found["precision"], found["nodes"]) == ("gc200", "model", 2)
    assert set(found["placement"]) == {"solver", "status", "objective_cycles", "bound_cycles", "gap"}
    assert found["placement"]["status"] == "optimal"
    cycles = found["cycles"]
    assert set(cycles) == {"total", "compute", "exchange", "sync", "estimated", "exchange_bound"}
    assert 0 < cycles["exchange_bound"] <= cycles["exchange"]
    assert cycles["total"] == cycles["compute"] + cycles["exchange"] + cycles["sync"] > 0
    assert cycles["estimated"] == found["placement"]["objective_cycles"]
    memory = found["memory"]
    assert memory["tile_limit_bytes"] == load_target("gc200").tile_bytes
    assert memory["total_bytes"] > 32 * 48 * 4
    assert memory["max_tile_bytes"] <= memory["tile_limit_bytes"]
    names = [p["name"] for p in found["passes"]]
    assert names[0] == "import"
    assert names[-1] == "verify"
    assert {"clean-up", "fuse", "place", "lower"} <= set(names)
    assert sum(p["seconds"] for p in found["passes"]) <= found["seconds"]


def test_compile_says_the_same_to_people(ipucc, mlp, tmp_path):
    done = ipucc("compile", mlp, "-o", tmp_path / "m.ipux", "--dim", "n=4", "--solver", "greedy", "--target", "gc2")
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    for part in ("gc2, 1216 tiles", "greedy", "cycles", "estimated", "fullest tile"):
        assert part in done.stdout


def test_equal_input_gives_equal_files(ipucc, mlp, tmp_path):
    for name in ("a.ipux", "b.ipux"):
        assert ipucc("compile", mlp, "-o", tmp_path / name, "--input-shape", "x=4,32").exit_code == 0
    assert (tmp_path / "a.ipux").read_bytes() == (tmp_path / "b.ipux").read_bytes()


def test_fp16_is_faster_and_wide_partials_cost(ipucc, write, tmp_path, document):
    shape = [512, 512]
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "xy")
    weight = onnx.numpy_helper.from_array(np.ones(shape, np.float32), "w")
    model = write([onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], [x], [y], [weight])

    def cycles(*options: str) -> int:
        done = ipucc("compile", model, "-o", tmp_path / "m.ipux", "--json", *options)
        assert done.exit_code == 0, done.output
        return document(done)["cycles"]["total"]

    assert cycles("--precision", "fp16") < cycles("--precision", "fp16", "--partials", "fp32") < cycles()


@pytest.mark.parametrize(
    ("stage", "part"), [("graph", "ipucc.FusedMatMul"), ("placement", "fc1"), ("program", "host read y")]
)
def test_emit_writes_text_and_no_program(ipucc, mlp, tmp_path, stage, part):
    done = ipucc("compile", mlp, "--dim", "n=4", "--emit", stage)
    assert done.exit_code == 0, done.output
    assert part in done.stdout
    named = ipucc("compile", mlp, "--dim", "n=4", "--emit", stage, "-o", tmp_path / "text.txt")
    assert named.stdout == ""
    assert (tmp_path / "text.txt").read_text() == done.stdout


def test_emit_and_json_share_nothing(ipucc, mlp, tmp_path, document):
    refused = ipucc("compile", mlp, "--dim", "n=4", "--emit", "program", "--json")
    assert refused.exit_code == 2
    assert document(refused)["diagnostics"][0]["id"] == "IPU0308"
    done = ipucc("compile", mlp, "--dim", "n=4", "--emit", "program", "-o", tmp_path / "p.txt", "--json")
    assert document(done)["schema"] == "ipucc.compile/1"
    assert (tmp_path / "p.txt").read_text()


def test_stages_are_printed_to_stderr_and_dumped(ipucc, mlp, tmp_path, document):
    done = ipucc(
        "compile", mlp, "-o", tmp_path / "m.ipux", "--dim", "n=4", "--json",
        "--print-after", "fuse", "--print-after", "lower", "--dump-ir", tmp_path / "ir",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert document(done)["nodes"] == 2
    assert "# after fuse" in done.stderr
    assert "# after lower" in done.stderr
    assert "# after clean-up" not in done.stderr
    dumps = sorted(p.name for p in (tmp_path / "ir").iterdir())
    assert dumps == [
        "000-input.txt", "001-clean-up.txt", "002-fuse.txt", "003-use-zeros.txt", "004-schedule.txt", "005-place.txt",
        "006-lower.txt",
    ]  # fmt: skip


def test_passes_replace_the_graph_pipeline(ipucc, mlp, tmp_path, document):
    done = ipucc("compile", mlp, "-o", tmp_path / "m.ipux", "--dim", "n=4", "--passes", "", "--json")
    assert document(done)["nodes"] == 4
    assert "fuse" not in [p["name"] for p in document(done)["passes"]]


def test_a_pass_from_a_file(ipucc, mlp, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from typing import ClassVar\n"
        "from ipucc.pass_manager import Pass\n"
        "@dataclass(frozen=True)\n"
        "class Rename(Pass):\n"
        "    '''Renames every node.'''\n"
        "    name: ClassVar[str] = 'rename'\n"
        "    def run(self, model, ctx):\n"
        "        for i, node in enumerate(model.graph):\n"
        "            node.name = f'mine{i}'\n"
        "        return True\n"
    )
    done = ipucc(
        "compile", mlp, "--dim", "n=4", "--load", tmp_path / "mine.py", "--passes", "clean-up,rename",
        "--print-after", "rename", "--emit", "graph",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "[mine0]" in done.stderr
    assert "[mine0]" in done.stdout


def test_block_sparsity_has_a_short_form(ipucc, mlp, tmp_path, document):
    program = tmp_path / "m.ipux"
    done = ipucc("compile", mlp, "-o", program, "--dim", "n=4", "--block", "16", "--density", "0.5")
    assert done.exit_code == 0, done.output
    ran = document(ipucc("run", program, "--timing-only", "--json"))
    assert ran["flops"] == 2 * 4 * (32 * 48 + 48 * 8)
    assert 0 < ran["sparse_flops"] < ran["flops"]


def test_masks_and_calibration_have_short_forms(ipucc, mlp, tmp_path, document):
    mask = np.zeros((2, 6), bool)
    mask[:, 2:4] = True
    np.savez(tmp_path / "m.npz", w1=mask)
    program = tmp_path / "m.ipux"
    done = ipucc("-v", "compile", mlp, "-o", program, "--dim", "n=4", "--block", "16x8", "--mask", tmp_path / "m.npz")
    assert done.exit_code == 0, done.output
    assert "4 of 12 blocks of 16 x 8 kept" in done.stderr
    assert "kept dense: there is no mask for it" in done.stderr
    np.savez(tmp_path / "c.npz", x=np.ones((3, 4, 32), np.float32))
    done = ipucc(
        "-v", "compile", mlp, "-o", program, "--dim", "n=4", "--score", "sparsegpt", "--calibrate", tmp_path / "c.npz"
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "blocks of 16 x 16 kept" in done.stderr
    done = ipucc("compile", mlp, "-o", program, "--dim", "n=4", "--pattern", "butterfly", "--block", "8")
    assert done.exit_code == 0, done.output


def test_a_changed_mask_is_another_program(ipucc, mlp, tmp_path, document):
    """The cache knows a program by the content of the files that its passes read."""
    found = []
    for kept in (1, 4):
        mask = np.zeros((2, 3), bool)
        mask.reshape(-1)[:kept] = True
        np.savez(tmp_path / "m.npz", w1=mask)
        options = ("--dim", "n=4", "--mask", tmp_path / "m.npz", "--cache", tmp_path / "cache")
        done = ipucc("compile", mlp, "-o", tmp_path / "m.ipux", *options)
        assert done.exit_code == 0, done.output
        found.append(document(ipucc("run", tmp_path / "m.ipux", "--timing-only", "--json"))["sparse_flops"])
    assert found[0] < found[1]


# run


def test_run_gives_the_numbers_of_the_model(ipucc, mlp, program, tmp_path, document):
    np.savez(tmp_path / "x.npz", in_x=X, out_0=np.zeros(3))
    result = tmp_path / "y.npz"
    done = ipucc("run", program, "--inputs", tmp_path / "x.npz", "--output", result, "--check", mlp, "--json")
    assert done.exit_code == 0, done.output
    found = document(done)
    assert set(found) == {
        "schema", "cycles", "decisions", "device_seconds", "flops", "sparse_flops", "utilisation", "outputs", "check",
        "wall_seconds",
    }  # fmt: skip
    assert found["schema"] == "ipucc.run/1"
    y = np.load(result)["y"]
    np.testing.assert_allclose(y, expected(mlp, X), rtol=1e-4, atol=1e-5)
    told = found["outputs"]["y"]
    assert (told["shape"], told["dtype"]) == ([4, 8], "float32")
    assert told["sha256"] == hashlib.sha256(y.tobytes()).hexdigest()
    assert told["max"] == float(y.max())
    check = found["check"]
    assert check["ok"] is True
    assert check["oracle"] == "onnxruntime"
    assert 0 <= check["max_rel_error"] < 1e-4


def test_run_counts_what_the_compiler_predicted(ipucc, mlp, tmp_path, document):
    compiled = document(ipucc("compile", mlp, "-o", tmp_path / "m.ipux", "--dim", "n=4", "--json"))
    ran = document(ipucc("run", tmp_path / "m.ipux", "--input", "x=ones", "--json"))
    timed = document(ipucc("run", tmp_path / "m.ipux", "--timing-only", "--json"))
    assert set(ran["cycles"]) == {"total", "compute", "exchange", "sync", "host"}
    assert ran["cycles"] == timed["cycles"]
    assert {k: compiled["cycles"][k] for k in ("total", "compute", "exchange", "sync")} == {
        k: v for k, v in ran["cycles"].items() if k != "host"
    }
    assert ran["cycles"]["host"] > 0
    assert (timed["outputs"], timed["check"]) == ({}, None)
    target = load_target("gc200")
    assert ran["device_seconds"] == pytest.approx(ran["cycles"]["total"] / target.clock_hz)
    assert ran["flops"] == ran["sparse_flops"] == 2 * 4 * (32 * 48 + 48 * 8)
    peak = target.peak_flops("fp32", "fp32")
    assert ran["utilisation"] == pytest.approx(ran["flops"] / (peak * ran["device_seconds"]))


def test_inputs_from_a_file_or_made_up(ipucc, mlp, program, tmp_path):
    np.save(tmp_path / "x.npy", np.asfortranarray(X))
    cases = {
        f"x=@{tmp_path / 'x.npy'}": X,
        "x=zeros": np.zeros((4, 32), np.float32),
        "x=ones": np.ones((4, 32), np.float32),
        "x=random:5": np.random.default_rng(5).standard_normal((4, 32), np.float32),
    }
    for option, x in cases.items():
        done = ipucc("run", program, "--input", option, "--output", tmp_path / "y.npz")
        assert done.exit_code == 0, done.output
        np.testing.assert_allclose(np.load(tmp_path / "y.npz")["y"], expected(mlp, x), rtol=1e-4, atol=1e-5)


def test_an_option_goes_before_the_file(ipucc, mlp, program, tmp_path):
    np.savez(tmp_path / "x.npz", x=X)
    done = ipucc("run", program, "--inputs", tmp_path / "x.npz", "--input", "x=ones", "--output", tmp_path / "y.npz")
    assert done.exit_code == 0, done.output
    y = np.load(tmp_path / "y.npz")["y"]
    np.testing.assert_allclose(y, expected(mlp, np.ones((4, 32), np.float32)), rtol=1e-4, atol=1e-5)


def test_checked_mode_agrees(ipucc, mlp, program):
    done = ipucc("run", program, "--input", "x=random:1", "--checked", "--check", mlp)
    assert done.exit_code == 0, done.output


def test_numbers_that_differ_give_exit_code_4(ipucc, mlp, program, tmp_path, document):
    other = onnx.load(mlp)
    weight = onnx.numpy_helper.to_array(other.graph.initializer[2]).copy()
    weight[0] += 0.5
    other.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(weight, "w2"))
    onnx.save(other, tmp_path / "other.onnx")
    done = ipucc("run", program, "--input", "x=ones", "--check", tmp_path / "other.onnx", "--json")
    assert done.exit_code == 4
    assert document(done)["check"]["ok"] is False
    assert document(done)["check"]["max_rel_error"] > 1e-4
    assert "error[IPU0607]" in done.stderr
    assert "'y'" in done.stderr


# inspect, validate, opt


def test_inspect_a_model(ipucc, mlp, document):
    found = document(ipucc("inspect", mlp, "--json"))
    assert found["schema"] == "ipucc.inspect-model/1"
    assert found["opset"] == {"ai.onnx": 20}
    assert found["inputs"] == [{"name": "x", "dtype": "float", "shape": ["n", 32]}]
    assert found["nodes_by_op"] == {"MatMul": 2, "Add": 1, "Relu": 1}
    assert found["weight_bytes"] == 4 * (32 * 48 + 48 + 48 * 8)
    assert found["supported"] is None  # n has no size
    assert "MatMul" in ipucc("inspect", mlp).stdout


def test_inspect_the_sparsity_of_a_model(ipucc, mlp, tmp_path, document):
    model = onnx.load(mlp)
    (w1,) = (t for t in model.graph.initializer if t.name == "w1")
    pruned = numpy_helper.to_array(w1).copy()
    pruned[:16] = 0
    pruned[20, :] = 0
    w1.CopyFrom(numpy_helper.from_array(pruned, "w1"))
    onnx.save(model, tmp_path / "pruned.onnx")
    arguments = ("inspect", "--sparsity", tmp_path / "pruned.onnx", "--dim", "n=64", "--precision", "fp16")
    found = document(ipucc(*arguments, "--json"))
    assert found["schema"] == "ipucc.inspect-sparsity/1"
    first, second = found["weights"]
    assert (first["weight"], first["node"], first["shape"]) == ("w1", "fc1,bias1,relu1", [1, 32, 48])
    assert first["densities"]["16x16"] == first["densities"]["4x4"] == 0.5
    assert first["densities"]["1x1"] == 15 / 32
    assert second["densities"]["1x1"] == 1
    assert first["sparse_cycles"] < second["sparse_cycles"] + first["dense_cycles"]
    assert all(0 <= w["break_even"] <= 1 and w["dense_cycles"] > 0 for w in found["weights"])
    assert [line.split()[0] for line in ipucc(*arguments).stdout.splitlines()[2:]] == ["w1", "w2"]
    assert document(ipucc(*arguments, "--json")) == found


def test_inspect_a_program(ipucc, program, document):
    found = document(ipucc("inspect", program, "--json"))
    assert found["schema"] == "ipucc.inspect-program/1"
    assert found["manifest"]["pipeline"] == "clean-up,fuse,use-zeros"
    assert found["manifest"]["model"]["name"] == "mlp.onnx"
    assert found["manifest"]["dims"] == {"n": 4}
    steps = found["steps"]
    assert sum(s["compute"] + s["exchange"] + s["sync"] for s in steps) == found["cycles"]["total"]
    by_kind = found["cycles_by_kind"]
    assert sum(k["cycles"] for k in by_kind.values()) == found["cycles"]["total"]
    assert sum(k["steps"] for k in by_kind.values()) == len(steps)
    assert found["memory"]["mean_tile_bytes"] <= found["memory"]["max_tile_bytes"]
    assert ipucc("inspect", "--sparsity", program).exit_code == 2
    shown = ipucc("inspect", program).stdout
    assert "fc1" in shown
    assert "gc200" in shown


def test_validate(ipucc, mlp, program):
    assert ipucc("validate", mlp, "--dim", "n=4").exit_code == 0
    assert ipucc("validate", program).exit_code == 0


def test_opt_writes_a_model_that_onnxruntime_runs(ipucc, mlp, tmp_path):
    path = tmp_path / "o.onnx"
    done = ipucc("opt", mlp, "-o", path, "--passes", "clean-up,fuse", "--dim", "n=4")
    assert done.exit_code == 0, done.output
    assert "2 nodes" in done.stdout
    assert [n.op_type for n in onnx.load(path).graph.node] == ["FusedMatMul", "MatMul"]
    np.testing.assert_allclose(expected(str(path), X), expected(mlp, X), rtol=1e-5, atol=1e-6)


def test_opt_takes_external_weights_along(ipucc, mlp, tmp_path):
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    model = onnx.load(mlp)
    onnx.save(model, tmp_path / "from" / "m.onnx", save_as_external_data=True, location="w", size_threshold=0)
    path = tmp_path / "to" / "o.onnx"
    done = ipucc("opt", tmp_path / "from" / "m.onnx", "-o", path, "--passes", "", "--dim", "n=4")
    assert done.exit_code == 0, done.output
    np.testing.assert_allclose(expected(str(path), X), expected(mlp, X), rtol=1e-5, atol=1e-6)


def test_opt_puts_weights_that_no_message_holds_in_a_second_file(ipucc, mlp, tmp_path, monkeypatch):
    monkeypatch.setattr("ipucc.cli.opt.INLINE_BYTES", 1000)
    path = tmp_path / "o.onnx"
    assert ipucc("opt", mlp, "-o", path, "--passes", "", "--dim", "n=4").exit_code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.onnx", "o.onnx.data"]
    assert path.stat().st_size < 2000
    np.testing.assert_allclose(expected(str(path), X), expected(mlp, X), rtol=1e-5, atol=1e-6)


# passes, targets


def test_passes_lists_and_describes(ipucc, document):
    found = document(ipucc("passes", "--json"))
    assert found["schema"] == "ipucc.passes/1"
    assert found["default"] == "clean-up,fuse,use-zeros"
    assert {"clean-up", "fuse", "precision", "sparsify"} <= {p["name"] for p in found["passes"]}
    (one,) = document(ipucc("passes", "sparsify", "--json"))["passes"]
    options = {o["name"]: o for o in one["options"]}
    assert options["block"]["default"] == 16
    assert options["when"]["choices"] == ["always", "pays"]
    assert "density" in ipucc("passes", "sparsify").stdout
    assert "sparsify" in ipucc("passes").stdout
    assert ipucc("passes", "sparsifi").exit_code == 1


def test_targets_lists_and_describes(ipucc, document, tmp_path):
    found = document(ipucc("targets", "--json"))
    assert found["schema"] == "ipucc.targets/1"
    assert [t["name"] for t in found["targets"]] == ["gc2", "gc200", "bow", "c600"]
    assert found["targets"][1]["figures"]["tiles"]["value"] == 1472
    assert set(found["targets"][1]["figures"]["tiles"]) == {"value", "unit", "kind", "source"}
    assert "249.7" in ipucc("targets").stdout
    (tmp_path / "half.toml").write_text('base = "gc200"\ntiles = 736\n')
    assert document(ipucc("targets", tmp_path / "half.toml", "--json"))["targets"][0]["name"] == "half"
    assert "736" in ipucc("targets", tmp_path / "half.toml").stdout


# compile --explain


def test_explain_says_why_a_plan_won(ipucc, mlp, tmp_path, document):
    done = ipucc("compile", mlp, "-o", tmp_path / "m.ipux", "--dim", "n=64", "--explain", "fc1", "--json")
    assert done.exit_code == 0, done.output
    (found,) = document(done)["explain"]
    assert set(found) == {
        "op", "kind", "nodes", "alike", "combinations", "kept", "cap_bytes", "neighbours", "tightest", "candidates"
    }  # fmt: skip
    assert (found["op"], found["kind"], found["alike"]) == ("fc1", "MatMul", 1)
    assert {"fc1", "bias1", "relu1"} == set(found["nodes"])
    assert found["combinations"] > found["kept"] == len(found["candidates"]) > 1
    assert [n["name"] for n in found["neighbours"]] == ["fc2"]
    first, *others = found["candidates"]
    assert first["verdict"] == "chosen"
    ops = {op.name: op for op in load_program(tmp_path / "m.ipux").ops}
    assert (first["plan"], first["cycles"]) == (ops["fc1"].plan, ops["fc1"].cycles)
    assert found["neighbours"][0]["plan"] == ops["fc2"].plan
    assert all(c["total"] - first["total"] == c["difference"] >= 0 for c in others)


def test_explain_needs_no_program_file(ipucc, mlp, tmp_path, document):
    done = ipucc("compile", mlp, "--dim", "n=64", "--explain", "bias1", "--explain", "fc2")
    assert done.exit_code == 0, done.output
    for part in ("fc1 (", "fc2 (", "combinations priced", "the chosen one", "cycles: ", "tightest", "neighbours"):
        assert part in done.stdout
    found = document(ipucc("compile", mlp, "--dim", "n=64", "--explain", "fc*", "--json"))
    assert [e["op"] for e in found["explain"]] == ["fc1", "fc2"]
    written = ipucc("compile", mlp, "--dim", "n=64", "--json", "-o", tmp_path / "m.ipux")
    assert document(written)["explain"] == []


def test_explain_refuses_names_that_stand_for_nothing(ipucc, mlp, tmp_path):
    done = ipucc("compile", mlp, "-o", tmp_path / "m.ipux", "--dim", "n=64", "--explain", "fc3", "--explain", "conv*")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.count("error[IPU0615]") == 2
    assert "did you mean 'fc2' or 'fc1'" in done.stderr
    assert list(tmp_path.iterdir()) == []
    clash = ipucc("compile", mlp, "--dim", "n=64", "--explain", "fc1", "--emit", "graph")
    assert clash.exit_code == 2
    assert "IPU0308" in clash.stderr


def test_what_does_not_fit_is_recomputed_unless_told_otherwise(ipucc, write, machine_file, tmp_path):
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 20]>
        skip (float[1024,16] x) => (float[1024,16] y) {
            s = MatMul(x, w)
            e = MatMul(s, v)
            m0 = MatMul(e, w)
            m1 = Softmax(m0)
            f = MatMul(m1, v)
            g = MatMul(f, w)
            t = Mul(g, s)
            y = MatMul(t, v)
        }""")
    for name, shape in (("w", (16, 512)), ("v", (512, 16))):
        model.graph.initializer.append(numpy_helper.from_array(np.full(shape, 1 / 64, np.float32), name))
    half = 200 << 10
    target = machine_file(tiles=16, tile_bytes=2 * half, executable_bytes=half, interleaved_bytes=half, phase_cycles=16)
    arguments = ("-v", "compile", write(model), "-o", tmp_path / "m.ipux", "--target", target, "--solver", "greedy")
    refused = ipucc(*arguments, "--recompute", "off")
    assert refused.exit_code == 3, refused.output
    done = ipucc(*arguments)
    assert done.exit_code == 0, done.output
    assert "1 tensor again" in done.stdout
    assert "remark[IPU0413]: s is computed again by one op before g: 2,097,152 bytes less alive in" in done.stderr


def test_check_knows_the_values_that_inputs_were_bound_to(ipucc, write, tmp_path):
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 6]) for name in "xy")
    shape = onnx.helper.make_tensor_value_info("s", onnx.TensorProto.INT64, [2])
    y.type.tensor_type.ClearField("shape")
    model = write([onnx.helper.make_node("Reshape", ["x", "s"], ["y"])], [x, shape], [y])
    np.save(tmp_path / "s.npy", np.array([3, 4]))
    program = tmp_path / "p.ipux"
    assert ipucc("compile", model, "-o", program, "--bind", f"s=@{tmp_path / 's.npy'}").exit_code == 0
    done = ipucc("run", program, "--input", "x=random:1", "--check", model)
    assert done.exit_code == 0, done.output
    assert "agrees with onnxruntime" in done.stdout


def test_compile_says_what_types_are_held_in_others(ipucc, write, tmp_path):
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [4]) for name in "xy")
    model = write([onnx.helper.make_node("Neg", ["x"], ["y"])], [x], [y])
    done = ipucc("compile", model, "-o", tmp_path / "m.ipux", "-v")
    assert "remark[IPU0325]: int64 is held in int32" in done.stderr
    assert ipucc("compile", model, "-o", tmp_path / "m.ipux").stderr == ""
