"""The points of a sweep, and the options that each is compiled with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Final

from ipucc.compiler import CompileOptions
from ipucc.diagnostics import error
from ipucc.optimise import graph_pipeline
from ipucc.pass_manager import default_registry, parse_pipeline
from ipucc.pass_manager.pipeline import Pipeline, Repeat, Step
from ipucc.passes.graph.sparsify import Sparsify
from ipucc.sparsity import Block

__all__ = ["Point", "Study", "block_text", "grid", "point_options"]

_SHORT: Final = ("score", "pattern", "calibrate")
"""Options of a compilation that are short forms of options of the pass."""


@dataclass(frozen=True)
class Point:
    """One compilation of a sweep. `block` (along k and n) and `density` are None for the dense model."""

    target: str
    block: Block | None
    density: float | None

    def __str__(self) -> str:
        if self.block is None:
            return f"{self.target} dense"
        return f"{self.target} block {block_text(self.block)} density {self.density:g}"


@dataclass(frozen=True)
class Study:
    """What is swept. `options` is what all points share: `target`, `block` and `density` come from the grid.

    `data` is an .npz of labelled samples, judged by the simulator if `faithful`, else by onnxruntime. Plans of ops are
    kept in the folder `cache` where one is named.
    """

    model: Path
    options: CompileOptions
    targets: Sequence[str]
    blocks: Sequence[Block]
    densities: Sequence[float]
    data: Path | None = None
    faithful: bool = False
    cache: Path | None = None


def block_text(block: Block) -> str:
    """A block as it is written in an option: `16`, or `16x8`."""
    return str(block[0]) if block[0] == block[1] else f"{block[0]}x{block[1]}"


def grid(study: Study) -> list[Point]:
    """The points in order: per target the dense model, then by block and density; each once."""
    sparse = list(product(dict.fromkeys(study.blocks), dict.fromkeys(study.densities)))
    found = []
    for target in dict.fromkeys(study.targets):
        found.append(Point(target, None, None))
        found += [Point(target, block, density) for block, density in sparse]
    return found


def point_options(study: Study) -> list[tuple[Point, CompileOptions]]:
    """Every point with its options.

    A sparse point is compiled as `ipucc compile` does with its block and density. Passes of the user's have a
    `sparsify`, which takes block and density there; the dense model goes without. Raises CompileError where options are
    wrong or exclude each other.
    """
    options = study.options
    if options.passes is None:
        return [(point, _filled(options, point, graph_pipeline(_short(options, point)))) for point in grid(study)]
    if any(getattr(options, name) is not None for name in _SHORT):
        raise error(
            "IPU0308",
            "--score, --pattern and --calibrate are short forms of a pass, and --passes replaces all passes",
            help=["write sparsify{score=...} into --passes; the sweep gives it block and density"],
        )
    registry = default_registry()
    for path in options.load:
        registry.load_file(path)
    pipeline = parse_pipeline(graph_pipeline(options), registry)
    own = [step for step in pipeline.passes() if isinstance(step, Sparsify)]
    if not own:
        raise error("IPU0308", "--passes has no sparsify, which would take the blocks and densities of the sweep")
    if any(step.mask or step.pattern == "zeros" for step in own):
        raise error("IPU0308", "a mask or pattern=zeros says which blocks are kept, and so do the densities of a sweep")
    return [(point, _filled(options, point, str(_with(pipeline, point)))) for point in grid(study)]


def _short(options: CompileOptions, point: Point) -> CompileOptions:
    """The options of a point with the short forms of `sparsify`; of the dense model without them."""
    if point.block is None:
        return replace(options, score=None, pattern=None, calibrate=None)
    # One side is one number: the same text as a user would write.
    block = point.block[0] if point.block[0] == point.block[1] else point.block
    return replace(options, block=block, density=point.density)


def _filled(options: CompileOptions, point: Point, passes: str) -> CompileOptions:
    # A process that computes the point may run in another folder.
    target = str(Path(point.target).absolute()) if point.target.endswith(".toml") else point.target
    return replace(options, target=target, passes=passes, score=None, pattern=None, calibrate=None)


def _with(pipeline: Pipeline, point: Point) -> Pipeline:
    """The pipeline with the block and density of a point in every `sparsify`, for the dense model without the pass."""
    steps: list[Step] = []
    for step in pipeline.steps:
        if isinstance(step, Repeat):
            body = _with(step.body, point)
            steps += [Repeat(step.n, body)] if body.steps else []
        elif not isinstance(step, Sparsify):
            steps.append(step)
        elif point.block is not None and point.density is not None:
            steps.append(replace(step, block=point.block, density=point.density))
    return Pipeline(tuple(steps))
