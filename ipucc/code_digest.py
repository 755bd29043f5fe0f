"""Digests of source code, for what is kept on disk: no change of a formula or a pass meets what was kept before it."""

import hashlib
import secrets
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Final

__all__ = ["foreign_code", "own_code"]

_UNKNOWN: Final = secrets.token_hex(16)
"""Stands for code that lies in no file, so that nothing of another process is like it."""


@cache
def own_code() -> bytes:
    """A digest of ipucc's own source and machine files."""
    digest = hashlib.sha256()
    for path in sorted({p for root in _roots() for p in root.rglob("*") if p.suffix in (".py", ".toml")}):
        digest.update(str(path.name).encode() + path.read_bytes())
    return digest.digest()


@cache
def foreign_code(function: object) -> str:
    """ "" for a function of ipucc, else a digest of the file that it comes from: codelets, lowerings and passes may be
    registered from outside. What comes from no file has a digest that holds for this process only."""
    if not isinstance(function, FunctionType):
        return _UNKNOWN
    path = Path(function.__code__.co_filename).resolve()
    if any(path.is_relative_to(root) for root in _roots()):
        return ""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return _UNKNOWN


@cache
def _roots() -> tuple[Path, ...]:
    """The folders of ipucc; passes and runtime are links in a checkout."""
    here = Path(__file__).resolve().parent
    return here, *((here / name).resolve() for name in ("passes", "runtime"))
