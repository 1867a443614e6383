"""What a SHOW is: columns, and what fills them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trio_pool.config.model import Config
    from trio_pool.daemon.console.table import Column, Row
    from trio_pool.daemon.gathered.parts import Part
    from trio_pool.daemon.gathered.sights import Sight
    from trio_pool.daemon.service import Service

CONSOLE = "pgbouncer"
"""The console as a database among the others, whichever of its names a client has used."""


@attrs.frozen
class View:
    """What tables are made from. `census` is of this process, or of several together."""

    service: Service
    census: Sight

    @property
    def config(self) -> Config:
        return self.service.config


@attrs.frozen
class Show:
    """One table. `rows` is called when it is asked for."""

    columns: tuple[Column, ...]
    rows: Callable[[View], Iterable[Row]]
    meaning: str
    """For people, in a few words."""
    parts: tuple[Part, ...] = ()
    """Of the census, what it is made from."""
