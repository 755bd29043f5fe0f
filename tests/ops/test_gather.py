"""Gathers with constant and with computed indices."""

import numpy as np
import pytest

from ipucc.diagnostics import CompileError


def normal(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def kinds(graph):
    return [op.kind for op in graph.ops]


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("constant", [True, False])
def test_gather(assert_right, axis, constant):
    x = normal(6, 7, 8)
    for index in (np.array([[0, 3, -1], [5, -6, 2]]), np.array(4), np.array([1])):
        where = {"i": index.astype(np.int64)}
        operands = ({"x": x}, where) if constant else ({"x": x} | where,)
        graph = assert_right("Gather", *operands, axis=axis, times=4)
        assert ("Gather" in kinds(graph)) is not constant


@pytest.mark.parametrize("dtype", [np.float16, np.int32, np.int64, np.int8, np.bool_])
def test_embedding_is_exact_in_every_type(assert_right, dtype):
    rng = np.random.default_rng(2)
    table = rng.integers(0, 2 if dtype is np.bool_ else 100, size=(50, 24)).astype(dtype)
    ids = rng.integers(-50, 50, size=(2, 9)).astype(np.int32)
    assert_right("Gather", {"i": ids}, {"t": table}, order=["t", "i"], times=5)


def test_infinities_are_gathered_as_they_are(assert_right):
    x = np.array([[1, np.inf], [np.nan, 2], [-np.inf, 3]], np.float32)
    assert_right("Gather", {"x": x, "i": np.array([0, 1, 2, 0])}, times=5)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("constant", [True, False])
def test_gather_elements(assert_right, axis, constant):
    rng = np.random.default_rng(3)
    x = normal(5, 6, 7)
    shape = [4, 5, 6]
    shape[axis] = 9
    where = {"i": rng.integers(-x.shape[axis], x.shape[axis], size=shape)}
    operands = ({"x": x}, where) if constant else ({"x": x} | where,)
    # The reference evaluator wants equal sizes in the other dimensions.
    assert_right("GatherElements", *operands, axis=axis, times=4, against=("ort",))


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(
    ("batch", "index"),
    [(0, (4, 2)), (0, (2, 3, 1)), (0, (5, 3)), (1, (5, 2)), (1, (5, 4, 1)), (2, (5, 6, 1))],
)
def test_gather_nd(assert_right, constant, batch, index):
    rng = np.random.default_rng(4)
    x = normal(5, 6, 7)
    sizes = x.shape[batch : batch + index[-1]]
    where = {"i": np.stack([rng.integers(-n, n, size=index[:-1]) for n in sizes], -1)}
    operands = ({"x": x}, where) if constant else ({"x": x} | where,)
    # The reference evaluator refuses some negative indices.
    assert_right("GatherND", *operands, batch_dims=batch, times=4, against=("ort",))


def test_constant_index_outside_its_dimension(assert_right):
    with pytest.raises(CompileError, match="outside"):
        assert_right("Gather", {"x": normal(3, 4)}, {"i": np.array([3])})
