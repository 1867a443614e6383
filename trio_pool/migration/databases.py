"""[databases]: each entry becomes a table with an origin."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from trio_pool.config.kinds import MOST_SERVERS
from trio_pool.config.model import CONSOLE_DATABASES
from trio_pool.config.origin import (
    LoadBalanceHosts,
    Origin,
    SslMode,
    TargetSessionAttrs,
    TcpOptions,
    parse_origin,
)
from trio_pool.config.problems import Refused
from trio_pool.migration.general import put_seconds

if TYPE_CHECKING:
    from trio_pool.migration.context import Import, Section
    from trio_pool.migration.document import Table

PLACEHOLDER = "replace_me"

_MODES = ("session", "transaction", "statement")
_SSL_MODES = tuple(mode.value for mode in SslMode)
_SIZE = 20  # the default of `pool_size`, here and there


def translate_databases(work: Import) -> None:
    for name, section in work.databases.items():
        _translate_database(work, name, section)
    if not work.document.names("databases"):
        table = work.document.table("databases", PLACEHOLDER)
        work.warn(
            table,
            "PgBouncer's configuration has no database that could be translated, and trio-pool needs one: "
            "replace "
            "this one",
        )
        table.put("origin", f"postgresql://localhost:5432/{PLACEHOLDER}")


def _translate_database(work: Import, name: str, section: Section) -> None:
    if name == "pgbouncer":
        first = next(iter(section.entries.values()), None)
        if first is not None:
            section.refuse(first.key, "pgbouncer is the name of PgBouncer's console", "choose another name")
        return
    if name in CONSOLE_DATABASES or not name:
        work.warn(
            work.document.table("databases"),
            f"{name or 'an empty name'}: not a name that a database can have",
        )
        return
    try:
        origin = _origin(work, name, section)
    except _Untranslatable as reason:
        work.warn(
            work.document.table("databases"),
            f"{name} is left out: {reason}",
            next((entry.place for entry in section.entries.values()), None),
        )
        section.taken.update(section.entries)
        return
    table = work.document.table("databases", name)
    table.put("origin", str(origin))
    _put_password(work, table, section, origin)
    _put_sizes(work, table, section, origin)
    timeouts = work.document.table("databases", name, "timeouts")
    put_seconds(timeouts, "server_lifetime", section, "server_lifetime")
    put_seconds(timeouts, "lease_wait", section, "query_wait_timeout")


class _Untranslatable(Exception):
    pass


def _origin(work: Import, name: str, section: Section) -> Origin:
    port = section.integer("port")
    hosts = (section.text("host") or work.socket_dir).split(",")
    if hosts == [""]:
        raise _Untranslatable("it names no host, and unix_socket_dir is empty")
    if any(host.startswith("@") for host in hosts):
        raise _Untranslatable("sockets in the abstract namespace are not supported")
    mode = work.general.word("server_tls_sslmode", *_SSL_MODES) or "prefer"
    sslrootcert = sslcert = sslkey = None
    if mode.startswith("verify") and (authorities := work.general.text("server_tls_ca_file")):
        sslrootcert = Path(work.files.find(authorities))
    certificate, key = work.general.text("server_tls_cert_file"), work.general.text("server_tls_key_file")
    if certificate and mode != "disable":
        sslcert = Path(work.files.find(certificate))
        if key:
            sslkey = Path(work.files.find(key))
    balance = section.word("load_balance_hosts", "disable", "round-robin") or "round-robin"
    session = section.word("target_session_attrs", *(word.value for word in TargetSessionAttrs)) or "any"
    origin = Origin(
        hosts=tuple((host, 5432 if port is None else port) for host in hosts),
        user=section.text("user") or None,
        dbname=section.text("dbname") or (None if name == "*" else name),
        sslmode=SslMode(mode),
        sslrootcert=sslrootcert,
        sslcert=sslcert,
        sslkey=sslkey,
        target_session_attrs=TargetSessionAttrs(session),
        load_balance_hosts=LoadBalanceHosts.RANDOM
        if len(hosts) > 1 and balance != "disable"
        else LoadBalanceHosts.DISABLE,
        tcp=_tcp(work),
        parameters=_parameters(section),
    )
    try:
        parse_origin(str(origin), Path())
    except Refused as refused:
        raise _Untranslatable(str(refused)) from None
    return origin


def _tcp(work: Import) -> TcpOptions:
    """Keep-alive as PgBouncer sets it on both sides; what the system would refuse is left out."""
    most = {"idle": 32767, "intvl": 32767, "cnt": 127}
    idle, interval, count = (
        min(work.general.count(f"tcp_keep{part}") or 0, limit) for part, limit in most.items()
    )
    milliseconds = min(work.general.count("tcp_user_timeout") or 0, (1 << 31) - 1)
    on = work.general.flag("tcp_keepalive") is not False
    return TcpOptions(int(on), idle, interval, count, milliseconds)


def _parameters(section: Section) -> dict[str, str]:
    parameters = {}
    if name := section.text("application_name"):
        parameters["application_name"] = name
    settings = [
        f"-c {key}={_escaped(value)}"
        for key in ("client_encoding", "datestyle", "timezone")
        if (value := section.text(key))
    ]
    if settings:
        parameters["options"] = " ".join(settings)
    return parameters


def _escaped(value: str) -> str:
    return re.sub(r"([\s\\])", r"\\\1", value)


def _put_password(work: Import, table: Table, section: Section, origin: Origin) -> None:
    password = section.text("password")
    if origin.user is None:
        if password:
            table.say("password: PgBouncer does not use it, since the entry names no user")
        return
    if password:
        table.put("password", password)
        return
    stored = work.userlist.get(origin.user)
    if stored is None or not stored.secret:
        return
    if stored.secret.startswith("SCRAM-SHA-256$"):
        work.warn(
            table,
            f"the password of {origin.user} is a SCRAM secret, with which nobody can log in to PostgreSQL: "
            f"add it in "
            "clear text, as password_file",
            stored.place,
        )
        return
    table.put("password", stored.secret, f"of {origin.user}, from auth_file")


def _put_sizes(work: Import, table: Table, section: Section, origin: Origin) -> None:
    sizes = sizes_of(work, section, origin.user)
    mode = pool_mode_of(work, section, origin.user)
    if mode == "statement":
        entry = section.entry("pool_mode") or work.general.entry("pool_mode")
        work.warn(
            table,
            "pool_mode = statement: transactions of several statements, which it refuses, are allowed here",
            entry,
        )
        mode = "transaction"
    table.put("pool_mode", mode, "pool_mode" if work.general.text("pool_mode") or mode != "session" else
              "pool_mode, PgBouncer's default")  # fmt: skip
    size = sizes.size
    if size < 1:
        work.warn(table, "pool_size = 0: a pool has at least one server connection here")
        size = 1
    if size != _SIZE or "pool_size" in section.entries or "default_pool_size" in work.general.entries:
        table.put("pool_size", size, sizes.why)
    if origin.user is None and sizes.limit and table.put("max_servers", sizes.limit, "max_db_connections"):
        sizes = attrs.evolve(sizes, least=min(sizes.least, sizes.limit))
    if sizes.least:
        table.put("min_pool_size", min(sizes.least, size), "min_pool_size")
    clients = section.count("max_db_client_connections")
    if clients is None:
        clients = work.general.count("max_db_client_connections")
    if clients:
        table.put("max_clients", clients, "max_db_client_connections")


@attrs.frozen
class Sizes:
    """`size` of a pool and what it comes from, the `least` that is kept open, the `limit` of all or 0."""

    size: int
    why: str
    least: int
    limit: int


def sizes_of(work: Import, section: Section, user: str | None) -> Sizes:
    """How large PgBouncer lets the pools of a database be; `user` is the one that its entry names.

    A user's own size comes before the database's (`pool_pool_size` in objects.c), and whatever bounds the
    connections of the database or of the user bounds a pool that is the only one.
    """
    least = section.count("min_pool_size")
    if least is None:
        least = work.general.count("min_pool_size") or 0
    limit = section.count("max_db_connections")
    if limit is None:
        limit = work.general.count("max_db_connections") or 0
    of_database = section.count("pool_size")
    general = work.general.count("default_pool_size")
    size, why = (
        (of_database, "pool_size")
        if of_database is not None
        else (_SIZE if general is None else general, "default_pool_size")
    )
    own = work.users.get(user) if user is not None else None
    if own is not None and (of_user := own.count("pool_size")) is not None:
        size, why = of_user, f"pool_size of {user} in [users]"
    bound = own.count("max_user_connections") if own is not None else None
    if bound is None:
        bound = work.general.count("max_user_connections") or 0
    if 0 < bound < size:
        size, why = bound, "max_user_connections"
    if user is not None and 0 < limit < size:
        size, why = limit, "max_db_connections"
    return Sizes(min(size, MOST_SERVERS), why, min(least, MOST_SERVERS), min(limit, MOST_SERVERS))


def pool_mode_of(work: Import, section: Section, user: str | None) -> str:
    own = work.users.get(user) if user is not None else None
    found = own.word("pool_mode", *_MODES) if own is not None else None
    of_database = section.word("pool_mode", *_MODES)
    general = work.general.word("pool_mode", *_MODES)
    return found or of_database or general or "session"
