"""Labelled data in every form that it may have, and the share that is classified as labelled."""

from pathlib import Path

import numpy as np
import pytest

from ipucc.diagnostics import CompileError
from ipucc.frontend import load_model
from ipucc.sweep.labelled import accuracy, graph_inputs, read_labelled, run_graph

MASKED = """m (float[2, 3, 4] x, bool[2, 3, 1] keep) => (float[2, 3, 4] y) {
    f = Cast <to = 1> (keep)
    y = Mul(x, f)
}"""


def judge(model, path: Path, **arrays: np.ndarray) -> tuple[float, int]:
    np.savez(path / "data.npz", **arrays)
    graph = load_model(model)
    data = read_labelled(path / "data.npz", graph)
    return accuracy(data, graph_inputs(graph), run_graph(graph))


def hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """Scores that are largest at the labels."""
    return np.eye(classes, dtype=np.float32)[labels]


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4, 9)


@pytest.fixture
def same(model_of):
    """y = x, two samples of four classes at a time."""
    return model_of("m (float[2, 4] x) => (float[2, 4] y) { y = Identity(x) }")


@pytest.mark.parametrize("name", ["x", "in_x", "images"])
def test_the_only_input_may_have_any_name(same, labels, tmp_path, name):
    wrong = labels.copy()
    wrong[::3] = (wrong[::3] + 1) % 4
    assert judge(same, tmp_path, **{name: hot(labels, 4)}, labels=wrong) == (6 / 9, 9)


def test_the_last_run_is_filled_up(same, labels, tmp_path):
    for count in (1, 2, 3):
        assert judge(same, tmp_path, x=hot(labels[:count], 4), labels=labels[:count]) == (1.0, count)


def test_negative_labels_are_not_judged(same, labels, tmp_path):
    marked = labels.copy()
    marked[3:] = -100
    assert judge(same, tmp_path, x=hot(labels, 4), labels=marked) == (1.0, 3)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32])
def test_other_numbers_are_converted(same, labels, tmp_path, dtype):
    assert judge(same, tmp_path, x=hot(labels, 4).astype(dtype), labels=labels.astype(np.uint8)) == (1.0, 9)


def test_a_run_of_one_sample_without_an_axis_for_it(model_of, labels, tmp_path):
    model = model_of("m (float[4] x) => (float[4] y) { y = Identity(x) }")
    assert judge(model, tmp_path, x=hot(labels, 4), labels=labels) == (1.0, 9)


def test_runs_along_an_axis_of_their_own(same, labels, tmp_path):
    runs = labels[:8].reshape(4, 2)
    assert judge(same, tmp_path, x=hot(runs, 4), labels=runs) == (1.0, 8)


def test_a_label_per_token(model_of, tmp_path):
    tokens = np.random.default_rng(1).integers(0, 4, (5, 3))
    keep = np.ones((5, 3, 1), bool)
    keep[0, 0], tokens[0, 0] = False, 3  # what is not kept is of the first class
    assert judge(model_of(MASKED), tmp_path, x=hot(tokens, 4), keep=keep, labels=tokens) == (14 / 15, 15)


def test_classes_along_the_second_axis(model_of, tmp_path):
    pixels = np.random.default_rng(2).integers(0, 4, (3, 5, 6))
    model = model_of("m (float[2, 4, 5, 6] x) => (float[2, 4, 5, 6] y) { y = Identity(x) }")
    assert judge(model, tmp_path, x=np.moveaxis(hot(pixels, 4), -1, 1), labels=pixels) == (1.0, 15 * 6)


def test_the_first_output_that_fits_is_judged(model_of, labels, tmp_path):
    model = model_of("""m (float[2, 4] x) => (float[2] sums, float[2, 4] y) {
        axes = Constant <value_ints = [1]> ()
        sums = ReduceSum <keepdims = 0> (x, axes)
        y = Identity(x)
    }""")
    assert judge(model, tmp_path, x=hot(labels, 4), labels=labels) == (1.0, 9)


def test_inputs_with_different_numbers_of_samples_in_a_run(model_of, labels, tmp_path):
    model = model_of("m (float[2, 4] x, float[1, 4] b) => (float[2, 4] y) { y = Add(x, b) }")
    with pytest.raises(CompileError, match="different numbers of samples") as failure:
        judge(model, tmp_path, x=hot(labels, 4), b=np.zeros((9, 4), np.float32), labels=labels)
    assert failure.value.diagnostics[0].id == "IPU0801"
