"""SHOW CLIENTS, SERVERS, SOCKETS, ACTIVE_SOCKETS and FDS."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Final

from trio_pool.daemon.console.show import CONSOLE, Show, View
from trio_pool.daemon.console.show_pools import split
from trio_pool.daemon.console.table import Type, columns, of
from trio_pool.daemon.gathered.parts import Part

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_pool.daemon.console.table import Row
    from trio_pool.daemon.seen import ClientSeen, ServerSeen

_COLUMNS = (
    columns("type user database replication state addr", port=Type.INT4)
    + columns("local_addr", local_port=Type.INT4)
    + columns("connect_time request_time")
    + of(Type.INT4, "wait wait_us close_needed")
    + columns("ptr link", remote_pid=Type.INT4)
    + columns("tls application_name")
    + of(Type.INT4, "prepared_statements id")
)
_BUFFERS = of(Type.INT4, "recv_pos pkt_pos pkt_remain send_pos send_remain pkt_avail send_avail")
_NO_BUFFERS = (0,) * len(_BUFFERS)

_SERVER_STATES = {"leased": "active", "idle": "idle", "cleaning": "tested", "cancelling": "being_canceled"}
"""PgBouncer's names of our states."""


def moment(when: float) -> str:
    """A point in time in PgBouncer's spelling, in the zone of this system."""
    return datetime.datetime.fromtimestamp(when).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


_WORKER = 32
"""Bits of a handle that are the file descriptor's; those above tell processes apart."""


def _handle(fd: int, worker: int) -> str:
    """What joins `ptr` and `link`."""
    return f"{worker << _WORKER | fd:#x}" if fd >= 0 else ""


def _client(client: ClientSeen) -> Row:
    return (
        "C",
        client.user,
        client.database,
        "none",
        _state(client),
        client.address,
        client.port,
        client.local_address,
        client.local_port,
        moment(client.connected_at),
        moment(client.requested_at),
        *split(client.waiting_for),
        0,
        _handle(client.fd, client.worker),
        _handle(client.link, client.worker),
        0,
        client.tls,
        client.application_name,
        client.prepared,
        client.id,
    )


def _state(client: ClientSeen) -> str:
    return "waiting" if client.state == "waiting" else "active"


def _server(server: ServerSeen) -> Row:
    return (
        "S",
        server.user,
        server.database,
        "none",
        _SERVER_STATES.get(server.state, server.state),
        server.address,
        server.port,
        server.local_address,
        server.local_port,
        moment(server.connected_at),
        moment(server.requested_at),
        0,
        0,
        int(server.close_needed),
        _handle(server.fd, server.worker),
        _handle(server.link, server.worker),
        server.process_id,
        server.tls,
        "",
        server.prepared,
        server.process_id,
    )


def _consoles(view: View) -> Iterator[Row]:
    for seen in view.census.consoles():
        yield (
            *("C", seen.user, CONSOLE, "none", "active"),
            *(seen.address, seen.port, seen.local_address, seen.local_port),
            *(moment(seen.connected_at), moment(seen.connected_at)),
            *(0, 0, 0, _handle(seen.fd, seen.worker), "", 0, seen.tls, "", 0, seen.id),
        )


def _clients(view: View) -> Iterator[Row]:
    yield from _consoles(view)
    yield from map(_client, view.census.each_client())


def _servers(view: View) -> Iterator[Row]:
    yield from map(_server, view.census.servers())


_ALL: Final = (Part.CONSOLES, Part.CLIENTS, Part.SERVERS)

CLIENTS = Show(_COLUMNS, _clients, "clients", (Part.CONSOLES, Part.CLIENTS))
SERVERS = Show(_COLUMNS, _servers, "connections to origins", (Part.SERVERS,))


def _as_sockets(rows: Iterator[Row], prefix: str) -> Iterator[Row]:
    for row in rows:
        yield (*row[:4], f"{prefix}_{row[4]}", *row[5:], *_NO_BUFFERS)


def _sockets(view: View) -> Iterator[Row]:
    yield from _as_sockets(_clients(view), "cl")
    yield from _as_sockets(_servers(view), "sv")


def _active_sockets(view: View) -> Iterator[Row]:
    """Those that have something to do."""
    yield from _as_sockets(_consoles(view), "cl")
    busy = [c for c in view.census.each_client() if c.state in ("active", "waiting", "queued")]
    yield from _as_sockets(map(_client, busy), "cl")
    clients = {client.id for client in busy}
    servers = (
        s for s in view.census.servers() if s.client in clients or s.state in ("cleaning", "cancelling")
    )
    yield from _as_sockets(map(_server, servers), "sv")


SOCKETS = Show(_COLUMNS + _BUFFERS, _sockets, "clients and servers", _ALL)
ACTIVE_SOCKETS = Show(_COLUMNS + _BUFFERS, _active_sockets, "those of them that have something to do", _ALL)


def _fds(view: View) -> Iterator[Row]:
    """Neither secrets of cancel keys nor passwords are shown."""
    for client in view.census.each_client():
        yield _fd(client.fd, "client", client, client.link)
    for server in view.census.servers():
        yield _fd(server.fd, "server", server, server.link)


def _fd(fd: int, task: str, end: ClientSeen | ServerSeen, link: int) -> Row:
    told = end.reported
    return (
        *(fd, task, end.user, end.database, end.address, end.port, None, max(0, link)),
        *(told.get("client_encoding"), told.get("standard_conforming_strings")),
        *(told.get("DateStyle"), told.get("TimeZone"), None, None, None),
    )


FDS = Show(
    columns(fd=Type.INT4)
    + columns("task user database addr", port=Type.INT4, cancel=Type.INT8, link=Type.INT4)
    + columns("client_encoding std_strings datestyle timezone password")
    + of(Type.BYTEA, "scram_client_key scram_server_key"),
    _fds,
    "file descriptors of clients and servers, without secrets",
    (Part.CLIENTS, Part.SERVERS),
)
