"""What another configuration does to those who are connected, and to the pools that there are.

All of it is synchronous and happens at one moment; it cannot fail, because what can has been done before
(reload.py). Pools of databases that are gone, or that new clients do not share any more, are seen off: a task
each, until the last of their clients has left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from trio_pool.config.model import Unpoolable
from trio_pool.errors import ClientFault, Reason, SqlState
from trio_pool.net.dial import OriginAccess
from trio_pool.pooling.pool import PoolKey

if TYPE_CHECKING:
    from trio_pool.config.access import User
    from trio_pool.config.model import Config, Database
    from trio_pool.daemon.reload import Contexts
    from trio_pool.daemon.service import Service
    from trio_pool.net.client import Client
    from trio_pool.net.origin import OriginPool
    from trio_pool.net.welcome import Reception

LOOK_AGAIN = 0.05
"""Seconds between looks at what tells nobody that it has changed."""


def configure(service: Service, config: Config, reception: Reception, contexts: Contexts) -> None:
    """From now on this holds, for those who are there and for those who come. What takes a restart is
    left as it is. Cannot fail: what can has been done in `reception` and `contexts`.
    """
    before, service.config = service.config, config
    service.reception = reception
    service.clients.limit = config.listen.max_clients
    service.ending.timeouts = config.timeouts
    service.keepalive = contexts.keepalive
    if config.listen.tcp_user_timeout != before.listen.tcp_user_timeout:
        service.watch_for_lost()
    if service.tunnels is not None and config.tunnel.listen is not None:
        service.tunnels.configure(config.tunnel.listen)
    if not service.stopping:
        service.dialling.configure(config.tunnel.dial)
    for name, capacity in list(service.capacities.items()):
        database = config.database(name)
        if database is not None and database.max_servers:
            capacity.resize(database.max_servers)
        else:
            del service.capacities[name]
    for key, origin in list(service.pools.items()):
        _configure_pool(service, key, origin, contexts)
    service.caches.settle(config)
    _configure_lookups(service, contexts)
    for client in service.clients.by_id.values():
        configure_client(service, client)
    if not service.stopping:
        service.open_configured_pools()


def _configure_pool(service: Service, key: PoolKey, origin: OriginPool, contexts: Contexts) -> None:
    database = service.config.database(key.database)
    if database is None:
        _retire(service, origin, _removed(key.database))
        return
    user, secret = database.origin.user, origin.access.password
    if user is not None and (not origin.own or user == key.user):
        origin.own = False
        secret = database.origin.password.reveal() if database.origin.password is not None else None
    else:
        outgrown = user is not None
        origin.own, user = True, key.user
        database = sized_for(database, service.config.users.get(user))
        if outgrown:  # new clients share another pool
            _retire(service, origin)
    if origin.retired and (not origin.own or database.origin.user is None):
        origin.retired = False
    database = service.share_of(database)
    new_key = PoolKey(key.database, user)
    if new_key != key and service.office is not None:
        service.office.rename(key, new_key)
    table = database.name if database.name in service.config.databases else "*"
    origin.configure(
        database,
        OriginAccess.to(database, user, secret, contexts.of[table], service.tunnels),
        limits=service.config.session,
        lease_bounds=service.config.lease_bounds(database),
        capacity=service.capacity_of(database, new_key),
        room=service.caches.room(service.config, database),
        schema=service.caches.freshness_of(database),
    )
    if new_key != key and new_key not in service.pools:
        service.pools[new_key] = service.pools.pop(key)


def _retire(service: Service, origin: OriginPool, farewell: ClientFault | None = None) -> None:
    """New clients get another pool, or none. Those who are there leave when they like, or with a
    `farewell` between their transactions; then the pool ends.
    """
    origin.farewell = farewell
    if not origin.retired:
        origin.retired = True
        assert service.pool_nursery is not None
        service.pool_nursery.start_soon(_see_off, service, origin)


async def _see_off(service: Service, origin: OriginPool) -> None:
    """Until the last client of a retired pool has left, and then its servers; unless it is configured
    again meanwhile.
    """
    while origin.retired:
        clients = [client for client in service.clients.by_id.values() if client.origin is origin]
        if clients or origin.arriving:
            if origin.farewell is not None:
                for client in clients:
                    client.stop(origin.farewell)
        elif not origin.pool.paused:
            origin.pause()
        elif not origin.pool.servers:
            if service.pools.get(origin.pool.key) is origin:
                del service.pools[origin.pool.key]
            origin.end()
            return
        await trio.sleep(LOOK_AGAIN)
    if origin.pool.paused and not service.operations.is_paused(origin.pool.key.database):
        origin.go_on()


def _configure_lookups(service: Service, contexts: Contexts) -> None:
    for name, access in contexts.lookups.items():
        lookup = service.lookups.get(name)
        if lookup is not None:
            lookup.configure(service.config.auth, access)


def configure_client(service: Service, client: Client) -> None:
    """Limits and options of a client that is there."""
    origin, limits = client.origin, service.config.session
    timeouts = service.config.timeouts_for(origin.database, client.user)
    if timeouts != client.timeouts:
        client.limit_by(timeouts)
    session = client.session
    session.max_statements = limits.max_prepared_statements
    session.shares = origin.releases
    session.rejects = origin.releases and limits.unpoolable is Unpoolable.REJECT
    session.defers_begin = limits.deferred_begin
    session.watch = origin.watch
    user = service.config.users.get(client.user)
    client.cached = None if user is not None and not user.cache else origin.cached
    client.shelf = None


def _removed(database: str) -> ClientFault:
    return ClientFault(
        f'database "{database}" has been removed from the configuration',
        SqlState.ADMIN_SHUTDOWN,
        reason=Reason.DATABASE_REMOVED,
    )


def sized_for(database: Database, user: User | None) -> Database:
    """The database as the pool of this user alone has it."""
    if user is None or user.pool_size is None:
        return database
    size = user.pool_size
    return attrs.evolve(database, pool_size=size, min_pool_size=min(database.min_pool_size, size))
