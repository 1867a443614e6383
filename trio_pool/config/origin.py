"""The origin: where a database really is, and how to log in there.

Parsed from a URL in libpq's form (PostgreSQL 18, section 32.1.1.2 "Connection URIs"). The URL may hold a
password, so a refusal quotes no part of it before it is certain where the password ends.
"""

from __future__ import annotations

import difflib
import re
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, unquote

import attrs

from trio_pool.config.problems import Fault, Refused, refuse
from trio_pool.config.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DEFAULT_PORT = 5432

W = TypeVar("W", bound=StrEnum)


class SslMode(StrEnum):
    """libpq's ``sslmode`` (PostgreSQL 18, table 32.1)."""

    DISABLE = "disable"
    ALLOW = "allow"
    PREFER = "prefer"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


class TargetSessionAttrs(StrEnum):
    """libpq's ``target_session_attrs``: which of the hosts will do."""

    ANY = "any"
    READ_WRITE = "read-write"
    READ_ONLY = "read-only"
    PRIMARY = "primary"
    STANDBY = "standby"
    PREFER_STANDBY = "prefer-standby"


class LoadBalanceHosts(StrEnum):
    """libpq's ``load_balance_hosts``: in which order hosts and their addresses are tried."""

    DISABLE = "disable"
    RANDOM = "random"


@attrs.frozen
class TcpOptions:
    """libpq's options of the TCP connection; 0 is the system's default.

    ``keepalives`` switches keep-alive on; ``keepalives_idle`` and ``keepalives_interval`` are in seconds,
    ``tcp_user_timeout`` is in milliseconds.
    """

    keepalives: int = 1
    keepalives_idle: int = 0
    keepalives_interval: int = 0
    keepalives_count: int = 0
    tcp_user_timeout: int = 0


@attrs.frozen
class Origin:
    """One PostgreSQL, or several of which some will do, as ``target_session_attrs`` says.

    A host that starts with "/" is the directory of a Unix socket. Without ``user`` the pool logs in as the
    client's user. ``dbname`` is None only behind the database "*", until ``Config.database`` names it.
    ``sslrootcert`` None means the system's certificate authorities, ``sslkey`` None means that the key is in
    the file of ``sslcert``. ``parameters`` are sent in the startup message.
    """

    hosts: tuple[tuple[str, int], ...]
    user: str | None = None
    password: Secret | None = None
    dbname: str | None = None
    sslmode: SslMode = SslMode.PREFER
    sslrootcert: Path | None = None
    sslcert: Path | None = None
    sslkey: Path | None = None
    target_session_attrs: TargetSessionAttrs = TargetSessionAttrs.ANY
    load_balance_hosts: LoadBalanceHosts = LoadBalanceHosts.DISABLE
    tcp: TcpOptions = TcpOptions()
    parameters: dict[str, str] = attrs.field(factory=dict, hash=False)

    def __str__(self) -> str:
        """The URL, without the password."""
        user = f"{quote(self.user, safe='')}@" if self.user is not None else ""
        hosts = ",".join(f"{_spell_host(host)}:{port}" for host, port in self.hosts)
        dbname = f"/{quote(self.dbname, safe='')}" if self.dbname is not None else ""
        query: dict[str, str] = {}
        if self.sslmode is not SslMode.PREFER:
            query["sslmode"] = self.sslmode
        for name in ("sslrootcert", "sslcert", "sslkey"):
            if (path := getattr(self, name)) is not None:
                query[name] = str(path)
        if self.target_session_attrs is not TargetSessionAttrs.ANY:
            query["target_session_attrs"] = self.target_session_attrs
        if self.load_balance_hosts is not LoadBalanceHosts.DISABLE:
            query["load_balance_hosts"] = self.load_balance_hosts
        for field in attrs.fields(TcpOptions):
            if (number := getattr(self.tcp, field.name)) != field.default:
                query[field.name] = str(number)
        query |= self.parameters
        joined = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
        return f"postgresql://{user}{hosts}{dbname}" + (f"?{joined}" if joined else "")


PARAMETERS = {
    "host": "Host, or directory of a Unix socket when it starts with `/`; several separated by commas. "
    "Replaces the hosts before the path.",
    "port": "One port for all hosts, or as many as there are hosts.",
    "user": "User to log in as.",
    "password": "Password of that user; a password key of the table comes before it.",
    "dbname": "Database at the origin. Default: the name that clients connect to.",
    "sslmode": "`disable`, `allow`, `prefer` (default), `require`, `verify-ca` or `verify-full`, as in "
    "libpq.",
    "sslrootcert": "PEM file of the certificate authorities to trust. Default, and `system`: those of the "
    "system.",
    "sslcert": "PEM file of the certificate to present.",
    "sslkey": "PEM file of its key. Default: in the file of `sslcert`.",
    "target_session_attrs": "Which hosts will do: `any` (default), `read-write`, `read-only`, `primary`, "
    "`standby`, or `prefer-standby`, which takes another only if there is no standby, as in libpq.",
    "load_balance_hosts": "`disable` (default): hosts are tried in order; `random`: in any order, anew for "
    "each connection.",
    "keepalives": "`1` (default): TCP keep-alive; `0`: none.",
    "keepalives_idle": "Seconds of silence before the first keep-alive. Default of this and those below, and "
    "`0`: the system's.",
    "keepalives_interval": "Seconds between keep-alives that are not answered.",
    "keepalives_count": "How many of them may stay unanswered before the connection is lost.",
    "tcp_user_timeout": "Milliseconds that sent data may stay unacknowledged before the connection is lost; "
    "Linux only.",
    "application_name": "Reported to the origin for a client that reports none.",
    "options": "Settings in the form `-c name=value`, sent in the startup message.",
}
"""What may follow the "?" of an origin, and what it means."""

_MOST = {
    "keepalives": 1,
    "keepalives_idle": 32767,
    "keepalives_interval": 32767,
    "keepalives_count": 127,
    "tcp_user_timeout": (1 << 31) - 1,
}
"""What Linux accepts at most (`do_tcp_setsockopt`)."""

_STARTUP_PARAMETERS = ("application_name", "options")

# libpq knows these, and URLs copied from a provider's page have them, so each gets an answer of its own.
_ELSEWHERE = {
    "connect_timeout": "leave it out and set server_connect in the database's timeouts",
    "passfile": "leave it out and set password_file in the database's table",
    "hostaddr": "write the address in place of the host's name",
    "client_encoding": "leave it out, every client brings its own",
    "channel_binding": "leave it out, it is not supported yet",
    "gssencmode": "leave it out, connections to an origin never use GSSAPI",
    "sslnegotiation": "leave it out, it is not supported yet",
}


def parse_origin(text: str, base: Path) -> Origin:
    """The origin of a ``postgresql://`` URL; files are relative to ``base``. Raises ``Refused``."""
    scheme, separator, rest = text.partition("://")
    if scheme == "trio-pool" and separator:
        raise refuse(
            "an origin that is another trio-pool is not supported yet", "name a postgresql:// origin"
        )
    if scheme not in {"postgresql", "postgres"} or not separator:
        raise refuse("the origin is not a URL of PostgreSQL", 'write "postgresql://user@host:5432/database"')
    authority, path, query = _split(rest)
    login, _, hosts = authority.rpartition("@")
    user, colon, password = login.partition(":")
    given = {
        "user": _decode(user),
        "password": _decode(password) if colon else "",
        "dbname": _decode(path),
    } | _parse_query(query)
    return Origin(
        hosts=_parse_hosts(hosts, given.get("host"), given.get("port")),
        user=given["user"] or None,
        password=Secret(given["password"]) if given["password"] else None,
        dbname=given["dbname"] or None,
        sslmode=_parse_word(given, "sslmode", SslMode.PREFER),
        sslrootcert=None if given.get("sslrootcert") == "system" else _file(given, "sslrootcert", base),
        sslcert=_file(given, "sslcert", base),
        sslkey=_file(given, "sslkey", base),
        target_session_attrs=_parse_word(given, "target_session_attrs", TargetSessionAttrs.ANY),
        load_balance_hosts=_parse_word(given, "load_balance_hosts", LoadBalanceHosts.DISABLE),
        tcp=TcpOptions(**{name: _parse_number(given, name) for name in _MOST if name in given}),
        parameters={name: given[name] for name in _STARTUP_PARAMETERS if name in given},
    )


def _split(rest: str) -> tuple[str, str, str]:
    """Authority, path and query.

    An "@", "/" or "?" that a password holds in the clear would move the borders, and parts of it would be
    taken for a host, a port or a parameter, and quoted. All such URLs have an "@" outside the authority, or a
    second one inside.
    """
    found = re.fullmatch(r"([^/?]*)(?:/([^?]*))?(?:\?(.*))?", rest, re.DOTALL)
    assert found is not None, "every part is optional"
    authority, path, query = (part or "" for part in found.groups())
    if rest.count("@") > min(authority.count("@"), 1):
        raise refuse(
            "the origin has an @ where none can stand",
            "write @ as %40, : as %3A, / as %2F, ? as %3F and % as %25 in its user, password, database and "
            "parameters",
        )
    return authority, path, query


def _decode(text: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise refuse("the origin has a % that no two hexadecimal digits follow", "write % as %25")
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise refuse(
            "the origin is not UTF-8 after percent-decoding", "encode its characters as UTF-8"
        ) from None
    if "\0" in decoded:
        raise refuse("the origin has %00 in it", "leave it out, PostgreSQL accepts no zero bytes")
    return decoded


def _parse_query(query: str) -> dict[str, str]:
    given: dict[str, str] = {}
    faults = []
    for part in query.split("&") if query else ():
        name, separator, value = part.partition("=")
        name = _decode(name)
        if not separator:
            raise refuse(
                "a parameter of the origin has no value", "write parameters as name=value, joined by &"
            )
        if (name, value) == ("ssl", "true"):  # JDBC's spelling, which libpq accepts too
            name, value = "sslmode", "require"
        if name in PARAMETERS:
            given[name] = _decode(value)
        else:
            faults.append(_unknown_parameter(name, given))
    if faults:
        raise Refused(*faults)
    return given


def _unknown_parameter(name: str, given: Mapping[str, str]) -> Fault:
    if "password" in given:  # then the name may be what follows an & in the clear: part of the password
        return Fault(
            "the origin has an unknown parameter after its password",
            "correct it, or write & as %26 if it is part of the password",
        )
    if name in _ELSEWHERE:
        return Fault(f'the origin has the parameter "{name}", which has no use here', _ELSEWHERE[name])
    nearest = difflib.get_close_matches(name, PARAMETERS, n=1, cutoff=0.0)[0]
    return Fault(f'the origin has the unknown parameter "{name}"', f'the nearest known one is "{nearest}"')


def _parse_hosts(authority: str, host: str | None, port: str | None) -> tuple[tuple[str, int], ...]:
    """The hosts and ports; as in libpq, what the query says replaces what stands before the path."""
    pairs = [_split_host(part) for part in authority.split(",")]
    hosts = [name for name, _ in pairs] if host is None else host.split(",")
    ports = [number for _, number in pairs] if port is None else port.split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts):
        raise refuse(
            f"the origin has {len(hosts)} hosts and {len(ports)} ports",
            "write one port, or one for each host",
        )
    if not all(hosts):
        raise refuse(
            "the origin names no host",
            'write "postgresql://host/database", or "postgresql:///database?host=/run/postgresql" for a Unix '
            "socket",
        )
    return tuple((_check_host(name), _parse_port(number)) for name, number in zip(hosts, ports, strict=True))


def _split_host(part: str) -> tuple[str, str]:
    if part.startswith("["):
        host, bracket, rest = part[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise refuse("the origin has an IPv6 address without its closing bracket", 'write "[::1]:5432"')
        return _decode(host), rest[1:]
    host, _, port = part.partition(":")
    if ":" in port:
        raise refuse(
            "the origin has more than one : in a host", 'put an IPv6 address in brackets: "[::1]:5432"'
        )
    return _decode(host), port


def _check_host(host: str) -> str:
    if not host.startswith("/") and re.search(r"[\s/]", host):
        raise refuse(
            "a host of the origin has a space or a / in it", "write a host name, an address or a directory"
        )
    return host


def _parse_port(port: str) -> int:
    if not port:
        return DEFAULT_PORT
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise refuse(
            "a port of the origin is not a number from 1 to 65535",
            "correct it, or write : as %3A and / as %2F if it is part of a password",
        )
    return int(port)


def _parse_word(given: Mapping[str, str], name: str, default: W) -> W:
    words = type(default)
    try:
        return words(given.get(name, default))
    except ValueError:
        raise refuse(f"the origin has an unknown {name}", f"use {', '.join(words)}") from None


def _parse_number(given: Mapping[str, str], name: str) -> int:
    most = _MOST[name]
    if not re.fullmatch(r"[0-9]{1,10}", given[name]) or int(given[name]) > most:
        raise refuse(
            f"{name} of the origin is not a whole number from 0 to {most}", "correct it, or leave it out"
        )
    return int(given[name])


def _file(given: Mapping[str, str], name: str, base: Path) -> Path | None:
    return base / given[name] if given.get(name) else None


def _spell_host(host: str) -> str:
    return f"[{quote(host, safe=':')}]" if ":" in host else quote(host, safe="")
