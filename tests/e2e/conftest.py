"""Inputs for whole models."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import parser
from onnx.reference import ReferenceEvaluator

import ipucc
from ipucc.frontend import joined, load_module
from ipucc.graph.edit import EXTENTS
from ipucc.sweep.labelled import run_graph
from ipucc.values import trimmed

Array = NDArray[np.generic]
Runs = Callable[..., ipucc.Executable]
Parsed = Callable[[str], onnx.ModelProto]
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


@pytest.fixture(scope="session")
def parsed() -> Parsed:
    """A model from the text of its graph."""
    return lambda text: parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]>\n{text}')


@pytest.fixture
def runs(machine_file: Callable[..., Path], parsed: Parsed, tmp_path: Path) -> Runs:
    """Compiles a model and runs it, plain and checked, against two references, which also run its parts as one model;
    predictions must be what is counted."""

    def check(model: onnx.ModelProto | str, feeds: list[Mapping[str, Array]], tolerance: float = 1e-5, **options: str
              ) -> ipucc.Executable:  # fmt: skip
        proto = parsed(model) if isinstance(model, str) else model
        exe = ipucc.compile(proto, target=str(machine_file(tiles=8)), effort="fast", **options)  # type: ignore[arg-type]
        exe.save(tmp_path / "p.ipux")
        read = ipucc.load(tmp_path / "p.ipux")
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        whole = joined(load_module(proto))
        again, cuts = run_graph(whole), json.loads(whole.graph.metadata_props.get(EXTENTS, "{}"))
        for given in feeds:
            results = [exe.run(given, checked=True), read.run(given)]
            answers = [session.run(None, dict(given)), list(trimmed(again(dict(given)), cuts).values())]
            # onnx's evaluator knows no other direction of a Scan, makes columns of numbers, and does not mind the
            # lengths of a recurrence.
            if "tops" not in results[0].outputs and "len" not in given:
                answers.append(ReferenceEvaluator(proto).run(None, dict(given)))
            for wanted in answers:
                for (name, got), want in zip(results[0].outputs.items(), wanted, strict=True):
                    assert got.shape == np.shape(want), name
                    scale = np.abs(want).max(initial=1.0)
                    assert np.abs(got.astype(np.float64) - want).max(initial=0.0) <= tolerance * scale, name
            assert results[0].cycles == results[1].cycles
            assert exe.predict(results[0].decisions) == results[0].cycles
        return exe

    return check
