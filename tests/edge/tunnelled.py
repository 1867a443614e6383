"""An edge and an origin with tunnels between them, in the test's own Trio program; and the certificates that
they show each other.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs
import trio
import trustme

import trio_pool
from tests.net.harness import LIMIT, Log, Running, logged, origin_url
from tests.net.peer import where
from tests.support.target import DATABASE, PASSWORD, USER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime
    from pathlib import Path

    from trio_pool.cli.postgres import LocalPostgres

NAME = "frankfurt"
"""The origin's, in its certificate."""
SECRET = "the edge's"
"""What the edge logs in at the origin with."""


@attrs.frozen
class Papers:
    """PEM files: who vouches for edges and origins, and what an edge and an origin show."""

    directory: Path
    authority: trustme.CA = attrs.field(factory=trustme.CA)

    @property
    def ca(self) -> str:
        path = self.directory / "ca.crt"
        self.authority.cert_pem.write_to_path(path)
        return str(path)

    def issue(
        self, file: str, *names: str, authority: trustme.CA | None = None, until: datetime | None = None
    ) -> str:
        """One file with the certificate and its key."""
        leaf = (authority or self.authority).issue_cert(*names, common_name=names[0], not_after=until)
        path = self.directory / file
        leaf.private_key_and_cert_chain_pem.write_to_path(path)
        return str(path)

    def listen(self, **keys: Any) -> dict[str, Any]:
        """An edge's table."""
        return {
            "address": "127.0.0.1:0",
            "certificate": self.issue("edge.pem", "localhost", "127.0.0.1"),
            "client_ca": self.ca,
            "origins": [NAME],
            **keys,
        }

    def dial(self, *edges: str, **keys: Any) -> dict[str, Any]:
        """An origin's table."""
        return {"edges": edges, "certificate": self.issue("origin.pem", NAME), "ca": self.ca, **keys}


def edge_config(listen: dict[str, Any], *, scheme: str = "trio-pool", **tables: Any) -> dict[str, Any]:
    """Clients need no password; the origin does."""
    database = {
        "origin": f"{scheme}://{USER}@{NAME}/{DATABASE}?via=tunnel",
        "password": SECRET,
        "pool_size": 4,
        **tables.pop("database", {}),
    }
    return {
        "listen": {"addresses": ["127.0.0.1:0"]},
        "auth": {"method": "trust"},
        "users": {USER: {"password": PASSWORD}},
        "databases": {DATABASE: database},
        "timeouts": {"lease_wait": "10s", "server_connect": "10s"},
        "tunnel": {"listen": listen},
        **tables,
    }


def origin_config(pg: LocalPostgres, *dials: dict[str, Any], **tables: Any) -> dict[str, Any]:
    """It listens nowhere."""
    database = {"origin": origin_url(pg), "password": PASSWORD, "pool_size": 2, **tables.pop("database", {})}
    return {
        "listen": {"addresses": []},
        "users": {USER: {"password": SECRET}},
        "databases": {DATABASE: database},
        "tunnel": {"dial": {f"edges-{number}": dial for number, dial in enumerate(dials)}},
        **tables,
    }


@attrs.define(eq=False)
class Started:
    """A pooler that can be stopped before the block is over."""

    running: Running
    scope: trio.CancelScope
    ended: trio.Event

    async def stop(self) -> None:
        """As SIGTERM does."""
        self.running.service.stop()
        await self.ended.wait()

    async def crash(self) -> None:
        """At once."""
        self.scope.cancel()
        await self.ended.wait()


@attrs.define(eq=False)
class Both:
    """Starts poolers, whose log is one."""

    nursery: trio.Nursery
    log: Log

    async def start(self, config: dict[str, Any]) -> Started:
        scope, ended = trio.CancelScope(), trio.Event()

        async def serve(task_status: trio.TaskStatus[trio_pool.Service]) -> None:
            try:
                with scope:
                    await trio_pool.serve(trio_pool.Config.from_dict(config), task_status=task_status)
            finally:
                ended.set()

        return Started(Running(await self.nursery.start(serve), self.log), scope, ended)


@asynccontextmanager
async def poolers(limit: float = LIMIT) -> AsyncIterator[Both]:
    """For edges and origins. When the block ends, nothing of theirs may have failed."""
    with logged() as log, trio.fail_after(limit):
        try:
            async with trio.open_nursery() as nursery:
                yield Both(nursery, log)
                nursery.cancel_scope.cancel()
        except BaseException:
            for entry in log.entries[-40:]:
                print(entry)
            raise
    errors = [entry for entry in log.entries if entry["level"] == "error"]
    assert not errors, errors


@attrs.define(eq=False)
class Wire:
    """The network between an origin and an edge: forwards, swallows, or cuts."""

    edge: str
    address: str = ""
    connections: int = 0
    """So many have been made."""
    _flows: object = attrs.field(factory=object)
    _scopes: set[trio.CancelScope] = attrs.field(factory=set)

    def stall(self) -> None:
        """Swallow what comes, on the connections that there are."""
        self._flows = object()

    def cut(self) -> None:
        """End the connections that there are."""
        for scope in self._scopes:
            scope.cancel()

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.address = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with trio.open_nursery() as nursery:
            task_status.started()
            await trio.serve_listeners(self._forward, listeners, handler_nursery=nursery)

    async def _forward(self, origin: trio.SocketStream) -> None:
        self.connections += 1
        host, port = where(self.edge)
        flows = self._flows
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                async with (
                    origin,
                    await trio.open_tcp_stream(host, port) as edge,
                    trio.open_nursery() as both,
                ):
                    both.start_soon(self._pump, origin, edge, flows, scope)
                    both.start_soon(self._pump, edge, origin, flows, scope)
            except* OSError:
                pass
            finally:
                self._scopes.discard(scope)

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, flows: object, scope: trio.CancelScope
    ) -> None:
        try:
            async for data in source:
                if flows is self._flows:
                    await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        if flows is self._flows:
            scope.cancel()
