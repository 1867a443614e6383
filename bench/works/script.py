"""A script of the user's own, for pgbench: `--script FILE`."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING

from .. import pgbench, poolers
from .work import Plan, Work, by_pgbench, described, threads

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ..stage import Stage

CLIENTS = 32


@contextlib.contextmanager
def plan(file: Path, stage: Stage) -> Iterator[Plan]:
    clients, pool, protocol = stage.clients(CLIENTS), stage.pool(), stage.options.protocol
    targets = stage.direct(clients) | stage.both(poolers.Settings(pool, clients + 100))
    options = ("-s", str(stage.database.scale))
    load = pgbench.Load(clients, protocol, options, threads(protocol, clients), file.read_text())
    yield by_pgbench(stage, described(file.name, protocol, clients, pool), targets, load)


def work(file: Path) -> Work:
    """The work that runs this script."""
    return Work("script", f"the script {file.name}", functools.partial(plan, file))
