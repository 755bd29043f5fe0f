"""Rotary embeddings."""

import numpy as np
import pytest


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("turned", [0, 6])
@pytest.mark.parametrize("positions", ["none", "constant", "data"])
def test_rotary(assert_right, interleaved, rank, turned, positions):
    rng = np.random.default_rng(1)
    batch, heads, length, size = 2, 3, 5, 8
    x = rng.normal(size=(batch, heads, length, size) if rank == 4 else (batch, length, heads * size)).astype(np.float32)
    half = (turned or size) // 2
    shape = (batch, length, half) if positions == "none" else (20, half)
    angle = rng.normal(size=shape)
    consts = {"c": np.cos(angle).astype(np.float32), "s": np.sin(angle).astype(np.float32)}
    inputs, order = {"x": x}, ["x", "c", "s"]
    if positions != "none":
        (consts if positions == "constant" else inputs)["p"] = rng.integers(0, 20, size=(batch, length))
        order.append("p")
    extra = {"rotary_embedding_dim": turned} if turned else {}
    assert_right(
        "RotaryEmbedding", inputs, consts, order=order, against=("ref",), times=3, interleaved=interleaved,
        num_heads=heads, **extra,
    )  # fmt: skip
