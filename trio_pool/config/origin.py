"""The origin: where a database really is, and how to log in there.

Parsed from a URL in libpq's form (PostgreSQL 18, section 32.1.1.2 "Connection URIs"). The URL may hold a
password, so a refusal quotes no part of it before it is certain where the password ends.

The scheme `trio-pool` names an origin that is another trio-pool. What it takes to get there is the same; the
defaults are those of a long way through networks that belong to others: an encrypted and verified connection,
TLS without being asked for, and a silent network noticed within seconds.
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
LINK_PORT = 6432
"""Of a trio-pool."""
_TUNNEL = "tunnel"
"""The one value of `via`."""

W = TypeVar("W", bound=StrEnum)


class SslMode(StrEnum):
    """libpq's ``sslmode`` (PostgreSQL 18, table 32.1)."""

    DISABLE = "disable"
    ALLOW = "allow"
    PREFER = "prefer"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


class SslNegotiation(StrEnum):
    """libpq's ``sslnegotiation``: whether TLS is asked for, or begun at once, which saves a round trip."""

    POSTGRES = "postgres"
    DIRECT = "direct"


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


LINK_TCP = TcpOptions(keepalives_idle=5, keepalives_interval=2, keepalives_count=5, tcp_user_timeout=15_000)
"""A link that is silent because nothing is under way, and one that swallows what is sent, are both given up
after 15 seconds, and survive an outage of 10.
"""


@attrs.frozen
class Origin:
    """One PostgreSQL, or several of which some will do, as ``target_session_attrs`` says; or, if it is a
    ``link``, one or several trio-pools.

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
    sslnegotiation: SslNegotiation = SslNegotiation.POSTGRES
    target_session_attrs: TargetSessionAttrs = TargetSessionAttrs.ANY
    load_balance_hosts: LoadBalanceHosts = LoadBalanceHosts.DISABLE
    tcp: TcpOptions = TcpOptions()
    parameters: dict[str, str] = attrs.field(factory=dict, hash=False)
    link: bool = False
    tunnel: bool = False
    """Whether its hosts are names of origins that connect to us (``[tunnel.listen]``)."""

    def __str__(self) -> str:
        """The URL, without the password."""
        usual = _defaults(self.link)
        user = f"{quote(self.user, safe='')}@" if self.user is not None else ""
        hosts = ",".join(
            _spell_host(host) if self.tunnel else f"{_spell_host(host)}:{port}" for host, port in self.hosts
        )
        dbname = f"/{quote(self.dbname, safe='')}" if self.dbname is not None else ""
        query: dict[str, str] = {}
        if self.sslmode is not usual.sslmode:
            query["sslmode"] = self.sslmode
        if self.sslnegotiation is not usual.sslnegotiation:
            query["sslnegotiation"] = self.sslnegotiation
        for name in ("sslrootcert", "sslcert", "sslkey"):
            if (path := getattr(self, name)) is not None:
                query[name] = str(path)
        if self.target_session_attrs is not TargetSessionAttrs.ANY:
            query["target_session_attrs"] = self.target_session_attrs
        if self.load_balance_hosts is not LoadBalanceHosts.DISABLE:
            query["load_balance_hosts"] = self.load_balance_hosts
        for field in attrs.fields(TcpOptions):
            if (number := getattr(self.tcp, field.name)) != getattr(usual.tcp, field.name):
                query[field.name] = str(number)
        if self.tunnel:
            query["via"] = _TUNNEL
        query |= self.parameters
        joined = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
        scheme = "trio-pool" if self.link else "postgresql"
        return f"{scheme}://{user}{hosts}{dbname}" + (f"?{joined}" if joined else "")


_POSTGRESQL = Origin(hosts=())
_TRIO_POOL = Origin(
    hosts=(),
    sslmode=SslMode.VERIFY_FULL,
    sslnegotiation=SslNegotiation.DIRECT,
    tcp=LINK_TCP,
    link=True,
)


def _defaults(link: bool) -> Origin:
    """What a URL need not say."""
    return _TRIO_POOL if link else _POSTGRESQL


PARAMETERS = {
    "host": "Host, or directory of a Unix socket when it starts with `/`; several separated by commas. "
    "Replaces the hosts before the path.",
    "port": "One port for all hosts, or as many as there are hosts. Default: 5432, of a trio-pool 6432.",
    "user": "User to log in as.",
    "password": "Password of that user; a password key of the table comes before it.",
    "dbname": "Database at the origin. Default: the name that clients connect to.",
    "sslmode": "`disable`, `allow`, `prefer` (default), `require`, `verify-ca` or `verify-full` (default of "
    "`trio-pool://`), as in libpq.",
    "sslnegotiation": "`postgres` (default): ask for TLS; `direct` (default of `trio-pool://`): begin with "
    "it. That saves a round trip; PostgreSQL 17, `sslmode` `require` or more.",
    "sslrootcert": "PEM file of the certificate authorities to trust. Default, and `system`: those of the "
    "system.",
    "sslcert": "PEM file of the certificate to present.",
    "sslkey": "PEM file of its key. Default: in the file of `sslcert`.",
    "via": "`tunnel`: the hosts are names of origins that connect to this trio-pool (`[tunnel.listen]`), "
    "which answers for encryption and certificates. Default: hosts are connected to.",
    "target_session_attrs": "Which hosts will do: `any` (default), `read-write`, `read-only`, `primary`, "
    "`standby`, or `prefer-standby`, which takes another only if there is no standby, as in libpq.",
    "load_balance_hosts": "`disable` (default): hosts are tried in order; `random`: in any order, anew for "
    "each connection.",
    "keepalives": "`1` (default): TCP keep-alive; `0`: none.",
    "keepalives_idle": "Seconds of silence before the first keep-alive. Default of this and those below, and "
    "`0`: the system's. Defaults of `trio-pool://`: 5, 2, 5 and 15000, so that a dead link is noticed within "
    "15 seconds.",
    "keepalives_interval": "Seconds between keep-alives that are not answered.",
    "keepalives_count": "How many of them may stay unanswered before the connection is lost.",
    "tcp_user_timeout": "Milliseconds that sent data may stay unacknowledged before the connection is lost; "
    "Linux only. Of a `trio-pool://`, less than 3000 counts as 3000.",
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
}


def parse_origin(text: str, base: Path) -> Origin:
    """The origin of a ``postgresql://`` URL; files are relative to ``base``. Raises ``Refused``."""
    scheme, separator, rest = text.partition("://")
    if scheme not in {"postgresql", "postgres", "trio-pool"} or not separator:
        raise refuse(
            "the origin is not a URL of PostgreSQL or of a trio-pool",
            'write "postgresql://user@host:5432/database"',
        )
    usual = _defaults(scheme == "trio-pool")
    authority, path, query = _split(rest)
    login, _, hosts = authority.rpartition("@")
    user, colon, password = login.partition(":")
    given = {
        "user": _decode(user),
        "password": _decode(password) if colon else "",
        "dbname": _decode(path),
    } | _parse_query(query)
    sslmode = _parse_word(given, "sslmode", usual.sslmode)
    return Origin(
        hosts=_parse_hosts(
            hosts, given.get("host"), given.get("port"), LINK_PORT if usual.link else DEFAULT_PORT
        ),
        user=given["user"] or None,
        password=Secret(given["password"]) if given["password"] else None,
        dbname=given["dbname"] or None,
        sslmode=sslmode,
        sslrootcert=None if given.get("sslrootcert") == "system" else _file(given, "sslrootcert", base),
        sslcert=_file(given, "sslcert", base),
        sslkey=_file(given, "sslkey", base),
        sslnegotiation=_parse_negotiation(given, sslmode, usual.sslnegotiation),
        target_session_attrs=_parse_word(given, "target_session_attrs", TargetSessionAttrs.ANY),
        load_balance_hosts=_parse_word(given, "load_balance_hosts", LoadBalanceHosts.DISABLE),
        tcp=attrs.evolve(usual.tcp, **{name: _parse_number(given, name) for name in _MOST if name in given}),
        parameters={name: given[name] for name in _STARTUP_PARAMETERS if name in given},
        link=usual.link,
        tunnel=_is_tunnel(given),
    )


def _is_tunnel(given: Mapping[str, str]) -> bool:
    """TLS is the tunnel's own, so parameters about it are refused rather than without effect."""
    via = given.get("via")
    if via is None:
        return False
    if via != _TUNNEL:
        raise refuse("the origin has an unknown via", f'use "{_TUNNEL}", or leave it out')
    for name in ("sslmode", "sslnegotiation", "sslrootcert", "sslcert", "sslkey", "port"):
        if name in given:
            raise refuse(
                f"the origin has the parameter {name}, which has no use with via={_TUNNEL}",
                "leave it out, see [tunnel.listen]",
            )
    return True


def _parse_negotiation(given: Mapping[str, str], mode: SslMode, default: SslNegotiation) -> SslNegotiation:
    """As in libpq, TLS is begun unasked only where it is not a mere preference: there is no falling back."""
    weak = mode in (SslMode.DISABLE, SslMode.ALLOW, SslMode.PREFER)
    negotiation = _parse_word(given, "sslnegotiation", SslNegotiation.POSTGRES if weak else default)
    if weak and negotiation is SslNegotiation.DIRECT:
        raise refuse(
            f"the origin has sslnegotiation=direct and the weak sslmode {mode}",
            "set sslmode to require, verify-ca or verify-full",
        )
    return negotiation


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


def _parse_hosts(
    authority: str, host: str | None, port: str | None, usual_port: int
) -> tuple[tuple[str, int], ...]:
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
    return tuple(
        (_check_host(name), _parse_port(number, usual_port))
        for name, number in zip(hosts, ports, strict=True)
    )


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


def _parse_port(port: str, usual: int) -> int:
    if not port:
        return usual
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
