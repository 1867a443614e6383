"""SHOW VERSION, STATE, MEM, DNS_HOSTS and DNS_ZONES, and the settings of a session that drivers ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trio_pool import __version__
from trio_pool.daemon.console.show import Show, View
from trio_pool.daemon.console.show_connections import moment
from trio_pool.daemon.console.table import Type, columns, of
from trio_pool.daemon.gathered.parts import Part
from trio_pool.daemon.seen import WorkerSeen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_pool.daemon.console.table import Row

PGBOUNCER: Final = "1.24.1"
"""Whose console this is. Programs look for the number to know which columns to expect."""
VERSION_TEXT: Final = f"PgBouncer {PGBOUNCER} (console of trio-pool {__version__})"

REPORTED: Final = {
    "server_version": f"{PGBOUNCER}/bouncer",
    "client_encoding": "UTF8",
    "server_encoding": "UTF8",
    "DateStyle": "ISO",
    "TimeZone": "GMT",
    "standard_conforming_strings": "on",
    "is_superuser": "on",
}
"""What a client is greeted with, as PgBouncer does."""

PRETENDED: Final = {
    "client_encoding": "UTF-8",
    "default_transaction_isolation": "read committed",
    "standard_conforming_strings": "on",
    "datestyle": "ISO",
    "timezone": "GMT",
    "extra_float_digits": "2",
}
"""Settings that drivers show and set without being asked to (`fake_param_list` in `admin.c`)."""

VERSION = Show(columns("version"), lambda view: [(VERSION_TEXT,)], "the version")


def _state(view: View) -> Iterator[Row]:
    operations = view.service.operations
    suspended, paused = operations.suspended, operations.all_paused
    for name, holds in {
        "active": not (paused or suspended),
        "paused": paused and not suspended,
        "suspended": suspended,
    }.items():
        yield name, "yes" if holds else "no"


STATE = Show(columns("key value"), _state, "whether all is active, paused or suspended")


def _memory(view: View) -> Iterator[Row]:
    """There may be more pages than PgBouncer's columns could count in bytes."""
    for seen in view.census.memory():
        yield seen.name, seen.size, seen.count, 0, seen.size * seen.count


MEM = Show(columns("name") + of(Type.INT4, "size used free memtotal"), _memory, "memory", (Part.MEMORY,))


def _workers(view: View) -> Iterator[Row]:
    process = view.census.process()
    alone = WorkerSeen(0, process.process_id, process.started_at, process.clients, process.leased, 0)
    for worker in process.workers or (alone,):
        yield (
            *(worker.index, worker.process_id, moment(worker.started_at)),
            *(worker.clients, worker.leased, worker.restarts),
        )


WORKERS = Show(
    of(Type.INT4, "worker pid") + columns("since") + of(Type.INT4, "clients leased restarts"),
    _workers,
    "the processes that serve clients",
    (Part.PROCESS,),
)

DNS_HOSTS = Show(
    columns("hostname", ttl=Type.INT8) + columns("addrs"),
    lambda view: (),
    "always empty: the system resolves names, nothing is remembered here",
)
DNS_ZONES = Show(columns("zonename", serial=Type.INT8, count=Type.INT4), lambda view: (), "always empty")
