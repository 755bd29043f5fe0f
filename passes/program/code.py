"""Code on the tiles: what the program's instructions and vertex states take, before any tensor is placed."""

from dataclasses import dataclass

import numpy as np

from ipucc.codelets.base import Codelet
from ipucc.program.model import Compute, Exchange, Program, walk
from ipucc.program.timing import Exchanges
from ipucc.target import Target

__all__ = ["CodeSize", "code_size"]


@dataclass(frozen=True)
class CodeSize:
    """Bytes on the fullest tile: codelets (once per program), vertex states, exchange code, control code."""

    codelets: int
    vertices: int
    exchange: int
    control: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.codelets + self.vertices + self.exchange + self.control


def code_size(program: Program, target: Target, exchanges: Exchanges | None = None) -> CodeSize:
    """Sizes of code and state; the figures are inferred ones, see the machine file and the codelets. `exchanges` are
    filled and used again."""
    exchanges = exchanges or Exchanges(target)
    codelets: dict[type[Codelet], int] = {}
    vertices = np.zeros(target.tiles, np.int64)
    exchange = np.zeros(target.tiles, np.int64)
    steps = 0
    for step in walk(program.steps, program.functions):
        steps += 1
        if isinstance(step, Compute):
            steps -= len(step.beside)
            codelets[type(step.codelet)] = step.codelet.code_bytes
            np.add.at(vertices, step.tiles, target.vertex_state_bytes)
        elif isinstance(step, Exchange):
            exchange += exchanges.code(step, program.buffers)
    return CodeSize(
        sum(codelets.values()), int(vertices.max()), int(exchange.max()), steps * target.step_code_bytes
    )  # fmt: skip
