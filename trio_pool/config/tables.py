"""The tables of the TOML file: which models make up each, and what to say about it in the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from trio_pool.config import kinds
from trio_pool.config.access import Auth, Listen, ListenTLS, Rule, User
from trio_pool.config.kinds import about, keys_of
from trio_pool.config.model import Admin, Cache, Database, Http, Session
from trio_pool.config.timeouts import ClientTimeouts, Timeouts
from trio_pool.config.tunnel import TunnelDial, TunnelListen

if TYPE_CHECKING:
    from pathlib import Path

    from trio_pool.config.kinds import Key
    from trio_pool.config.secret import Secret


@attrs.frozen
class PasswordSource:
    """The keys of a password as written; the model has only the secret that they lead to."""

    password: Secret | None = attrs.field(
        default=None, metadata=about(kinds.SECRET, "The password. At most one of these three keys is given.")
    )
    password_env: str | None = attrs.field(
        default=None, metadata=about(kinds.TEXT, "Name of the environment variable that has the password.")
    )
    password_file: Path | None = attrs.field(
        default=None,
        metadata=about(kinds.FILE, "File that has the password. A line break at its end does not count."),
    )


@attrs.frozen
class QueryPasswordSource:
    """The same for the user that ``auth.query`` runs as."""

    query_password: Secret | None = attrs.field(
        default=None,
        metadata=about(
            kinds.SECRET, "The password of `query_user`. At most one of these three keys is given."
        ),
    )
    query_password_env: str | None = attrs.field(
        default=None, metadata=about(kinds.TEXT, "Name of the environment variable that has that password.")
    )
    query_password_file: Path | None = attrs.field(
        default=None,
        metadata=about(kinds.FILE, "File that has that password. A line break at its end does not count."),
    )


@attrs.frozen
class ReplicationPasswordSource:
    """The same for the user that streams changes."""

    replication_password: Secret | None = attrs.field(
        default=None,
        metadata=about(
            kinds.SECRET, "The password of `replication_user`. At most one of these three keys is given."
        ),
    )
    replication_password_env: str | None = attrs.field(
        default=None, metadata=about(kinds.TEXT, "Name of the environment variable that has that password.")
    )
    replication_password_file: Path | None = attrs.field(
        default=None,
        metadata=about(kinds.FILE, "File that has that password. A line break at its end does not count."),
    )


@attrs.frozen
class Table:
    """``header`` is what stands in brackets, with <name> for a name that the user chooses."""

    header: str
    models: tuple[type[attrs.AttrsInstance], ...]
    text: str
    subtables: tuple[str, ...] = ()
    repeats: bool = False
    """Its keys are those of another table, which the text names."""

    @property
    def keys(self) -> dict[str, tuple[Key, attrs.Attribute[object]]]:
        return keys_of(*self.models)

    @property
    def known(self) -> tuple[str, ...]:
        """All names that may stand in the table."""
        return (*self.keys, *self.subtables)


LISTEN = Table("listen", (Listen,), "Where clients connect.", ("tls",))
LISTEN_TLS = Table(
    "listen.tls", (ListenTLS,), "TLS between clients and trio-pool. For the origin's see its URL."
)
AUTH = Table("auth", (Auth, QueryPasswordSource), "How clients log in.", ("rules",))
RULE = Table(
    "auth.rules", (Rule,), "An array of tables; the first rule that matches a client decides its method."
)
USER = Table(
    "users.<name>",
    (User, PasswordSource),
    "A user that clients can log in as; without a password, one that `auth.query` looks up. The password is "
    "in clear text or in one of PostgreSQL's stored forms, `SCRAM-SHA-256$...` or `md5...`, as in "
    "`pg_authid`.",
    ("timeouts",),
)
USER_TIMEOUTS = Table(
    "users.<name>.timeouts",
    (ClientTimeouts,),
    "Those keys of `[timeouts]` that concern a client: "
    f"{', '.join(f'`{name}`' for name in keys_of(ClientTimeouts))}. What is given here comes before what is "
    "given for a database and in general, for this user.",
    repeats=True,
)
DATABASE = Table(
    "databases.<name>",
    (Database, PasswordSource),
    'A database, by the name that clients connect to; `[databases."*"]` stands in for every other name. The '
    "password "
    "is that of the origin's user and comes before one in the URL. At least one database is needed; "
    "`trio_pool` and `pgbouncer` are the names of the console.",
    ("timeouts", "cache"),
)
DATABASE_TIMEOUTS = Table(
    "databases.<name>.timeouts",
    (Timeouts,),
    "The keys of `[timeouts]`. What is given here comes before what is given there, for this database.",
    repeats=True,
)
CACHE = Table(
    "databases.<name>.cache", (Cache, ReplicationPasswordSource), "The query cache of the database."
)
TIMEOUTS = Table("timeouts", (Timeouts,), "Time limits. `0` is off.")
SESSION = Table("session", (Session,), "How the state of client sessions is carried along.")
ADMIN = Table("admin", (Admin,), "The console.")
HTTP = Table("http", (Http,), "Metrics, health and the status page.")
TUNNEL_LISTEN = Table(
    "tunnel.listen",
    (TunnelListen,),
    "At an edge: where origins that cannot be connected to connect by themselves. Both sides show a "
    "certificate. The files are read anew for each connection.",
)
TUNNEL_DIAL = Table(
    "tunnel.dial.<name>",
    (TunnelDial,),
    "At an origin: edges that it connects to, by a name for the log. With it, `addresses` of `[listen]` may "
    "be empty. The files are read anew for each connection.",
)

TABLES = (
    LISTEN, LISTEN_TLS, AUTH, RULE, USER, USER_TIMEOUTS, DATABASE, DATABASE_TIMEOUTS, CACHE, TIMEOUTS,
    SESSION, ADMIN, HTTP, TUNNEL_LISTEN, TUNNEL_DIAL,
)  # fmt: skip

TOP_LEVEL = ("listen", "auth", "users", "databases", "timeouts", "session", "admin", "http", "tunnel")


def homes_of(name: str) -> list[str]:
    """The headers of the tables that have such a key."""
    return [table.header for table in TABLES if name in table.keys]
