"""docs/operators.md, which `make conformance` writes, against the lowerings that there are."""

import re
from pathlib import Path

from ipucc.ops.support import supported_ops

ROW = re.compile(r"^\| `(\w+)` \| (runs|in others|while compiling|refused) \| (\d+) of (\d+) \|", re.MULTILINE)


def test_the_page_is_about_the_ops_that_there_are() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operators.md").read_text()
    rows = ROW.findall(page)
    lowered = {op for domain, op in supported_ops() if not domain}
    assert {op for op, how, *_ in rows if how == "runs"} <= lowered
    assert all((how == "refused") == (passes == "0") for _, how, passes, _ in rows)
    assert len(rows) > 180
