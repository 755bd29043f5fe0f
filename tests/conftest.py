"""What tests of several folders share: the models that ipucc is developed against, machine files, models from text."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import pytest
from model_files import model_folder, why_none
from onnx import numpy_helper, parser

from ipucc.codelets.base import Codelet, codelets

MachineFile = Callable[..., Path]
ModelOf = Callable[..., onnx.ModelProto]


@pytest.fixture(autouse=True, scope="module")
def own_codelets(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test file knows the codelets that it names, and those of samples where programs are built by hand; no other
    one does: every key of the cache depends on what is registered."""
    known = cast(dict[str, type[Codelet]], codelets())
    before = {name: kind for name, kind in known.items() if not kind.__module__.startswith("ipucc.")}
    if request.path.parent.name not in ("builder", "benchmarks"):
        for name in before:
            del known[name]
    named = [x for x in vars(request.module).values() if isinstance(x, type) and issubclass(x, Codelet)]
    known.update({kind.name: kind for kind in named if hasattr(kind, "name")})
    yield
    for name in [name for name, kind in known.items() if kind in named and not kind.__module__.startswith("ipucc.")]:
        del known[name]
    known.update(before)


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """The folder of the models that ipucc is developed against; tests skip where it is not there."""
    found = model_folder()
    if found is None:
        pytest.skip(why_none())
    return found


@pytest.fixture(scope="session")
def machine_file(tmp_path_factory: pytest.TempPathFactory) -> MachineFile:
    """Writes a machine file: the GC200 with other figures, as in `machine_file(tiles=16, phase_cycles=32)`."""

    def write(**figures: float) -> Path:
        path = tmp_path_factory.mktemp("machine") / "machine.toml"
        path.write_text("".join(['base = "gc200"\n', *(f"{key} = {value}\n" for key, value in figures.items())]))
        return path

    return write


@pytest.fixture(scope="session")
def model_of() -> ModelOf:
    """Makes a model from the text of its graph and the shapes (or arrays) of its weights.

    Weights without values are drawn from multiples of 1/64, the same for the same seed.
    """

    def make(
        text: str, weights: Mapping[str, tuple[int, ...] | np.ndarray] | None = None, seed: int = 0
    ) -> onnx.ModelProto:
        model = parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]>\n{text}')
        rng = np.random.default_rng(seed)
        for name, given in (weights or {}).items():
            values = given if isinstance(given, np.ndarray) else (rng.integers(-64, 65, given) / 64).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(values, name))
        return model

    return make
