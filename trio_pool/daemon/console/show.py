"""What a SHOW is: columns, and what fills them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from trio_pool.daemon.census import Census

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trio_pool.daemon.console.samples import Samples
    from trio_pool.daemon.console.table import Column, Row
    from trio_pool.daemon.service import Service

CONSOLE = "pgbouncer"
"""The console as a database among the others, whichever of its names a client has used."""


@attrs.frozen
class View:
    """What tables are made from."""

    service: Service
    samples: Samples

    @property
    def census(self) -> Census:
        return Census(self.service)


@attrs.frozen
class Show:
    """One table. `rows` is called when it is asked for."""

    columns: tuple[Column, ...]
    rows: Callable[[View], Iterable[Row]]
    meaning: str
    """For people, in a few words."""
