"""SHOW TUNNELS: connections between edges and origins that the origins have made."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from trio_pool.daemon.console.show import Show, View
from trio_pool.daemon.console.table import Type, columns, of
from trio_pool.daemon.gathered.parts import Part

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_pool.daemon.console.table import Row


def _tunnels(view: View) -> Iterator[Row]:
    for one in view.census.tunnels():
        until = None if one.good_until is None else _day(one.good_until)
        yield one.side, one.peer, one.ready, one.used, one.taken, one.lost, until, one.failure


def _day(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(when))


TUNNELS = Show(
    columns("side peer") + of(Type.INT8, "ready used taken lost") + columns("certificate_until failure"),
    _tunnels,
    "connections that origins have made to edges",
    (Part.TUNNELS,),
)
