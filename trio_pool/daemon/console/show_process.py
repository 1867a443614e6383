"""SHOW VERSION, STATE, MEM, DNS_HOSTS and DNS_ZONES, and the settings of a session that drivers ask for."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from trio_pool import __version__
from trio_pool.daemon.console.show import Show, View
from trio_pool.daemon.console.table import Type, columns, of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
    """Objects by themselves, without what they refer to; and the pages of the process, of which there are
    more than PgBouncer's columns could count in bytes.
    """
    service = view.service
    pools = list(service.pools.values())
    clients = list(service.clients.by_id.values())
    servers = [server for origin in pools for server in origin.servers()]
    named = [statement for origin in pools for statement in origin.statements.all()]
    kinds: dict[str, Sequence[object]] = {
        "user_cache": list(service.config.users.values()),
        "db_cache": list(service.config.databases.values()),
        "pool_cache": pools,
        "server_cache": servers,
        "client_cache": clients,
        "prepared_statement_cache": named,
    }
    for name, some in kinds.items():
        size = sys.getsizeof(some[0]) if some else 0
        yield name, size, len(some), 0, size * len(some)
    pages = _resident_pages()
    if pages is not None:
        size = os.sysconf("SC_PAGE_SIZE")
        yield "process_pages", size, pages, 0, size * pages


def _resident_pages() -> int | None:
    """None where the system does not tell like Linux."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None


MEM = Show(columns("name") + of(Type.INT4, "size used free memtotal"), _memory, "memory")

DNS_HOSTS = Show(
    columns("hostname", ttl=Type.INT8) + columns("addrs"),
    lambda view: (),
    "always empty: the system resolves names, nothing is remembered here",
)
DNS_ZONES = Show(columns("zonename", serial=Type.INT8, count=Type.INT4), lambda view: (), "always empty")
