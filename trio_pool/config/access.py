"""How clients come in: the addresses, their TLS, and how each client proves who it is."""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

import attrs

from trio_pool.config import kinds
from trio_pool.config.address import Address, TcpAddress
from trio_pool.config.kinds import about
from trio_pool.config.timeouts import ClientTimeouts

if TYPE_CHECKING:
    from pathlib import Path

    from trio_pool.config.secret import Secret


class TlsMode(StrEnum):
    """Whether clients may or must use TLS."""

    DISABLE = "disable"
    ALLOW = "allow"
    REQUIRE = "require"


class AuthMethod(StrEnum):
    """How a client proves who it is, or that it must not come in; the names of ``pg_hba.conf``."""

    TRUST = "trust"
    PASSWORD = "password"
    MD5 = "md5"
    SCRAM_SHA_256 = "scram-sha-256"
    CERT = "cert"
    REJECT = "reject"


@attrs.frozen
class ListenTLS:
    mode: TlsMode = attrs.field(
        default=TlsMode.DISABLE,
        metadata=about(
            kinds.choice(TlsMode),
            "`disable` answers every request for TLS with no; `allow` leaves it to the client; `require` "
            "refuses clients without TLS. Unix sockets never use TLS.",
        ),
    )
    certificate: Path | None = attrs.field(
        default=None,
        metadata=about(
            kinds.FILE, "PEM file with the certificate and its chain. Needed unless `mode` is `disable`."
        ),
    )
    key: Path | None = attrs.field(
        default=None,
        metadata=about(
            kinds.FILE, "PEM file with the certificate's key. Default: in the file of `certificate`."
        ),
    )
    client_ca: Path | None = attrs.field(
        default=None,
        metadata=about(
            kinds.FILE, "PEM file with certificate authorities. When set, client certificates are verified."
        ),
    )


@attrs.frozen
class Listen:
    addresses: tuple[Address, ...] = attrs.field(
        default=(TcpAddress("127.0.0.1", 6432),),
        metadata=about(
            kinds.array(kinds.ADDRESS, "array of addresses"),
            'Where clients connect: `"127.0.0.1:6432"`, `"[::1]:6432"`, '
            '`"unix:/run/trio-pool/.s.PGSQL.6432"`. '
            "Port 0 lets the system choose one.",
        ),
    )
    workers: int | Literal["auto"] = attrs.field(
        default=1,
        metadata=about(
            kinds.integer_or("auto", kinds.integer(1, 1024)),
            'Processes that share the addresses; `"auto"` is one per core.',
        ),
    )
    max_clients: int = attrs.field(
        default=10_000,
        metadata=about(
            kinds.integer(1), "Clients at the same time. One more is refused with SQLSTATE 53300."
        ),
    )
    tcp_keepalive_idle: float = attrs.field(
        default=60.0,
        metadata=about(
            kinds.DURATION,
            "Silence after which a client's system is asked whether it is still there. `0` never asks. The "
            "default keeps connections alive in routers that forget silent ones (the shortest memories are "
            "of minutes), and costs an idle client one packet per minute.",
        ),
    )
    tcp_keepalive_interval: float = attrs.field(
        default=10.0,
        metadata=about(
            kinds.DURATION,
            "Time between two such questions while there is no answer. `0` leaves it to the system.",
        ),
    )
    tcp_keepalive_count: int = attrs.field(
        default=6,
        metadata=about(
            kinds.integer(1, 127),
            "Unanswered questions after which the client has vanished: what it runs is cancelled. The "
            "defaults notice it after two minutes (60 s + 6 x 10 s) and survive an outage of one.",
        ),
    )
    tcp_user_timeout: float = attrs.field(
        default=60.0,
        metadata=about(
            kinds.DURATION,
            "How long a client that has a server connection or unread replies may leave something "
            "unacknowledged before it has vanished; keep-alive does not ask meanwhile, and systems go on "
            "trying for a quarter of an hour. A client that is there and does not read is not meant, "
            "however long. The default is about what the keep-alive defaults allow a silent client; less "
            "than `3s` counts as `3s`. `0` leaves it to the system.",
        ),
    )
    tls: ListenTLS = attrs.field(factory=ListenTLS)

    def count_workers(self, cores: int) -> int:
        """The number of worker processes on a machine with so many cores."""
        return cores if self.workers == "auto" else self.workers


@attrs.frozen
class Rule:
    """Chooses an authentication method; what is None matches everything, a tuple any one of its members."""

    method: AuthMethod = attrs.field(
        metadata=about(
            kinds.choice(AuthMethod), "The method for clients that match all other keys of the rule."
        )
    )
    database: tuple[str, ...] | None = attrs.field(
        default=None,
        metadata=about(
            kinds.one_or_several(kinds.TEXT, "array of strings"),
            "Names of databases, as clients call them. Default: every database.",
        ),
    )
    user: tuple[str, ...] | None = attrs.field(
        default=None,
        metadata=about(
            kinds.one_or_several(kinds.TEXT, "array of strings"), "Names of users. Default: every user."
        ),
    )
    address: tuple[kinds.Network | Literal["unix"], ...] | None = attrs.field(
        default=None,
        metadata=about(
            kinds.one_or_several(kinds.NETWORK, "array of networks"),
            'The client\'s address, such as `"10.0.0.0/8"`, or `"unix"` for every client on a Unix socket. '
            "Default: every client.",
        ),
    )
    tls: bool | None = attrs.field(
        default=None,
        metadata=about(kinds.BOOLEAN, "Whether the connection uses TLS. Default: either."),
    )

    def matches(self, database: str, user: str, host: str | None, tls: bool) -> bool:
        """``host`` is the client's numeric address, or None on a Unix socket."""
        return (
            (self.database is None or database in self.database)
            and (self.user is None or user in self.user)
            and self.tls in {None, tls}
            and (self.address is None or any(_contains(network, host) for network in self.address))
        )


def _contains(network: kinds.Network | Literal["unix"], host: str | None) -> bool:
    if network == kinds.UNIX or host is None:
        return network == kinds.UNIX and host is None
    address = ipaddress.ip_address(host)
    # A socket that listens on "::" may name an IPv4 client ::ffff:a.b.c.d.
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped and network.version == 4:
        address = address.ipv4_mapped
    return address in network


@attrs.frozen
class Auth:
    method: AuthMethod = attrs.field(
        default=AuthMethod.SCRAM_SHA_256,
        metadata=about(
            kinds.choice(AuthMethod),
            "How clients log in where no rule says otherwise, named as in `pg_hba.conf`. `reject` lets "
            "nobody in, so that only the rules do.",
        ),
    )
    query: str | None = attrs.field(
        default=None,
        metadata=about(
            kinds.TEXT,
            "Looks up a user that has no password here at the origin of the database that it asks for: `$1` "
            "is the user's name, the answer one row of name, stored password and, if it has a third column, "
            "the time until which the password is valid. Only names of `pg_catalog` are found without their "
            "schema.",
        ),
    )
    query_user: str | None = attrs.field(
        default=None,
        metadata=about(
            kinds.TEXT,
            "The user that `query` runs as. Default: the origin's user. Needed where an origin names none.",
        ),
    )
    query_password: Secret | None = None
    query_database: str | None = attrs.field(
        default=None,
        metadata=about(
            kinds.TEXT,
            "The database at the origin that `query` runs in. Default: the one that the client asks for. "
            'Needed where the origin of `[databases."*"]` names none.',
        ),
    )
    query_cache: float = attrs.field(
        default=1.0,
        metadata=about(
            kinds.SPAN,
            "How long a user that `query` has found is remembered. `0` asks anew at each login.",
        ),
    )
    rules: tuple[Rule, ...] = ()
    allow_cleartext_without_tls: bool = attrs.field(
        default=False,
        metadata=about(
            kinds.BOOLEAN,
            "Allow the method `password`, which sends the password as it is, on TCP connections without TLS.",
        ),
    )

    def method_for(self, database: str, user: str, host: str | None, tls: bool) -> AuthMethod:
        """The first matching rule's method, else the general one. ``host`` is None on a Unix socket."""
        for rule in self.rules:
            if rule.matches(database, user, host, tls):
                return rule.method
        return self.method


@attrs.frozen
class User:
    """``password`` is clear text, or as ``pg_authid`` stores it: a SCRAM secret, or "md5" and 32 digits."""

    name: str
    password: Secret | None = None
    max_clients: int = attrs.field(
        default=0,
        metadata=about(
            kinds.integer(0),
            "Clients of this user at the same time; `0` is any number. One more is refused with SQLSTATE "
            "53300.",
        ),
    )
    pool_size: int | None = attrs.field(
        default=None,
        metadata=about(
            kinds.integer(1, kinds.MOST_SERVERS),
            "Server connections of one pool of this user, where each user has its own (the origin names no "
            "user). Default: the database's.",
        ),
    )
    max_leases: int | None = attrs.field(
        default=None,
        metadata=about(
            kinds.integer(0),
            "Server connections that this user may hold at the same time in one pool; `0` is any number. "
            "Default: the database's `max_leases_per_user`.",
        ),
    )
    cache: bool = attrs.field(
        default=True,
        metadata=about(
            kinds.BOOLEAN,
            "Whether this user's reads may be answered from memory, where the database has a cache.",
        ),
    )
    timeouts: ClientTimeouts = attrs.field(factory=ClientTimeouts)
