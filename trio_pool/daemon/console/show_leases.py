"""Tables that PgBouncer has not: SHOW LEASES, PINS, TIMEOUTS, PREPARED and AHEAD."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Final

import attrs

from trio_pool.config.durations import format_duration
from trio_pool.config.timeouts import ClientTimeouts
from trio_pool.daemon.console.show import Show, View
from trio_pool.daemon.console.show_connections import moment
from trio_pool.daemon.console.show_pools import databases
from trio_pool.daemon.console.table import Type, columns, of
from trio_pool.daemon.gathered.parts import Part

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trio_pool.daemon.console.table import Row


def _leases(view: View) -> Iterator[Row]:
    waiting = {(pool.database, pool.user): pool.waiting for pool in view.census.pools()}
    for client in view.census.leases():
        yield (
            client.database,
            client.user,
            client.id,
            f"{client.address}:{client.port}" if client.port else client.address,
            client.application_name,
            client.server,
            moment(view.census.now - client.leased_for),
            round(client.leased_for, 6),
            round(client.transaction_for, 6),
            client.state,
            ", ".join(client.pins),
            client.doing,
            waiting.get((client.database, client.pool_user), 0),
        )


LEASES = Show(
    columns("database user", client=Type.INT4)
    + columns("address application_name", server=Type.INT4)
    + columns("since", held=Type.FLOAT8, transaction=Type.FLOAT8)
    + columns("state pins doing", waiting=Type.INT4),
    _leases,
    "who holds which server, for how long, doing what, and how many wait for that pool",
    (Part.LEASES, Part.POOLS),
)


def _pins(view: View) -> Iterator[Row]:
    totals = {(pool.database, pool.user): pool.pins for pool in view.census.pools()}
    for client in view.census.leases():
        for reason, seconds in client.pins.items():
            total = totals.get((client.database, client.pool_user), {}).get(reason, 0)
            yield (
                *(client.database, client.user, client.id, client.server, reason),
                *(round(seconds, 6), total, client.doing),
            )


PINS = Show(
    columns("database user", client=Type.INT4, server=Type.INT4)
    + columns("reason", pinned=Type.FLOAT8, total=Type.INT8)
    + columns("doing"),
    _pins,
    "clients that keep their servers, and why",
    (Part.LEASES, Part.POOLS),
)

_LOST: Final = {
    "server_idle": "server idle timeout",
    "server_lifetime": "server lifetime",
    "cancel": "server cleanup timeout",
}
"""Limits of servers, and the reason for which a server ends then."""
_COUNTED: Final = (*attrs.fields_dict(ClientTimeouts), *_LOST)
_NOT_COUNTED: Final = {"wait_notice", "slow_query"}


def _timeouts(view: View) -> Iterator[Row]:
    """Users that have limits of their own follow their database; `exceeded` is of the database as a whole."""
    exceeded: dict[str, Counter[str]] = {}
    for pool in view.census.pools():
        of_database = exceeded.setdefault(pool.database, Counter())
        of_database.update(pool.timeouts)
        of_database.update({limit: pool.losses.get(reason, 0) for limit, reason in _LOST.items()})
    config = view.config
    for database in databases(view):
        counts = exceeded.get(database.name, Counter())
        yield from _limits(database.name, None, attrs.asdict(database.timeouts), counts)
    for name, user in config.users.items():
        own = attrs.asdict(user.timeouts, filter=lambda _, limit: limit is not None)
        yield from _limits(None, name, own, None)


def _limits(
    database: str | None, user: str | None, limits: Mapping[str, float], counts: Counter[str] | None
) -> Iterator[Row]:
    for name, seconds in limits.items():
        counted = counts is not None and name in _COUNTED and name not in _NOT_COUNTED
        yield (
            *(database, user, name, format_duration(seconds)),
            None if math.isinf(seconds) else seconds,
            counts[name] if counts is not None and counted else None,
        )


TIMEOUTS = Show(
    columns("database user timeout setting", seconds=Type.FLOAT8, exceeded=Type.INT8),
    _timeouts,
    "time limits, and how often each was over",
    (Part.DATABASES, Part.POOLS),
)


def _prepared(view: View) -> Iterator[Row]:
    for seen in view.census.prepared():
        yield seen.database, seen.user, seen.name, seen.clients, seen.servers, seen.text


PREPARED = Show(
    columns("database user name") + of(Type.INT4, "clients servers") + columns("statement"),
    _prepared,
    "prepared statements, and how many clients and servers have them",
    (Part.PREPARED,),
)


def _ahead(view: View) -> Iterator[Row]:
    depths = {database.name: database.queue_ahead for database in databases(view)}
    for pool in view.census.pools():
        refused = ", ".join(f"{reason}: {count}" for reason, count in pool.not_eligible.items())
        yield (
            *(pool.database, pool.user, depths.get(pool.database, 0)),
            *(pool.queued_ahead, pool.hedged, pool.repeated, refused),
        )


AHEAD = Show(
    columns("database user", queue_ahead=Type.INT4)
    + of(Type.INT8, "queued hedged repeated")
    + columns("not_eligible"),
    _ahead,
    "reads that were sent ahead of their turn, and why others were not",
    (Part.DATABASES, Part.POOLS),
)
