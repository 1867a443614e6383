"""What can be wrong although each value is right: keys that contradict each other, files that are missing.

Looks at a finished model; the only I/O is to ask whether a file can be read.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from trio_pool.config.access import AuthMethod, TlsMode
from trio_pool.config.address import TcpAddress
from trio_pool.config.model import CONSOLE_DATABASES, Invalidation
from trio_pool.config.origin import SslMode
from trio_pool.config.problems import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio_pool.config.model import Config, Database
    from trio_pool.config.problems import KeyPath

_MODE: KeyPath = ("listen", "tls", "mode")
_CERTIFICATE: KeyPath = ("listen", "tls", "certificate")
_CLIENT_CA: KeyPath = ("listen", "tls", "client_ca")


def find_faults(config: Config) -> Iterator[Fault]:
    """Every contradiction and every missing file; ``Fault.at`` is a path from the top of the file."""
    yield from _check_addresses(config)
    yield from _check_tls(config)
    yield from _check_methods(config)
    yield from _check_query(config)
    yield from _check_tunnel(config)
    if not config.databases:
        yield Fault(
            "no database is configured",
            'add [databases.app] with origin = "postgresql://user@host:5432/app"',
            ("databases",),
        )
    for name, database in config.databases.items():
        yield from _check_database(name, database)


def _check_addresses(config: Config) -> Iterator[Fault]:
    addresses = config.listen.addresses
    if not addresses and not config.tunnel.dial:
        yield Fault(
            "is empty",
            'write at least one address, such as "127.0.0.1:6432"',
            ("listen", "addresses"),
            (("tunnel", "dial"),),
        )
    for index, address in enumerate(addresses):
        if address in addresses[:index] and not (isinstance(address, TcpAddress) and address.port == 0):
            yield Fault(f'"{address}" is there twice', "remove one", ("listen", "addresses", index))
    http = config.http.address
    if http is not None and http.port and http in addresses:
        yield Fault(
            f'"{http}" is an address for clients',
            "use another port",
            ("http", "address"),
            (("listen", "addresses"),),
        )


def _check_tls(config: Config) -> Iterator[Fault]:
    tls = config.listen.tls
    if tls.mode is TlsMode.DISABLE:
        return
    if tls.certificate is None:
        yield Fault("is missing", f'name a PEM file, TLS mode "{tls.mode}" needs it', _CERTIFICATE, (_MODE,))
    for name, path in (("certificate", tls.certificate), ("key", tls.key), ("client_ca", tls.client_ca)):
        yield from _check_file(path, ("listen", "tls", name))


def _check_methods(config: Config) -> Iterator[Fault]:
    methods: list[tuple[AuthMethod, KeyPath]] = [(config.auth.method, ("auth", "method"))]
    methods += [
        (rule.method, ("auth", "rules", index, "method")) for index, rule in enumerate(config.auth.rules)
    ]
    tls = config.listen.tls
    by_tunnel = bool(config.tunnel.dial) and not config.listen.addresses  # whose TLS is its own
    for method, at in methods:
        if method is not AuthMethod.CERT or by_tunnel:
            continue
        if tls.mode is TlsMode.DISABLE:
            yield Fault(
                'method "cert" needs TLS',
                'set mode = "require" and a certificate in [listen.tls]',
                at,
                (_MODE,),
            )
        if tls.client_ca is None:
            yield Fault(
                'method "cert" has no certificate authority to verify clients with',
                "set client_ca in [listen.tls]",
                at,
                (_CLIENT_CA,),
            )
    clear = config.auth.method is AuthMethod.PASSWORD and not config.auth.allow_cleartext_without_tls
    tcp = any(isinstance(address, TcpAddress) for address in config.listen.addresses)
    # With rules or with mode "allow" some clients may still get in, so there each login is judged by itself.
    if clear and tcp and tls.mode is TlsMode.DISABLE and not config.auth.rules:
        yield Fault(
            'method "password" would send passwords in clear text over TCP',
            'set mode = "require" in [listen.tls], use "scram-sha-256", or set allow_cleartext_without_tls = '
            "true",
            ("auth", "method"),
            (_MODE, ("listen", "addresses"), ("auth", "rules"), ("auth", "allow_cleartext_without_tls")),
        )


def _check_query(config: Config) -> Iterator[Fault]:
    """Whether `auth.query` knows where to run, and as whom."""
    auth = config.auth
    query: KeyPath = ("auth", "query")
    user: KeyPath = ("auth", "query_user")
    if auth.query is None:
        for name in ("query_user", "query_database"):
            if getattr(auth, name) is not None:
                yield Fault(
                    "has no use without query",
                    "add query to this table, or leave it out",
                    ("auth", name),
                    (query,),
                )
        return
    if auth.query_password is not None and auth.query_user is None:
        yield Fault("has a password for query and no user", "add query_user", ("auth",), (user,))
    for name, database in config.databases.items():
        at: KeyPath = ("databases", name, "origin")
        if database.origin.user is None and auth.query_user is None:
            yield Fault(
                "the origin names no user, so auth.query cannot log in there",
                "set query_user in [auth]",
                at,
                (query, user),
            )
        if database.origin.dbname is None and auth.query_database is None:
            yield Fault(
                "the origin names no database, so auth.query does not know where to run",
                "set query_database in [auth]",
                at,
                (query, ("auth", "query_database")),
            )


def _check_tunnel(config: Config) -> Iterator[Fault]:
    listen = config.tunnel.listen
    if listen is not None:
        at: KeyPath = ("tunnel", "listen")
        for name, path in (
            ("certificate", listen.certificate),
            ("key", listen.key),
            ("client_ca", listen.client_ca),
        ):
            yield from _check_file(path, (*at, name))
        if not listen.origins:
            yield Fault("is empty, so no origin may connect", "name the origins", (*at, "origins"))
        if listen.address.port and listen.address in (*config.listen.addresses, config.http.address):
            yield Fault(f'"{listen.address}" is taken already', "use another port", (*at, "address"))
        if config.listen.workers != 1:
            yield Fault(
                "each tunnel leads to one process, so several workers cannot share them",
                "set workers = 1 in [listen] of an edge with tunnels",
                at,
                (("listen", "workers"),),
            )
    for name, dial in config.tunnel.dial.items():
        at = ("tunnel", "dial", name)
        for key, path in (("certificate", dial.certificate), ("key", dial.key), ("ca", dial.ca)):
            yield from _check_file(path, (*at, key))
        if not dial.edges:
            yield Fault("is empty", 'name an edge, such as "edge.example:7432"', (*at, "edges"))
    for name, database in config.databases.items():
        if database.origin.tunnel:
            yield from _check_tunnelled(config, ("databases", name, "origin"), database)


def _check_tunnelled(config: Config, at: KeyPath, database: Database) -> Iterator[Fault]:
    listen = config.tunnel.listen
    if listen is None:
        yield Fault(
            "the origin is reached by tunnels, and nothing listens for them",
            "add [tunnel.listen], or leave via=tunnel out",
            at,
            (("tunnel",),),
        )
        return
    for host, _ in database.origin.hosts:
        if listen.origins and host not in listen.origins:
            yield Fault(
                f'"{host}" is no origin that may come by a tunnel',
                "add it to origins of [tunnel.listen], or correct the host",
                at,
                (("tunnel", "listen"),),
            )


def _check_database(name: str, database: Database) -> Iterator[Fault]:
    at: KeyPath = ("databases", name)
    origin = database.origin
    if name in CONSOLE_DATABASES:
        yield Fault(f'"{name}" is a name of the console', "choose another name", at)
    if database.min_pool_size > database.pool_size:
        yield Fault(
            f"{database.min_pool_size} is more than the pool_size of {database.pool_size}",
            "lower it, or raise pool_size",
            (*at, "min_pool_size"),
            ((*at, "pool_size"),),
        )
    if 0 < database.max_servers < database.min_pool_size:
        yield Fault(
            f"{database.max_servers} is less than the min_pool_size of {database.min_pool_size}",
            "raise it, or lower min_pool_size",
            (*at, "max_servers"),
            ((*at, "min_pool_size"),),
        )
    yield from _check_replication(database, (*at, "cache"))
    if origin.password is not None and origin.user is None:
        yield Fault(
            "the origin has a password and no user",
            'name the user: "postgresql://user@host:5432/name"',
            (*at, "origin"),
        )
    if origin.sslkey is not None and origin.sslcert is None:
        yield Fault("the origin has an sslkey and no sslcert", "name the certificate too", (*at, "origin"))
    if origin.sslmode is not SslMode.DISABLE:
        for path in (origin.sslrootcert, origin.sslcert, origin.sslkey):
            yield from _check_file(path, (*at, "origin"))


def _check_replication(database: Database, at: KeyPath) -> Iterator[Fault]:
    """Whether the stream of changes knows as whom to log in, and how to call its slots."""
    cache = database.cache
    user: KeyPath = (*at, "replication_user")
    if cache.replication_password is not None and cache.replication_user is None:
        yield Fault("has a password for replication and no user", "add replication_user", at, (user,))
    if cache.slot is not None and re.fullmatch("[a-z0-9_]{1,50}", cache.slot) is None:
        yield Fault(
            f'"{cache.slot}" cannot begin the name of a slot',
            "use lower-case letters, digits and underscores, 50 at most",
            (*at, "slot"),
        )
    if len(cache.publication.encode()) > 63:
        yield Fault("is longer than the 63 bytes of a name in PostgreSQL", "shorten it", (*at, "publication"))
    if not cache.enabled or cache.invalidation is not Invalidation.REPLICATION:
        return
    if database.origin.user is None and cache.replication_user is None:
        yield Fault(
            "the origin names no user, so nobody can stream its changes",
            "set replication_user",
            (*at, "invalidation"),
            ((*at[:-1], "origin"), user),
        )
    if database.origin.link:
        yield Fault(
            "changes cannot be streamed through another trio-pool",
            'use invalidation = "writes", or cache there',
            (*at, "invalidation"),
            ((*at[:-1], "origin"),),
        )
    if database.name == "*":
        yield Fault(
            "changes can be streamed of one database only",
            'give the database a table of its own, or use invalidation = "writes"',
            (*at, "invalidation"),
        )


def _check_file(path: Path | None, at: KeyPath) -> Iterator[Fault]:
    if path is None:
        return
    if not path.exists() or path.is_dir():
        yield Fault(
            f'there is no file "{path}"', "correct the path; it is relative to this file's directory", at
        )
    elif not os.access(path, os.R_OK):
        yield Fault(
            f'the file "{path}" cannot be read', "give its permissions to the user of this process", at
        )
