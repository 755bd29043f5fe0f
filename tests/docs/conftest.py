"""The pages of the documentation, and what is found in them."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^(`{3,})(\S*)([^\n]*)\n(.*?)^\1[ ]*$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: the language behind the fence, its text, and where the text starts in the page."""

    language: str
    text: str
    start: int


@dataclass(frozen=True)
class Page:
    """A Markdown page; `name` is its path from the root of the repository."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    def blocks(self, language: str | None = None) -> list[Block]:
        """All fenced blocks, or those of one language, in order."""
        found = [Block(m[2], m[4], m.start(4)) for m in _FENCE.finditer(self.text)]
        return [b for b in found if language is None or b.language == language]

    def prose(self) -> str:
        """The text outside of fenced blocks."""
        return _FENCE.sub("", self.text)


def pages() -> list[Page]:
    """Every page of the repository that users read."""
    return [Page(ROOT / name) for name in ("README.md", "CHANGELOG.md")] + [
        Page(path) for path in sorted((ROOT / "docs").rglob("*.md"))
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "page" in metafunc.fixturenames:
        found = pages()
        metafunc.parametrize("page", found, ids=[p.name for p in found])


@pytest.fixture
def root() -> Path:
    return ROOT


@pytest.fixture
def all_pages() -> list[Page]:
    return pages()
