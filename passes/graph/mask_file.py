"""Masks that a user gives in an .npz file, one per weight."""

import difflib
from collections.abc import Sequence

import onnx_ir as ir

from ipucc.diagnostics import CompileError, Diagnostic
from ipucc.graph.weight_names import source_name
from ipucc.npz import Npz, open_npz
from ipucc.passes.graph.products import Product
from ipucc.sparsity.blocks import Block, Mask
from ipucc.sparsity.masks import read_mask

__all__ = ["read_masks"]


def read_masks(path: str, products: Sequence[Product], block: Block) -> dict[ir.Value, tuple[Mask, Mask | None]]:
    """By weight, the mask over its blocks, and that over its elements where the file has one.

    Arrays are called like a product (any of `Product.names`) and are over elements, or over blocks, in the order of
    axes that the weight has in the model file. Weights that the file does not name have no entry. Raises CompileError
    with everything that is wrong: IPU0312 (the file), IPU0313 (a name), IPU0314 (shape, element type, values; two masks
    for one weight).
    """
    found: dict[ir.Value, tuple[Mask, Mask | None]] = {}
    by_name: dict[str, Product] = {}
    for product in products:
        for name in product.names:
            by_name.setdefault(name, product)
    problems: list[Diagnostic] = []
    with open_npz(path, "IPU0312") as npz:
        taken: dict[ir.Value, str] = {}
        for name in npz.members:
            product_or_none = by_name.get(name)
            if product_or_none is None:
                problems.append(_unknown(name, products))
                continue
            product = product_or_none
            if product.constant in taken:
                text = f"the masks {taken[product.constant]!r} and {name!r} are for the same weight"
                problems.append(Diagnostic("IPU0314", "error", text, where=path))
                continue
            taken[product.constant] = name
            try:
                found[product.constant] = _read(npz, name, product, block)
            except CompileError as failure:
                problems += failure.diagnostics
            except ValueError as failure:
                problems.append(_wrong(path, name, product, block, str(failure)))
    if problems:
        raise CompileError(problems)
    return found


def _read(npz: Npz, name: str, product: Product, block: Block) -> tuple[Mask, Mask | None]:
    header = npz.header(name)
    if header.shape not in (product.file_dims, product.file_grid(block)):
        raise ValueError(f"it has the shape {list(header.shape)}")
    if header.dtype.kind not in "biuf":
        raise ValueError(f"its element type is {header.dtype}, and should be bool, or numbers 0 and 1")
    return read_mask(product.from_file(npz.read(name)), product.shape, block)


def _wrong(path: str, name: str, product: Product, block: Block, reason: str) -> Diagnostic:
    shapes = dict.fromkeys((product.file_dims, product.file_grid(block)))
    wanted = " or ".join(f"{list(shape)} ({what})" for shape, what in zip(shapes, ("elements", "blocks"), strict=False))
    return Diagnostic(
        "IPU0314", "error", f"the mask {name!r} does not fit: {reason}", where=path,
        help=(f"a mask for this weight and blocks of {block[0]} x {block[1]} has the shape {wanted}",),
    )  # fmt: skip


def _unknown(name: str, products: Sequence[Product]) -> Diagnostic:
    known = list(dict.fromkeys(n for p in products for n in p.names))
    near = difflib.get_close_matches(name, known, n=1)
    helps = [f"did you mean {near[0]!r}?"] if near else []
    weights = list(dict.fromkeys(source_name(p.constant)[0] for p in products))
    helps.append(f"weights that can be block-sparse: {', '.join(weights) or 'none'}")
    text = f"the mask {name!r} is for no weight that can be block-sparse"
    return Diagnostic("IPU0313", "error", text, help=tuple(helps))
