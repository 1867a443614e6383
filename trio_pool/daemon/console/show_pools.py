"""SHOW POOLS, DATABASES, USERS, LISTS, PEERS and PEER_POOLS."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from trio_pool.config.address import TcpAddress
from trio_pool.daemon.console.show import CONSOLE, Show, View
from trio_pool.daemon.console.table import Type, columns, of
from trio_pool.daemon.gathered.parts import Part
from trio_pool.daemon.looking import balancing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_pool.config.model import Database
    from trio_pool.daemon.console.table import Row

CONSOLE_POOL_SIZE = 2
"""What PgBouncer shows; it has no meaning there either."""


def whole(seconds: float) -> int:
    """Seconds as PgBouncer's settings have them, where 0 is off."""
    return 0 if math.isinf(seconds) else round(seconds)


def split(seconds: float) -> tuple[int, int]:
    """Seconds, and the microseconds behind them."""
    return divmod(int(seconds * 1_000_000), 1_000_000)


def _pools(view: View) -> Iterator[Row]:
    consoles = len(view.census.consoles())
    yield (CONSOLE, CONSOLE, consoles, *[0] * 12, "statement", None)
    for pool in view.census.pools():
        yield (
            pool.database,
            pool.user,
            pool.clients - pool.waiting,
            pool.waiting,
            0,
            0,
            pool.leased,
            0,
            pool.cancelling,
            pool.idle,
            0,
            pool.cleaning,
            pool.connecting,
            *split(pool.longest_wait),
            pool.mode,
            pool.balancing,
        )


POOLS = Show(
    columns("database user")
    + of(
        Type.INT4,
        "cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active sv_active_cancel "
        "sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us",
    )
    + columns("pool_mode load_balance_hosts"),
    _pools,
    "pools: clients, servers, the longest wait",
    (Part.CONSOLES, Part.POOLS),
)


def databases(view: View) -> list[Database]:
    """Those that are configured, and those for which `[databases."*"]` stands in now."""
    config = view.config
    names = [*(name for name in config.databases if name != "*"), *view.census.databases()]
    found = [config.database(name) for name in dict.fromkeys(names)]
    return [database for database in found if database is not None]


def _databases(view: View) -> Iterator[Row]:
    service = view.service
    servers: Counter[str] = Counter()
    clients: Counter[str] = Counter()
    for pool in view.census.pools():
        servers[pool.database] += pool.connecting + pool.idle + pool.leased + pool.cleaning + pool.cancelling
        clients[pool.database] += pool.clients
    consoles = len(view.census.consoles())
    yield (
        *(CONSOLE, None, listen_port(view), CONSOLE, CONSOLE, CONSOLE_POOL_SIZE, 0, 0, 0, "statement", None),
        *(0, 0, 0, consoles, 0, 0),
    )
    for database in databases(view):
        origin, state = database.origin, service.operations.state(database.name)
        yield (
            database.name,
            ",".join(host for host, _ in origin.hosts),
            origin.hosts[0][1],
            origin.dbname,
            origin.user,
            database.pool_size,
            database.min_pool_size,
            0,
            whole(database.timeouts.server_lifetime),
            database.pool_mode.value,
            balancing(origin),
            database.max_servers,
            servers[database.name],
            database.max_clients,
            clients[database.name],
            int(state == "paused"),
            int(state == "disabled"),
        )


def listen_port(view: View) -> int:
    """The first port that clients connect to, as the system chose it; 0 without any."""
    for spelled, address in zip(view.service.addresses, view.config.listen.addresses, strict=False):
        if isinstance(address, TcpAddress):
            return int(spelled.rpartition(":")[2])
    return 0


DATABASES = Show(
    columns("name host", port=Type.INT4)
    + columns("database force_user")
    + of(Type.INT4, "pool_size min_pool_size reserve_pool_size server_lifetime")
    + columns("pool_mode load_balance_hosts")
    + of(
        Type.INT4,
        "max_connections current_connections max_client_connections current_client_connections paused "
        "disabled",
    ),
    _databases,
    "databases: where they are, sizes, whether they are paused or disabled",
    (Part.CONSOLES, Part.DATABASES, Part.POOLS),
)


def _users(view: View) -> Iterator[Row]:
    known = view.config.users
    servers: Counter[str] = Counter()
    for pool in view.census.pools():
        servers[pool.user] += pool.connecting + pool.idle + pool.leased + pool.cleaning + pool.cancelling
    clients = view.census.users()
    for name in dict.fromkeys([*known, *servers, *clients]):
        user = known.get(name)
        size = "" if user is None or user.pool_size is None else str(user.pool_size)
        leases = 0 if user is None or user.max_leases is None else user.max_leases
        most = 0 if user is None else user.max_clients
        yield name, size, "", None, leases, servers[name], most, clients[name]


USERS = Show(
    columns("name pool_size reserve_pool_size pool_mode")
    + of(
        Type.INT4,
        "max_user_connections current_connections max_user_client_connections current_client_connections",
    ),
    _users,
    "users: limits, connections",
    (Part.POOLS, Part.USERS),
)


def _lists(view: View) -> Iterator[Row]:
    process = view.census.process()
    pools = view.census.pools()
    consoles = len(view.census.consoles())
    used = sum(pool.connecting + pool.idle + pool.leased + pool.cleaning + pool.cancelling for pool in pools)
    yield "databases", len(databases(view)) + 1
    yield "users", sum(1 for _ in _users(view))
    yield "peers", 0
    yield "pools", len(pools) + 1
    yield "peer_pools", 0
    yield "free_clients", max(0, process.max_clients - process.connections)
    yield "used_clients", process.clients + consoles
    yield "login_clients", max(0, process.connections - process.clients - consoles)
    yield "free_servers", max(0, sum(pool.size for pool in pools) - used)
    yield "used_servers", used
    for name in ("dns_names", "dns_zones", "dns_queries", "dns_pending"):
        yield name, 0  # nothing is remembered: the system resolves names


LISTS = Show(
    columns("list", items=Type.INT4),
    _lists,
    "how many there are of everything",
    (Part.CONSOLES, Part.DATABASES, Part.POOLS, Part.PROCESS, Part.USERS),
)

PEERS = Show(
    columns(peer_id=Type.INT4) + columns("host") + of(Type.INT4, "port pool_size"),
    lambda view: (),
    "always empty: cancel requests need no peers here",
)
PEER_POOLS = Show(
    of(Type.INT4, "peer_id cl_active_cancel_req cl_waiting_cancel_req sv_active_cancel sv_login"),
    lambda view: (),
    "always empty",
)
