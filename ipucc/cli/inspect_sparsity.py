"""`ipucc inspect --sparsity`: zeros in the weights of a model, and what block sparsity would buy."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ipucc.cli.output import table
from ipucc.cli.progress import watched
from ipucc.diagnostics import JsonValue

if TYPE_CHECKING:
    from ipucc.compiler import CompileOptions
    from ipucc.sparse_weights import SparseWeight

__all__ = ["sparsity_document", "sparsity_page"]

_COLUMNS = (
    "weight", "taps x k x n", "not zero", "4x4", "8x8", "16x16", "block", "dense", "sparse", "pays below",
)  # fmt: skip


def sparsity_document(file: str, options: "CompileOptions") -> tuple[dict[str, JsonValue], "list[SparseWeight]"]:
    """The document of `--json`, and the layers that it lists."""
    from ipucc.sparse_weights import sparse_weights

    with watched() as watch:
        found = sparse_weights(file, options, on_start=watch.started)
    document: dict[str, JsonValue] = {
        "model": file,
        "target": options.target,
        "precision": options.precision,
        "weights": [weight.to_json() for weight in found],
    }
    return document, found


def sparsity_page(file: str, options: "CompileOptions", found: "Sequence[SparseWeight]") -> str:
    """The same for people."""
    precision = "" if options.precision == "model" else f", {options.precision}"
    title = f"{file} on {options.target}{precision}: share of elements and blocks that are not zero, predicted cycles"
    return table(title, _COLUMNS, [_row(weight) for weight in found])


def _row(weight: "SparseWeight") -> tuple[str, ...]:
    taps, k, n = weight.shape
    known = weight.densities
    shares = [] if known is None else [f"{known[b, b]:.1%}" for b in (1, 4, 8, 16)]
    return (
        weight.weight,
        f"{taps} x {k} x {n}" if weight.kind == "conv" else f"{k} x {n}",
        *(shares or ("",) * 4),
        f"{weight.block[0]}x{weight.block[1]}",
        _cycles(weight.dense_cycles),
        _cycles(weight.sparse_cycles),
        "never" if not weight.break_even else f"{weight.break_even:.1%}",
    )


def _cycles(count: int | None) -> str:
    return "" if count is None else f"{count:,}"
