"""What the documentation lists is what the program has."""

from __future__ import annotations

import re
from pathlib import Path

from trio_pool.errors import Reason, SqlState

SEMANTICS = Path(__file__).resolve().parent.parent / "docs" / "semantics.md"


def first_cells(heading: str) -> list[str]:
    """The first column of the table below a heading of the page."""
    section = SEMANTICS.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| (.+?) \|", section, re.MULTILINE)[1:]


def test_every_reason_is_explained() -> None:
    """The table of reasons has all reasons that the log can give, and no other."""
    listed = {cell.strip("`") for cell in first_cells("Why connections end")}
    assert listed == {reason.value for reason in Reason}


def test_every_sqlstate_is_explained() -> None:
    """The table of errors has every SQLSTATE that trio-pool produces by itself, and no other in full."""
    listed = set(re.findall(r"\b[0-9A-Z]{5}\b", " ".join(first_cells("Errors of the pool"))))
    assert listed == {value for name, value in vars(SqlState).items() if not name.startswith("_")}
