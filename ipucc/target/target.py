"""The machine that a program is planned for, placed on and timed on: plain figures and what follows.

A `Target` holds no opinion about algorithms. Cycle formulas live beside the codelets and read the figures
they need here; the machine file says where each figure comes from (see `ipucc.target.machine_file`).
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

AmpType = Literal["fp8", "fp16", "fp32"]
"""Types that the matrix unit multiplies, and in which it accumulates (fp16 and fp32 only)."""

_ITEM_BYTES: dict[str, int] = {"fp8": 1, "fp16": 2, "fp32": 4}


@dataclass(frozen=True, slots=True)
class Range:
    """The values a machine file may give a figure, both ends included, and the unit they are in."""

    unit: str
    low: float
    high: float


def _figure(unit: str, low: float, high: float) -> dict[str, Range]:
    return {"range": Range(unit, low, high)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Amp:
    """The matrix unit of a tile (AMP): units fed by the workers, with weights that all workers share.

    A mode is a pair (type of the operands, type of the partials); `units_*` is 0 where a mode does not exist.
    `chain` is the depth of the pipeline through which a position passes.
    """

    units_f8: int = field(metadata=_figure("units", 0, 1024))
    units_f16: int = field(metadata=_figure("units", 0, 1024))
    units_f16_f32: int = field(metadata=_figure("units", 0, 1024))
    units_f32: int = field(metadata=_figure("units", 0, 1024))
    chain: int = field(metadata=_figure("units", 1, 64))
    position_cycles_f8: int = field(metadata=_figure("cycles", 1, 1024))
    position_cycles_f16: int = field(metadata=_figure("cycles", 1, 1024))
    position_cycles_f32: int = field(metadata=_figure("cycles", 1, 1024))
    weight_load_bytes_f8: int = field(metadata=_figure("bytes/cycle", 1, 4096))
    weight_load_bytes_f16: int = field(metadata=_figure("bytes/cycle", 1, 4096))
    weight_load_bytes_f32: int = field(metadata=_figure("bytes/cycle", 1, 4096))

    def units(self, dtype: AmpType, partials: AmpType) -> int:
        """Units working in this mode (output channels computed at once); 0 if there is no such mode."""
        by_mode = {
            ("fp8", "fp16"): self.units_f8,
            ("fp16", "fp16"): self.units_f16,
            ("fp16", "fp32"): self.units_f16_f32,
            ("fp32", "fp32"): self.units_f32,
        }
        return by_mode.get((dtype, partials), 0)

    def position_cycles(self, dtype: AmpType) -> int:
        """Issues that one output position (one row of a matmul) takes, for all units together."""
        by_type = {
            "fp8": self.position_cycles_f8,
            "fp16": self.position_cycles_f16,
            "fp32": self.position_cycles_f32,
        }
        return by_type[dtype]

    def weight_load_bytes(self, dtype: AmpType) -> int:
        """Bytes of weights that the supervisor loads per cycle from interleaved memory."""
        by_type = {
            "fp8": self.weight_load_bytes_f8,
            "fp16": self.weight_load_bytes_f16,
            "fp32": self.weight_load_bytes_f32,
        }
        return by_type[dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One IPU, or several that are linked. Cycles are those of the tile clock; rates are per tile, those of the host
    and of the links per chip.

    `tiles` counts those of all `ipus`; tiles of one chip follow each other. An exchange in which something crosses from
    chip to chip takes `link_phase_seconds` more, and what its links take: `link_bytes_per_second` is what all links of
    a chip move together in one direction.

    Memory of a tile, from the lowest offset: `executable_bytes` that may hold instructions (data too), then
    memory for data alone, of which the last `interleaved_bytes` can be read twice as wide as the rest. Memory consists
    of elements of `element_bytes`, of twice as many where it is interleaved: one issue reaches two places at once only
    in different elements. `reserved_bytes` are taken from the start of executable memory, before anything is placed.

    `phase_cycles` is the overhead of one exchange phase together with the compute set behind it:
    synchronisation, latency of the first word, launch. `launch_cycles` is the supervisor's part of starting
    one kernel, as the kernel formulas count it; a phase already contains it once. `exchange_factor`
    multiplies the cycles that bytes spend at a port. A fragment is one contiguous run of words in one
    transfer: it costs `fragment_cycles` of control beside its payload, and `fragment_code_bytes` of exchange
    code for every `max_send_words` words or part of them. `vertex_state_bytes` are held per vertex on its
    tile, `step_code_bytes` of control code per superstep on every tile.
    """

    name: str
    description: str = field(default="", compare=False)
    tiles: int = field(metadata=_figure("tiles", 1, 1 << 16))
    ipus: int = field(metadata=_figure("chips", 1, 1024))
    workers: int = field(metadata=_figure("workers", 1, 64))
    clock_hz: float = field(metadata=_figure("Hz", 1e6, 1e11))
    tile_bytes: int = field(metadata=_figure("bytes", 1 << 10, 1 << 26))
    executable_bytes: int = field(metadata=_figure("bytes", 1 << 10, 1 << 26))
    interleaved_bytes: int = field(metadata=_figure("bytes", 0, 1 << 26))
    element_bytes: int = field(metadata=_figure("bytes", 16, 1 << 26))
    reserved_bytes: int = field(metadata=_figure("bytes", 0, 1 << 26))
    vector_bytes: int = field(metadata=_figure("bytes", 4, 256))
    copy_bytes_per_cycle: float = field(metadata=_figure("bytes/cycle", 0.125, 4096))
    pair_tiles: int = field(metadata=_figure("tiles", 1, 64))
    exchange_bytes_per_cycle: float = field(metadata=_figure("bytes/cycle", 0.125, 4096))
    pair_bytes_per_cycle: float = field(metadata=_figure("bytes/cycle", 0.125, 4096))
    exchange_factor: float = field(metadata=_figure("ratio", 0.1, 100))
    phase_cycles: int = field(metadata=_figure("cycles", 0, 10**6))
    fragment_cycles: int = field(metadata=_figure("cycles", 0, 10**6))
    fragment_code_bytes: int = field(metadata=_figure("bytes", 0, 1 << 16))
    max_send_words: int = field(metadata=_figure("words", 1, 1 << 20))
    launch_cycles: int = field(metadata=_figure("cycles", 0, 10**6))
    vertex_state_bytes: int = field(metadata=_figure("bytes", 0, 1 << 16))
    step_code_bytes: int = field(metadata=_figure("bytes", 0, 1 << 16))
    host_bytes_per_second: float = field(metadata=_figure("bytes/s", 1e3, 1e15))
    link_bytes_per_second: float = field(metadata=_figure("bytes/s", 1e3, 1e15))
    link_phase_seconds: float = field(metadata=_figure("s", 0, 1))
    amp: Amp

    @property
    def memory_bytes(self) -> int:
        """Memory of all tiles."""
        return self.tiles * self.tile_bytes

    @property
    def usable_bytes(self) -> int:
        """Bytes of a tile that a program may use for variables, code and vertex state together."""
        return self.tile_bytes - self.reserved_bytes

    @property
    def interleaved_from(self) -> int:
        """Where interleaved memory begins, in bytes from the start of a tile's memory; its end where there is none."""
        return max(0, self.tile_bytes - self.interleaved_bytes)

    @property
    def plain(self) -> "Target":
        """The machine without interleaved memory: what it is for operands that do not lie there."""
        return replace(self, interleaved_bytes=0)

    @property
    def has_fp8(self) -> bool:
        """Whether the matrix unit takes 8-bit floats."""
        return self.amp.units_f8 > 0

    @property
    def host_bytes_per_cycle(self) -> float:
        """Bytes that the host moves to or from the whole chip per tile cycle, one direction."""
        return self.host_bytes_per_second / self.clock_hz

    @property
    def link_bytes_per_cycle(self) -> float:
        """Bytes that all links of a chip move per tile cycle, one direction."""
        return self.link_bytes_per_second / self.clock_hz

    @property
    def link_phase_cycles(self) -> int:
        """Cycles that an exchange between chips takes beside that of one chip."""
        return round(self.link_phase_seconds * self.clock_hz)

    @property
    def tiles_per_ipu(self) -> int:
        """Tiles of one chip."""
        return self.tiles // self.ipus

    def linked(self, ipus: int) -> "Target":
        """So many of this chip, linked; its name gets `x2` behind it for two."""
        if self.ipus != 1 or ipus < 1:
            raise ValueError(f"{ipus} times {self.name}, which has {self.ipus} chips")
        return self if ipus == 1 else replace(self, name=f"{self.name}x{ipus}", ipus=ipus, tiles=self.tiles * ipus)

    def vector_width(self, item_bytes: int) -> int:
        """Elements of `item_bytes` in one vector access of a worker: 4 for fp16, 2 for fp32."""
        return max(1, self.vector_bytes // item_bytes)

    def amp_input_channels(self, dtype: AmpType) -> int:
        """Input channels that one pass of the matrix unit reduces: 32 for fp8, 16 for fp16, 8 for fp32.

        The chain of units times the elements of one vector operand (poplibs, ConvVertexType.cpp).
        """
        return self.amp.chain * self.vector_width(_ITEM_BYTES[dtype])

    def amp_macs_per_cycle(self, dtype: AmpType, partials: AmpType) -> float:
        """Multiply-accumulates of one tile per cycle when the matrix unit never waits.

        Units times input channels per pass over the issues of one output position (poplibs,
        lib/poplin/PerformanceEstimation.hpp): 64 for fp16 with fp16 partials on 16 units.
        Raises `ValueError` for a mode that the machine does not have.
        """
        units = self.amp.units(dtype, partials)
        if units == 0:
            raise ValueError(f"{self.name} has no matrix unit for {dtype} with {partials} partials")
        return units * self.amp_input_channels(dtype) / self.amp.position_cycles(dtype)

    def amp_weight_cycles(self, dtype: AmpType, partials: AmpType) -> int:
        """Cycles to load the weights of one pass, units x input channels, at `weight_load_bytes` a cycle."""
        weights = self.amp.units(dtype, partials) * self.amp_input_channels(dtype) * _ITEM_BYTES[dtype]
        return -(-weights // self.weight_load_bytes(dtype))

    def weight_load_bytes(self, dtype: AmpType) -> int:
        """Bytes of weights that the supervisor loads per cycle: by single vectors without interleaved memory."""
        wide = self.amp.weight_load_bytes(dtype)
        return wide if self.interleaved_bytes else min(wide, self.vector_bytes)

    def peak_flops(self, dtype: AmpType, partials: AmpType) -> float:
        """Floating-point operations per second of all tiles at the matrix unit's peak, 2 per MAC."""
        return 2.0 * self.tiles * self.amp_macs_per_cycle(dtype, partials) * self.clock_hz

    def cycles_to_seconds(self, cycles: float) -> float:
        """Time on the device of a number of tile cycles."""
        return cycles / self.clock_hz

    def digest(self) -> str:
        """SHA-256 (hexadecimal) of the name and all figures: equal exactly when two targets behave alike."""
        content = asdict(self)
        del content["description"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
