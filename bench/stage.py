"""What every work finds: what was asked for, the database, and how to start each target."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import attrs

from . import poolers
from .problems import LeftOut

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from .database import Database
    from .pgbench import Protocol

    Start = Callable[[], AbstractContextManager[poolers.Target]]

DIRECT, TRIO_POOL, PGBOUNCER = "direct", "trio-pool", "pgbouncer"
TARGETS = (DIRECT, TRIO_POOL, PGBOUNCER)


@attrs.frozen
class Options:
    """What was asked for. `clients` and `pool_size` are None where each work has its own."""

    rounds: int = 5
    seconds: int = 5
    clients: int | None = None
    pool_size: int | None = None
    scale: int = 10
    quick: bool = False
    without: tuple[str, ...] = ()
    script: Path | None = None
    protocol: Protocol = "simple"


@attrs.frozen
class Stage:
    """`pgbouncer` is the program, None if there is none.

    `connections`: how many PostgreSQL takes at once. `own`: whether it is a throw-away one of ours.
    """

    options: Options
    database: Database
    connections: int
    pgbouncer: Path | None = None
    own: bool = True

    def clients(self, own: int) -> int:
        """The work's own number, unless another was asked for."""
        return self.options.clients or own

    def pool(self, own: int = 20) -> int:
        """The size of every pool."""
        return self.options.pool_size or own

    def direct(self, clients: int) -> dict[str, Start]:
        """PostgreSQL itself, for so many connections; raises `LeftOut` when they are started in vain."""

        def start() -> AbstractContextManager[poolers.Target]:
            if clients > self.connections:
                raise LeftOut(f"PostgreSQL takes {self.connections} connections, not {clients}")
            return poolers.direct(self.database.login)

        return {} if DIRECT in self.options.without else {DIRECT: start}

    def trio_pool(self, settings: poolers.Settings, name: str = TRIO_POOL) -> dict[str, Start]:
        """Or nothing, if it was not wanted."""
        start = functools.partial(poolers.trio_pool, name, self.database.login, settings)
        return {} if TRIO_POOL in self.options.without else {name: start}

    def bouncer(self, settings: poolers.Settings, name: str = PGBOUNCER) -> dict[str, Start]:
        """Or nothing, if it is not there or was not wanted."""
        if self.pgbouncer is None or PGBOUNCER in self.options.without:
            return {}
        return {
            name: functools.partial(poolers.pgbouncer, self.pgbouncer, name, self.database.login, settings)
        }

    def both(self, settings: poolers.Settings) -> dict[str, Start]:
        """Both poolers with the same settings."""
        return self.trio_pool(settings) | self.bouncer(settings)
