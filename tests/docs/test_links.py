"""Links lead somewhere, and every page is linked."""

import re
from pathlib import Path

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def links(page) -> list[str]:
    return _LINK.findall(page.prose())


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found = set()
    for title in re.findall(r"^#+ +(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower().strip()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


def test_links_lead_to_files_and_headings(page) -> None:
    wrong = []
    for link in links(page):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.path.parent / file).resolve() if file else page.path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert wrong == []


def test_every_page_can_be_reached_from_the_readme(all_pages, root: Path) -> None:
    by_path = {page.path.resolve(): page for page in all_pages}
    pending, reached = [(root / "README.md").resolve()], set()
    while pending:
        path = pending.pop()
        if path in reached or path not in by_path:
            continue
        reached.add(path)
        pending += [(path.parent / link.partition("#")[0]).resolve() for link in links(by_path[path])]
    assert [page.name for page in all_pages if page.path.resolve() not in reached] == []
