"""SHOW STATS, STATS_TOTALS, STATS_AVERAGES and TOTALS."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Final

from trio_pool.daemon.console.samples import Totals
from trio_pool.daemon.console.show import Show, View
from trio_pool.daemon.console.table import Type, columns, of
from trio_pool.daemon.gathered.parts import Part

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trio_pool.daemon.console.table import Row

# One of each per field of `Totals`, in its order.
_TOTALS: Final = (
    "total_server_assignment_count total_xact_count total_query_count total_received total_sent "
    "total_xact_time total_query_time total_wait_time total_client_parse_count total_server_parse_count "
    "total_bind_count"
)
_AVERAGES: Final = (
    "avg_server_assignment_count avg_xact_count avg_query_count avg_recv avg_sent avg_xact_time "
    "avg_query_time avg_wait_time avg_client_parse_count avg_server_parse_count avg_bind_count"
)
_PLAIN: Final = (
    "server_assignment_count xact_count query_count bytes_received bytes_sent xact_time query_time wait_time "
)
_COUNTS: Final = "client_parse_count server_parse_count bind_count"
_NAMES_OF_SUMS: Final = (
    *("server_assignment_count", "xact_count", "query_count", "client_bytes", "server_bytes"),
    *("xact_time", "query_time", "wait_time"),
    *("ps_client_parse_count", "ps_server_parse_count", "ps_bind_count"),
)


def _stats(view: View) -> Iterator[Row]:
    for name, stats in view.census.stats().items():
        yield name, *stats.totals.values, *stats.averages.values


def _totals(view: View) -> Iterator[Row]:
    for name, stats in view.census.stats().items():
        yield name, *stats.totals.values


def _averages(view: View) -> Iterator[Row]:
    for name, stats in view.census.stats().items():
        yield name, *stats.averages.values


def _sum(found: Iterable[Totals]) -> Totals:
    return reduce(add, found, Totals())


def _sums(view: View) -> Iterator[Row]:
    found = view.census.stats().values()
    totals = _sum(stats.totals for stats in found)
    averages = _sum(stats.averages for stats in found)
    for kind, sums in (("total", totals), ("avg", averages)):
        for name, value in zip(_NAMES_OF_SUMS, sums.values, strict=True):
            yield f"{kind}_{name}", value


STATS = Show(
    columns("database") + of(Type.NUMERIC, _TOTALS) + of(Type.NUMERIC, _AVERAGES),
    _stats,
    "what each database has done, in all and per second",
    (Part.STATS,),
)
STATS_TOTALS = Show(
    columns("database") + of(Type.NUMERIC, _PLAIN + _COUNTS),
    _totals,
    "what each database has done",
    (Part.STATS,),
)
STATS_AVERAGES = Show(
    # PgBouncer 1.24 prefixes the last three only.
    columns("database") + of(Type.NUMERIC, _PLAIN + " ".join(f"avg_{name}" for name in _COUNTS.split())),
    _averages,
    "the same per second",
    (Part.STATS,),
)
TOTALS = Show(columns("name", value=Type.NUMERIC), _sums, "the same of all databases together", (Part.STATS,))
