"""Codelets of tests and samples are known while the tests of builder programs run, and not beyond: every key of the
cache depends on what is registered."""

from collections.abc import Iterator
from typing import cast

import pytest

from ipucc.codelets.base import Codelet, codelets


@pytest.fixture(autouse=True, scope="module")
def registered(request: pytest.FixtureRequest) -> Iterator[None]:
    """The codelets that a test file names; ipucc's own may load at any time, and stay."""
    known = cast(dict[str, type[Codelet]], codelets())
    named = [x for x in vars(request.module).values() if isinstance(x, type) and issubclass(x, Codelet)]
    known.update({kind.name: kind for kind in named if hasattr(kind, "name")})
    yield
    for name in [name for name, kind in known.items() if not kind.__module__.startswith("ipucc.")]:
        del known[name]
