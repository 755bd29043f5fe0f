"""Inputs for whole models."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ipucc

Feeds = dict[str, np.ndarray]
Inputs = Callable[..., Feeds]


def stored_inputs(path: Path, exe: ipucc.Executable) -> Feeds:
    """The inputs that lie beside a model, empty where there are none."""
    golden, beside = path.with_suffix(".inputs.npz"), path.with_suffix(".npz")
    if golden.exists():
        return dict(zip((name for name, _, _ in exe.inputs), np.load(golden).values(), strict=True))
    if beside.exists():
        held = np.load(beside)
        return {name: held[f"in_{name}"] for name, _, _ in exe.inputs}
    return {}


def random_inputs(exe: ipucc.Executable, seed: int) -> Feeds:
    """Numbers of the declared types; whole numbers are small enough to be the indices of any table."""
    rng = np.random.default_rng(seed)
    feeds: Feeds = {}
    for name, kind, shape in exe.inputs:
        if kind.startswith(("int", "uint")):
            feeds[name] = rng.integers(0, 2, shape).astype(kind)
        elif kind == "bool":
            feeds[name] = rng.random(shape) < 0.75
        else:
            feeds[name] = rng.standard_normal(shape).astype(kind)
    return feeds


@pytest.fixture(scope="session")
def inputs() -> Inputs:
    """`inputs(exe, seed)` are random ones; with the path of the model, those that are stored beside it, if any."""

    def find(exe: ipucc.Executable, seed: int = 0, path: Path | None = None) -> Feeds:
        return (stored_inputs(path, exe) if path is not None else {}) or random_inputs(exe, seed)

    return find
