"""What `import ipucc` offers: compile a model, run the program, read its cycles.

exe = ipucc.compile("model.onnx", target="gc200", precision="fp16")
result = exe.run({"x": x})
result.outputs["y"], result.cycles.total
exe.save("model.ipux")
exe = ipucc.load("model.ipux")
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ipucc.diagnostics import Diagnostic, JsonValue, error
from ipucc.patterns import PatternReport, set_pattern
from ipucc.program.file import load_program, save_program
from ipucc.program.model import Program
from ipucc.program.timing import Decisions, StepTime, check_decisions
from ipucc.program.usage import tile_bytes
from ipucc.runtime.engine import Engine
from ipucc.target import Target
from ipucc.values import Array, Declared, as_declared, check_inputs, trimmed

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from ipucc.passes.plan.explain import Explanation

__all__ = ["Cycles", "Executable", "Profile", "Result", "compile", "load"]


@dataclass(frozen=True)
class Cycles:
    """Tile cycles of one run. `total` is compute + exchange + sync; `host` is the time of host transfers, outside."""

    total: int
    compute: int
    exchange: int
    sync: int
    host: int

    @staticmethod
    def of(times: Sequence[StepTime]) -> "Cycles":
        """The sum over the steps of a run."""
        compute, exchange, sync = (
            sum(t.compute for t in times),
            sum(t.exchange for t in times),
            sum(t.sync for t in times),
        )
        return Cycles(compute + exchange + sync, compute, exchange, sync, sum(t.host for t in times))

    def to_json(self) -> dict[str, JsonValue]:
        """The figures by name."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Result:
    """One run. `outputs` are in the model's order and element types, and empty after a run for timing only.

    `flops` counts 2 per multiply-accumulate of the dense model, `sparse_flops` leaves out blocks that are zero.
    `utilisation` is `flops` against the peak of the matrix unit with the chosen partials over `device_seconds`;
    0 for a model that multiplies no matrices. `decisions` says what data decided: by the name of a loop the trips that
    it made, of an If 1 or 0 for its branch, one number for every time that the run came by.
    """

    outputs: dict[str, Array]
    cycles: Cycles
    device_seconds: float
    flops: int
    sparse_flops: int
    utilisation: float
    steps: tuple[StepTime, ...]
    decisions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Profile:
    """Where the cycles and the memory of a program go.

    `steps` are the supersteps in the order in which they run, `tile_bytes` the bytes of every tile [tiles].
    """

    steps: tuple[StepTime, ...]
    cycles: Cycles
    tile_bytes: NDArray[np.int64]

    def to_json(self) -> dict[str, JsonValue]:
        """The profile as plain JSON values."""
        return {
            "steps": [asdict(step) for step in self.steps],
            "cycles": self.cycles.to_json(),
            "tile_bytes": self.tile_bytes.tolist(),
        }


@dataclass(eq=False)
class Executable:
    """A compiled program, ready to run on a simulated device.

    `remarks` are what the passes had to say, `explanations` the plans that were considered for the ops that `compile`
    was asked to explain. A program from a file has neither.
    """

    program: Program
    remarks: tuple[Diagnostic, ...] = ()
    explanations: "tuple[Explanation, ...]" = ()
    _engine: Engine | None = field(default=None, repr=False)
    _predicted: list[StepTime] = field(default_factory=list, repr=False)

    @property
    def target(self) -> Target:
        """The machine that the program was compiled for."""
        return self.program.target

    @property
    def inputs(self) -> tuple[Declared, ...]:
        """Name, element type and shape of every input, in the order of the model."""
        return tuple(self.program.inputs)

    @property
    def outputs(self) -> tuple[Declared, ...]:
        """Name, element type and shape of every output, in the order of the model. Where an extent depends on data,
        the shape has its bound, and results are cut."""
        return tuple(port for port in self.program.outputs if port[0] not in self.program.counters)

    @property
    def manifest(self) -> Mapping[str, object]:
        """Model, options, placement and predicted figures, as the program file keeps them."""
        return self.program.manifest

    @property
    def cycles(self) -> Cycles:
        """Predicted cycles of a run; a run counts exactly these.

        Where data decides, this is a run in which every loop makes as many trips as its bound says (one where it has
        none) and every If takes its longer branch; `predict` takes other decisions.
        """
        return Cycles.of(self._times())

    def predict(self, decisions: Decisions) -> Cycles:
        """Predicted cycles of a run with these decisions, those of a `Result` or one number for every time; a run that
        decides so counts exactly these. Raises IPU0711 for a name that no loop and no If has, IPU0712 for a number that
        is none of theirs."""
        return Cycles.of(self._times(decisions))

    def run(
        self, inputs: Mapping[str, ArrayLike] | None = None, *, checked: bool = False, timing_only: bool = False,
        decisions: Decisions | None = None,
    ) -> Result:  # fmt: skip
        """Run the program once, from fresh tile memory.

        `checked` follows every word of tile memory and refuses a read of stale or foreign data (IPU0611); it is slow.
        With `timing_only` no numbers are computed and no inputs needed; what data would decide is as in `decisions`, by
        default as for `cycles`. Inputs of patterns (`set_pattern`) need not be given. Raises CompileError for wrong
        inputs (IPU0601 to IPU0604, IPU0610, all at once) and for a program without weights (IPU0510).
        """
        if timing_only:
            if checked:
                raise error("IPU0613", "checked mode watches numbers, and a run for timing only computes none")
            return self._result({}, self._times(decisions))
        if decisions:
            raise error("IPU0712", "decisions are given to a run for timing only: in others data decides")
        arrays = check_inputs(self.program.inputs, inputs or {}, self.program.held)
        engine = self._checked_engine() if checked else self._plain_engine()
        try:
            outputs = engine.run(arrays)
        finally:
            # The next run starts from fresh memory, and nobody holds a chip's worth of it in between.
            engine.memory = None
        declared = trimmed(as_declared(outputs, self.program.outputs), self.program.extents)
        decided = {name: tuple(found) for name, found in engine.decisions.items()}
        return self._result(declared, engine.times, decided)

    @property
    def patterns(self) -> tuple[str, ...]:
        """Names of the block-sparse operands that are inputs, in the order of the model."""
        return tuple(self.program.patterns)

    def set_pattern(self, name: str, mask: ArrayLike, values: ArrayLike) -> PatternReport:
        """Set the pattern and the values of a block-sparse operand for the runs that follow; nothing is recompiled.

        `mask` is over the weight's blocks or elements, bools or 0 and 1; `values` is the weight [k, n], of which the
        mask is taken, or the blocks of the mask alone, [blocks, bk, bn] in row-major order of the grid of blocks. A
        program that is saved keeps them. Raises CompileError IPU0621 (no such pattern), IPU0622 (shape or type),
        IPU0623 (beyond the capacity of the buckets); the pattern stays as it was then.
        """
        return set_pattern(self.program, name, mask, values)

    def profile(self) -> Profile:
        """Cycles of every superstep and bytes of every tile; nothing is computed for it."""
        times = self._times()
        return Profile(tuple(times), Cycles.of(times), tile_bytes(self.program))

    def save(self, path: str | Path) -> None:
        """Write the program file. Raises CompileError IPU0508 where it cannot be written; nothing is left then."""
        save_program(self.program, path)

    def _plain_engine(self) -> Engine:
        # Kept for the times of its steps, which it computes once.
        if self._engine is None:
            self._engine = Engine(self.program)
        return self._engine

    def _checked_engine(self) -> Engine:
        # Loads what moves numbers (numba), which a run for timing does without.
        from ipucc.runtime.checked import checked_engine

        return checked_engine(self.program)

    def _times(self, decisions: Decisions | None = None) -> list[StepTime]:
        if decisions:
            check_decisions(self.program, decisions)
            return self._plain_engine().predict(decisions)
        if not self._predicted:
            self._predicted = self._plain_engine().predict()
        return self._predicted

    def _result(
        self,
        outputs: dict[str, Array],
        times: Sequence[StepTime],
        decisions: Mapping[str, tuple[int, ...]] | None = None,
    ) -> Result:
        cycles = Cycles.of(times)
        seconds = self.target.cycles_to_seconds(cycles.total)
        flops, sparse = (_count(self.manifest.get(key)) for key in ("flops", "sparse_flops"))
        utilisation = self._utilisation(flops, seconds)
        return Result(outputs, cycles, seconds, flops, sparse, utilisation, tuple(times), decisions or {})

    def _utilisation(self, flops: int, seconds: float) -> float:
        dtype: Literal["fp16", "fp32"] = "fp16" if self.manifest.get("amp") == "fp16" else "fp32"
        half = dtype == "fp16" and self.manifest.get("partials") == "fp16"
        if not flops or not seconds or not self.target.amp.units(dtype, "fp16" if half else "fp32"):
            return 0.0
        return flops / (self.target.peak_flops(dtype, "fp16" if half else "fp32") * seconds)


def compile(
    source: "str | Path | onnx.ModelProto | ir.Model",
    *,
    target: str = "gc200",
    precision: Literal["model", "fp16"] = "model",
    partials: Literal["fp16", "fp32"] = "fp16",
    dims: Mapping[str, int] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    bind: Mapping[str, ArrayLike] | None = None,
    passes: str | None = None,
    block: int | tuple[int, int] | None = None,
    density: float | None = None,
    score: str | None = None,
    pattern: str | None = None,
    mask: str | None = None,
    calibrate: str | None = None,
    budget: int | None = None,
    solver: Literal["cpsat", "greedy"] = "cpsat",
    load: Sequence[str] = (),
    effort: Literal["fast", "default", "max"] = "default",
    recompute: Literal["auto", "off"] = "auto",
    explain: Sequence[str] = (),
    cache: str | Path | None = None,
    on_pass: Callable[[str, float], None] | None = None,
) -> Executable:
    """Compile an ONNX model, given as a file or in memory.

    `target` is the name of a machine or a machine file. `dims` and `input_shapes` give sizes to symbolic dimensions;
    `bind` gives values to inputs, which are constants of the program then (shapes, axes, counts).
    `passes` replaces the graph-level pipeline; `block`, `density`, `score`, `pattern`, `mask`, `calibrate` and `budget`
    add block sparsity to the default one (options of the pass `sparsify`; mask and calibrate name .npz files). `load`
    names Python files with passes. `effort` says how long placement searches; `recompute` whether tensors may be
    computed again, instead of kept, where the model does not fit otherwise; `explain` names ops or ONNX nodes, or
    patterns of them, whose plans are explained in the result; `cache` is a folder of compiled programs and of plans, by
    default that of IPUCC_CACHE_DIR (see `ipucc.cache`); `on_pass` hears of every finished pass with its wall seconds.
    Raises CompileError for what the user can mend, DoesNotFit where the target is too small.
    """
    # Running a program takes neither onnx nor the solver, so only this function loads them.
    from ipucc.cache import cache_folder, find_entry
    from ipucc.compiler import CompileOptions, compile_model

    options = CompileOptions(
        target, precision, partials, dict(dims or {}), dict(input_shapes or {}), passes, block, density, solver,
        tuple(load), effort, recompute=recompute, score=score, pattern=pattern, mask=mask, calibrate=calibrate,
        budget=budget, bind=dict(bind or {}),
    )  # fmt: skip
    folder = cache_folder(cache)
    entry = None if explain else find_entry(source, options, folder)
    if entry is not None and (kept := entry.load()) is not None:
        return Executable(*kept)
    compiled = compile_model(source, options, on_pass=on_pass, explain=explain, cache=folder)
    if entry is not None:
        entry.store(compiled.program, compiled.remarks)
    return Executable(compiled.program, compiled.remarks, compiled.explanations)


def load(path: str | Path) -> Executable:
    """Read a program file. Raises CompileError (IPU0501 to IPU0507) for a missing, foreign or damaged file."""
    return Executable(load_program(path))


def _count(value: object) -> int:
    """A count of the manifest, 0 where it has none: the file may come from elsewhere."""
    return value if type(value) is int and value >= 0 else 0
