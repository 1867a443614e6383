"""COPY in both directions, one client."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ..database import COPY_TABLE
from .streaming import MEGABYTES, ROWS, SELECT, by_stream
from .work import Plan, Work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..stage import Stage

# Of one COPY; the table is emptied between two.
IN_MEGABYTES = 50
CREATE = f"create unlogged table if not exists {COPY_TABLE} (line text)"
TRUNCATE = f"truncate {COPY_TABLE}"


@contextlib.contextmanager
def out(stage: Stage) -> Iterator[Plan]:
    title = f"COPY TO STDOUT of {ROWS:,} rows, one client"
    with by_stream(stage, title, f"COPY ({SELECT}) TO STDOUT", tag=f"COPY {ROWS}") as planned:
        yield planned


@contextlib.contextmanager
def into(stage: Stage) -> Iterator[Plan]:
    stage.database.run_sql(CREATE)
    title = f"COPY FROM STDIN of {IN_MEGABYTES} MB into an unlogged table, one client"
    text = f"COPY {COPY_TABLE} FROM STDIN"
    with by_stream(stage, title, text, before=TRUNCATE, megabytes=IN_MEGABYTES) as planned:
        yield planned


WORKS = (
    Work("copy-out", "COPY TO STDOUT", out, figures=(MEGABYTES,), unit="megabyte"),
    Work("copy-in", "COPY FROM STDIN", into, figures=(MEGABYTES,), unit="megabyte"),
)
