"""What a point is named by: everything that its row depends on, and nothing else."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from ipucc.compiler import CompileOptions
from ipucc.diagnostics import CompileError
from ipucc.sweep.grid import Study
from ipucc.sweep.measure import make_tasks, measure

KEYS = """
import sys
from pathlib import Path
from ipucc.compiler import CompileOptions
from ipucc.sweep.grid import Study
from ipucc.sweep.measure import make_tasks
study = Study(Path(sys.argv[1]), CompileOptions(), ["gc200"], [(8, 8)], [0.5], Path(sys.argv[2]))
print(*(task.key for task in make_tasks(study)))
"""


@pytest.fixture
def model(model_of, tmp_path) -> Path:
    path = tmp_path / "m.onnx"
    onnx.save(model_of("g (float[4, 16] x) => (float[4, 8] y) { y = MatMul(x, w) }", {"w": (16, 8)}), path)
    return path


@pytest.fixture
def data(tmp_path) -> Path:
    path = tmp_path / "data.npz"
    np.savez(path, x=np.ones((8, 16), np.float32), labels=np.zeros(8, int))
    return path


@pytest.fixture
def study(model, data) -> Study:
    return Study(model, CompileOptions(), ["gc200"], [(8, 8)], [0.5], data)


def keys(study: Study) -> list[str]:
    return [task.key for task in make_tasks(study)]


def test_keys_are_those_of_every_process(study):
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", KEYS, str(study.model), str(study.data)], env={"PYTHONHASHSEED": seed, **path()},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.split() == keys(study)


def path() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(sys.path)}


def test_a_point_keeps_its_key_in_another_grid(study):
    larger = replace(study, targets=["bow", "gc200"], blocks=[(4, 4), (8, 8)], densities=[0.1, 0.5])
    assert set(keys(study)) < set(keys(larger))
    assert len(set(keys(larger))) == 2 * (1 + 4)


@pytest.mark.parametrize(
    "change",
    [
        {"options": CompileOptions(precision="fp16")},
        {"options": CompileOptions(partials="fp32")},
        {"options": CompileOptions(effort="fast")},
        {"options": CompileOptions(passes="clean-up,sparsify{block=16}")},
        {"targets": ["bow"]},
        {"faithful": True},
        {"data": None},
    ],
)
def test_another_option_is_another_point(study, change):
    assert not set(keys(study)) & set(keys(replace(study, **change)))


def test_another_score_is_another_sparse_point(study):
    before, after = keys(study), keys(replace(study, options=CompileOptions(score="l2")))
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)


def test_another_model_is_another_point(study, model_of):
    before = keys(study)
    other = model_of("g (float[4, 16] x) => (float[4, 8] y) { y = MatMul(x, w) }", {"w": (16, 8)}, seed=1)
    onnx.save(other, study.model)
    assert not set(before) & set(keys(study))


def test_other_weights_beside_the_model_are_another_point(study, model_of):
    for seed in (1, 2):
        found = keys(study)
        model = model_of("g (float[4, 16] x) => (float[4, 8] y) { y = MatMul(x, w) }", {"w": (16, 8)}, seed)
        onnx.save_model(model, study.model, save_as_external_data=True, location="weights", size_threshold=0)
        assert not set(found) & set(keys(study))


def test_other_data_is_another_point(study, data):
    before = keys(study)
    np.savez(data, x=np.ones((8, 16), np.float32), labels=np.ones(8, int))
    assert not set(before) & set(keys(study))


def test_other_calibration_is_another_sparse_point(study, tmp_path):
    found = []
    for scale in (1, 2):
        np.savez(tmp_path / "inputs.npz", x=np.full((4, 16), scale, np.float32))
        found.append(
            keys(replace(study, options=CompileOptions(score="wanda", calibrate=str(tmp_path / "inputs.npz"))))
        )
    assert (found[0][0] == found[1][0], found[0][1] == found[1][1]) == (True, False)


def test_a_file_that_changes_meanwhile_is_refused(study, data):
    task = make_tasks(study)[0]
    np.savez(data, x=np.ones((8, 16), np.float32), labels=np.ones(8, int))
    with pytest.raises(CompileError) as failure:
        measure(task)
    assert failure.value.diagnostics[0].id == "IPU0805"
