"""Addresses that trio-pool listens on, TCP and Unix. Nothing here resolves a name or opens a socket."""

from __future__ import annotations

import ipaddress
import re
from typing import TypeAlias

import attrs

from trio_pool.config.problems import refuse

# sockaddr_un.sun_path is 108 bytes on Linux and 104 on macOS and the BSDs, with the closing zero byte.
_LONGEST_SOCKET_PATH = 103

_HOST_NAME = re.compile(r"[A-Za-z0-9._-]+")
_REMEDY = 'write "127.0.0.1:6432", "[::1]:6432" or "unix:/run/trio-pool/.s.PGSQL.6432"'


@attrs.frozen
class TcpAddress:
    """A host (name, IPv4 or IPv6 address without brackets) and a port; port 0 lets the system choose one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@attrs.frozen
class UnixAddress:
    """The path of a Unix socket, absolute."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address: TypeAlias = TcpAddress | UnixAddress


def parse_address(text: str) -> Address:
    """The address that ``str()`` spells back. Raises ``Refused``."""
    if text.startswith("unix:"):
        return _parse_unix(text.removeprefix("unix:"))
    return parse_tcp_address(text)


def parse_tcp_address(text: str) -> TcpAddress:
    """``host:port`` or ``[v6]:port``. Raises ``Refused``."""
    host, colon, port = text.rpartition(":")
    if not colon:
        raise refuse(f'"{text}" has no port', _REMEDY)
    if host in {"", "*"}:
        raise refuse(f'"{text}" has no host', f'write "0.0.0.0:{port}" or "[::]:{port}" for every interface')
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise refuse(f'the port of "{text}" is not a number from 0 to 65535', _REMEDY)
    if host.startswith("[") and host.endswith("]"):
        return TcpAddress(_parse_ipv6(text, host[1:-1]), int(port))
    if ":" in host:
        raise refuse(f'"{text}" has an IPv6 address without brackets', f'write "[{host}]:{port}"')
    if not _HOST_NAME.fullmatch(host):
        raise refuse(f'"{text}" has no valid host', _REMEDY)
    return TcpAddress(host, int(port))


def _parse_ipv6(text: str, host: str) -> str:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise refuse(f'"{text}" has no valid IPv6 address between its brackets', _REMEDY) from None
    return host


def _parse_unix(path: str) -> UnixAddress:
    if not path.startswith("/") or "\0" in path:
        raise refuse(f'"unix:{path}" has no absolute path', _REMEDY)
    if len(path.encode()) > _LONGEST_SOCKET_PATH:
        raise refuse(
            f"the path of a Unix socket is longer than {_LONGEST_SOCKET_PATH} bytes",
            "choose a directory with a shorter path",
        )
    return UnixAddress(path)
