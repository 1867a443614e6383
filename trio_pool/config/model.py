"""The configuration as the program sees it: values checked, defaults filled in, secrets resolved.

Durations are seconds as floats and ``math.inf`` where a limit is off; sizes are bytes. Where a value came
from (file, environment, Python) is unknown here. A field that is a key of the file carries its kind and its
meaning in its metadata, from which the reader and ``docs/configuration.md`` are made.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import attrs

from trio_pool.config import kinds
from trio_pool.config.access import Auth, Listen
from trio_pool.config.kinds import about
from trio_pool.config.timeouts import Timeouts
from trio_pool.config.tunnel import Tunnel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from trio_pool.config.access import User
    from trio_pool.config.address import TcpAddress
    from trio_pool.config.origin import Origin
    from trio_pool.config.secret import Secret

LINK_METADATA = 60.0
"""Seconds. A crossing saved is worth the error that a driver may get when others have changed a type."""
SPARE_LINKS = 2
"""Opening a link takes several round trips of a long way, so it is done before somebody waits for it."""
CONSOLE_DATABASES = frozenset({"trio_pool", "pgbouncer"})
"""Names that lead to the console and never to an origin."""


class PoolMode(StrEnum):
    """For how long a client keeps a server connection."""

    TRANSACTION = "transaction"
    SESSION = "session"


class Unpoolable(StrEnum):
    """What a statement does whose effect cannot be carried along to another server connection."""

    PIN = "pin"
    REJECT = "reject"


class Invalidation(StrEnum):
    """How a cache learns that an entry is out of date."""

    TTL = "ttl"
    WRITES = "writes"
    REPLICATION = "replication"


class WhenStale(StrEnum):
    """What a cache does while it does not learn of writes that are made elsewhere."""

    BYPASS = "bypass"
    SERVE = "serve"


@attrs.frozen
class Session:
    unpoolable: Unpoolable = attrs.field(
        default=Unpoolable.PIN,
        metadata=about(
            kinds.choice(Unpoolable),
            "What a statement does whose effect cannot be carried along to another server connection: `pin` "
            "keeps the client on its server connection, `reject` refuses the statement (0A000).",
        ),
    )
    deferred_begin: bool = attrs.field(
        default=True,
        metadata=about(
            kinds.BOOLEAN,
            "Answer a plain `BEGIN` at once and send it along with the transaction's first statement. "
            "`now()` is then the time of that statement.",
        ),
    )
    max_prepared_statements: int = attrs.field(
        default=5000,
        metadata=about(kinds.integer(1), "Prepared statements of one client."),
    )
    server_prepared_statements: int = attrs.field(
        default=500,
        metadata=about(kinds.integer(1), "Prepared statements kept on one server connection."),
    )
    strict: bool = attrs.field(
        default=False,
        metadata=about(
            kinds.BOOLEAN,
            "Trust no text: ask PostgreSQL behind every transaction what the session holds, and reset the "
            "server connection before its next client. Finds what functions, triggers and views do inside.",
        ),
    )


@attrs.frozen
class Cache:
    """Seconds and bytes. ``stale_while_revalidate`` 0.0 means never stale."""

    enabled: bool = attrs.field(
        default=False, metadata=about(kinds.BOOLEAN, "Answer repeated reads from memory.")
    )
    max_age: float = attrs.field(
        default=60.0, metadata=about(kinds.LASTING_SPAN, "How long an answer is fresh. `0` is refused.")
    )
    stale_while_revalidate: float = attrs.field(
        default=15.0,
        metadata=about(
            kinds.SPAN,
            "How long past `max_age` an answer still serves while a new one is fetched. `0` is never.",
        ),
    )
    max_result_size: int = attrs.field(
        default=50 << 20, metadata=about(kinds.SIZE, "A larger answer is not kept.")
    )
    max_size: int = attrs.field(default=256 << 20, metadata=about(kinds.SIZE, "Memory for all answers."))
    invalidation: Invalidation = attrs.field(
        default=Invalidation.WRITES,
        metadata=about(
            kinds.choice(Invalidation),
            "What ends an answer before its time: writes of its own clients (`ttl`), all that pass "
            "through here to the same database (`writes`), or those made elsewhere too (`replication`).",
        ),
    )
    when_stale: WhenStale = attrs.field(
        default=WhenStale.BYPASS,
        metadata=about(
            kinds.choice(WhenStale),
            "With `replication`, while the stream of changes is away or more than `max_lag` behind: ask the "
            "origin (`bypass`), or answer from memory within `max_age` all the same (`serve`).",
        ),
    )
    max_lag: float = attrs.field(
        default=1.0,
        metadata=about(
            kinds.LASTING_SPAN,
            "With `replication`, how old the proof may be that every change up to then has been taken into "
            "account.",
        ),
    )
    strict: bool = attrs.field(
        default=False,
        metadata=about(
            kinds.BOOLEAN,
            "With a `trio-pool://` origin: it tells nobody that something is written before this cache knows "
            "it, so that nobody reads here what was before. Otherwise this takes one crossing.",
        ),
    )
    publication: str = attrs.field(
        default="trio_pool",
        metadata=about(
            kinds.TEXT,
            "The publication that changes are streamed of. It is made, kept up to date and removed, unless "
            "there is one that trio-pool has not made: that is used as it is.",
        ),
    )
    slot: str | None = attrs.field(
        default=None,
        metadata=about(
            kinds.TEXT,
            "How the names of the temporary replication slots begin; letters, digits and underscores. "
            "Default: the name of the publication.",
        ),
    )
    max_slot_wal: int = attrs.field(
        default=1 << 30,
        metadata=about(
            kinds.SIZE,
            "WAL that a replication slot may hold back at the origin. Then it is given up for a while.",
        ),
    )
    replication_user: str | None = attrs.field(
        default=None,
        metadata=about(
            kinds.TEXT,
            "The user that streams changes. Default: the origin's user. Needed where an origin names none.",
        ),
    )
    replication_password: Secret | None = None
    dry_run: bool = attrs.field(
        default=False,
        metadata=about(
            kinds.BOOLEAN,
            "Keep answers and count what they would have answered, but answer nothing from memory.",
        ),
    )
    verify: float = attrs.field(
        default=0.0,
        metadata=about(
            kinds.SHARE,
            "The part of the answers from memory, from `0` to `1`, that are asked of the database again to "
            "compare them. What differs is counted, logged and replaced.",
        ),
    )


@attrs.frozen
class Database:
    """A name that clients connect to. ``timeouts`` are complete: the database's own over the general ones."""

    name: str
    origin: Origin = attrs.field(
        metadata=about(
            kinds.ORIGIN,
            "Where the database is: `postgresql://user@host:5432/name`, see below. With a user, all clients "
            "share one pool; without, each client's user has its own.",
        )
    )
    pool_mode: PoolMode = attrs.field(
        default=PoolMode.TRANSACTION,
        metadata=about(
            kinds.choice(PoolMode),
            "Whether a client keeps a server connection for a transaction or for its session.",
        ),
    )
    pool_size: int = attrs.field(
        default=20,
        metadata=about(kinds.integer(1, kinds.MOST_SERVERS), "Server connections of one pool, at most."),
    )
    min_pool_size: int = attrs.field(
        default=0,
        metadata=about(
            kinds.integer(0, kinds.MOST_SERVERS), "Server connections that are kept open while idle."
        ),
    )
    max_waiting: int = attrs.field(
        default=0,
        metadata=about(
            kinds.integer(0),
            "Clients that may wait for a server connection; `0` is any number. One more is refused. Where a "
            "user's leases are bounded, each user's clients are counted by themselves.",
        ),
    )
    queue_ahead: int = attrs.field(
        default=8,
        metadata=about(
            kinds.integer(0),
            "Reads that a busy server connection may be sent ahead of time, beyond the running one. `0` is "
            "off.",
        ),
    )
    max_clients: int = attrs.field(
        default=0,
        metadata=about(
            kinds.integer(0),
            "Clients of this database at the same time; `0` is any number. One more is refused with SQLSTATE "
            "53300.",
        ),
    )
    max_leases_per_user: int = attrs.field(
        default=0,
        metadata=about(
            kinds.integer(0),
            "Server connections that one user may hold at the same time in a pool that several share; `0` is "
            "any number. Who waits for one more is passed over until the user gives one back.",
        ),
    )
    max_servers: int = attrs.field(
        default=0,
        metadata=about(
            kinds.integer(0, kinds.MOST_SERVERS),
            "Server connections of all pools of this database together, where each user has its own; `0` is "
            "any number. When they are used up, a pool gives one up to another whose clients wait: one that "
            "is idle, or one that is given back, if it has more than the other. Listening connections are "
            "not counted.",
        ),
    )
    statement_metadata: float | None = attrs.field(
        default=None,
        metadata=about(
            kinds.SPAN,
            "For how long Parse and Describe of a statement are answered from what a server has said before. "
            "Changes of the schema that pass through here end it at once. `0` asks the server each time. "
            'Default: 0, where the origin is another trio-pool `"60s"`.',
        ),
    )
    spare_pool_size: int | None = attrs.field(
        default=None,
        metadata=about(
            kinds.integer(0, kinds.MOST_SERVERS),
            "Server connections kept ready beyond those in use, and one more for every four of them; "
            "`0` opens one when a client has to wait. Default: 0, where the origin is another trio-pool 2.",
        ),
    )
    timeouts: Timeouts = attrs.field(factory=Timeouts)
    cache: Cache = attrs.field(factory=Cache)

    @property
    def metadata_age(self) -> float:
        """Seconds for which a statement is described from memory."""
        if self.statement_metadata is not None:
            return self.statement_metadata
        return LINK_METADATA if self.origin.link else 0.0

    @property
    def spares(self) -> int:
        """Server connections to keep ready beyond those that are in use."""
        if self.spare_pool_size is not None:
            return self.spare_pool_size
        return SPARE_LINKS if self.origin.link else 0


@attrs.frozen
class Admin:
    users: tuple[str, ...] = attrs.field(
        default=(),
        metadata=about(
            kinds.array(kinds.TEXT, "array of strings"),
            'Users that may connect to the console, the databases "trio_pool" and "pgbouncer".',
        ),
    )


@attrs.frozen
class Http:
    address: TcpAddress | None = attrs.field(
        default=None,
        metadata=about(
            kinds.TCP_ADDRESS,
            'Where `/metrics`, `/healthz`, `/readyz` and the status page are, such as `"127.0.0.1:6480"`. '
            "Default: nowhere.",
        ),
    )


@attrs.frozen
class Config:
    """A whole configuration. Two that are equal mean the same, which is how a reload finds what changed."""

    listen: Listen = attrs.field(factory=Listen)
    auth: Auth = attrs.field(factory=Auth)
    users: dict[str, User] = attrs.field(factory=dict, hash=False)
    databases: dict[str, Database] = attrs.field(factory=dict, hash=False)
    timeouts: Timeouts = attrs.field(factory=Timeouts)
    session: Session = attrs.field(factory=Session)
    admin: Admin = attrs.field(factory=Admin)
    http: Http = attrs.field(factory=Http)
    tunnel: Tunnel = attrs.field(factory=Tunnel)

    def timeouts_for(self, database: Database, user: str) -> Timeouts:
        """All time limits of a user's clients of a database; the user's own come before the database's.

        The very object of the database if the user has none of its own.
        """
        found = self.users.get(user)
        return database.timeouts if found is None else found.timeouts.over(database.timeouts)

    def lease_bounds(self, database: Database) -> Callable[[str], int] | None:
        """How many leases each user may hold at the same time in one pool of a database, 0 for any number;
        None if nobody is bounded.

        A user without a name is trio-pool itself, and never bounded.
        """
        default = database.max_leases_per_user
        own = {name: user.max_leases for name, user in self.users.items() if user.max_leases is not None}
        if not default and not any(own.values()):
            return None
        bounds = {**own, "": 0}
        return lambda user: bounds.get(user, default)

    def database(self, name: str) -> Database | None:
        """The database that clients call so; the one called "*" stands in for every name without a table.

        The names of the console are in no configuration, so for them the answer is None.
        """
        if name in self.databases and name != "*":
            return self.databases[name]
        rest = self.databases.get("*")
        if rest is None or name in CONSOLE_DATABASES:
            return None
        dbname = name if rest.origin.dbname is None else rest.origin.dbname
        return attrs.evolve(rest, name=name, origin=attrs.evolve(rest.origin, dbname=dbname))

    @classmethod
    def from_dict(
        cls,
        data: Mapping[str, object],
        *,
        environ: Mapping[str, str] | None = None,
        base: Path | None = None,
    ) -> Config:
        """A configuration from Python values in the shape of the TOML file, through the same checks.

        ``environ`` is where ``password_env`` looks (default: the process's), ``base`` what files are relative
        to (default: the working directory). Raises ``ConfigurationError``.
        """
        # The reader makes instances of this module's classes, so it cannot be imported before them.
        from trio_pool.config.reader import from_dict

        return from_dict(data, environ=environ, base=base)
