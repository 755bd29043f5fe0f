"""Which passes exist: those of ipucc, of installed packages (entry points) and of files given by `--load`.

Nothing is imported before it is asked for. Two providers of one name are an error that names both.
"""

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Final

from ipucc.diagnostics import CompileError, error
from ipucc.pass_manager.base import Pass
from ipucc.pass_manager.options import describe_options, suggest

ENTRY_POINT_GROUP: Final = "ipucc.passes"

BUILT_IN: Final[dict[str, tuple[str, str]]] = {
    "clean-up": ("ipucc.passes.graph.clean_up", "CleanUp"),
    "dynamic-sparse": ("ipucc.passes.graph.dynamic_sparse", "DynamicSparse"),
    "fuse": ("ipucc.passes.graph.fuse", "Fuse"),
    "fuse-activation": ("ipucc.passes.graph.fuse_activation", "FuseActivation"),
    "fuse-attention": ("ipucc.passes.graph.fuse_attention", "FuseAttention"),
    "fuse-conv": ("ipucc.passes.graph.fuse_conv", "FuseConv"),
    "fuse-epilogue": ("ipucc.passes.graph.fuse_epilogue", "FuseEpilogue"),
    "fuse-norm": ("ipucc.passes.graph.fuse_norm", "FuseNorm"),
    "precision": ("ipucc.passes.graph.precision", "Precision"),
    "sparsify": ("ipucc.passes.graph.sparsify", "Sparsify"),
    "use-zeros": ("ipucc.passes.graph.use_zeros", "UseZeros"),
}
"""Name -> module and class."""

_NAME: Final = re.compile(r"[a-z][a-z0-9-]*")


@dataclass(frozen=True, slots=True)
class Provider:
    """Who offers a pass, and how to get it."""

    owner: str
    load: Callable[[], type[Pass]]


@dataclass
class Registry:
    """Passes by name. A new registry is empty."""

    providers: dict[str, Provider] = field(default_factory=dict)

    def add(self, name: str, owner: str, load: Callable[[], type[Pass]]) -> None:
        """Adds a provider. Raises CompileError (IPU0305) if the name is taken, IPU0306 if it is no pass
        name."""
        if not _NAME.fullmatch(name) or name == "repeat":
            raise error("IPU0306", f"{name!r} of {owner} is no name for a pass", help=["use [a-z][a-z0-9-]*"])
        if name in self.providers:
            raise error("IPU0305", f"the pass {name!r} is offered by {self.providers[name].owner} and by {owner}")
        self.providers[name] = Provider(owner, load)

    def get(self, name: str) -> type[Pass]:
        """The class of a pass. Raises CompileError: IPU0302 (unknown), IPU0306 (it cannot be loaded)."""
        provider = self.providers.get(name)
        if provider is None:
            raise error(
                "IPU0302",
                f"unknown pass {name!r}",
                help=[*suggest(name, self.providers), "`ipucc passes` lists them"],
            )
        try:
            cls = provider.load()
        except CompileError:
            raise
        except Exception as failure:
            raise _cannot_load(f"the pass {name!r} of {provider.owner}", failure) from failure
        if not (isinstance(cls, type) and issubclass(cls, Pass)):
            raise error("IPU0306", f"{name!r} of {provider.owner} is not a class derived from Pass")
        if cls.name != name:
            raise error("IPU0306", f"the pass {name!r} of {provider.owner} calls itself {cls.name!r}")
        describe_options(cls)
        return cls

    def names(self) -> tuple[str, ...]:
        """The names of all passes, sorted."""
        return tuple(sorted(self.providers))

    def load_file(self, path: str | Path) -> tuple[str, ...]:
        """Adds the passes that a Python file defines and returns their names. The file is executed.

        Raises CompileError (IPU0306) if it cannot be read, fails, or defines no pass; IPU0305 for a taken
        name.
        """
        path = Path(path)
        module = execute(path)
        found = [
            cls
            for cls in vars(module).values()
            if isinstance(cls, type)
            and issubclass(cls, Pass)
            and cls.__module__ == module.__name__
            and "name" in vars(cls)
        ]
        if not found:
            raise error("IPU0306", f"{path} defines no pass", help=["a pass is a dataclass derived from Pass"])
        for cls in found:
            self.add(cls.name, str(path), _constant(cls))
        return tuple(cls.name for cls in found)


def default_registry() -> Registry:
    """A new registry with the passes of ipucc and those of installed packages."""
    registry = Registry()
    for name, (module, cls) in BUILT_IN.items():
        registry.add(name, "ipucc", _importer(module, cls))
    for point in _installed():
        owner = point.dist.name if point.dist is not None else point.value
        registry.add(point.name, f"the package {owner}", _entry_loader(point))
    return registry


@cache
def _installed() -> tuple[EntryPoint, ...]:
    """The passes of installed packages; looked up once, since every package of the environment is opened for it."""
    return tuple(sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda p: (p.name, p.value)))


def summary(cls: type[Pass]) -> str:
    """The first paragraph of the docstring of a pass, on one line."""
    return " ".join((inspect.getdoc(cls) or "").split("\n\n", 1)[0].split())


def execute(path: Path) -> ModuleType:
    """The module that a Python file makes; the file is executed. CompileError IPU0306 if it cannot be read or fails."""
    name = f"ipucc_loaded_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise error("IPU0306", f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # dataclasses and typing look a class's annotations up in the module of its name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except CompileError:
        raise
    except Exception as failure:
        raise _cannot_load(str(path), failure) from failure
    return module


def _cannot_load(what: str, failure: Exception) -> CompileError:
    return error("IPU0306", f"{what} cannot be loaded", notes=[f"{type(failure).__name__}: {failure}"])


def _constant(cls: type[Pass]) -> Callable[[], type[Pass]]:
    return lambda: cls


def _importer(module: str, cls: str) -> Callable[[], type[Pass]]:
    def load() -> type[Pass]:
        found: type[Pass] = getattr(importlib.import_module(module), cls)
        return found

    return load


def _entry_loader(point: EntryPoint) -> Callable[[], type[Pass]]:
    def load() -> type[Pass]:
        found: type[Pass] = point.load()
        return found

    return load
