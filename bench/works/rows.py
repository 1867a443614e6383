"""One large result: a million rows of a hundred bytes to one client."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from .streaming import MEGABYTES, ROWS, SELECT, by_stream
from .work import Plan, Work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..stage import Stage


@contextlib.contextmanager
def plan(stage: Stage) -> Iterator[Plan]:
    title = f"one result of {ROWS:,} rows, one client"
    with by_stream(stage, title, SELECT, tag=f"SELECT {ROWS}") as planned:
        yield planned


WORKS = (
    Work("rows", f"one result of {ROWS:,} rows of 100 bytes", plan, figures=(MEGABYTES,), unit="megabyte"),
)
