"""Opening connections to an origin: addresses, TLS as `sslmode` says, log in; and sending cancel requests.

`sslmode` is libpq's: `allow` and `prefer` are a preference and a fall-back, tried per host on connections of
their own, except that a server which answers SSLRequest with no is talked to in the clear on the same
connection.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import ssl
from typing import TYPE_CHECKING, Self

import attrs
import trio

from trio_pool.config.origin import Origin, SslMode
from trio_pool.errors import Reason, ServerFault, SqlState
from trio_pool.net import tls as tls_contexts
from trio_pool.net.conversation import Conversation, EndOfStream
from trio_pool.net.transport import PlainTransport, TLSTransport
from trio_pool.protocol.channel_binding import end_point
from trio_pool.protocol.login import Login
from trio_pool.wire import messages
from trio_pool.wire.frames import MAX_LOGIN_REPLY, FramingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_pool.config.model import Database
    from trio_pool.protocol.credentials import OriginSecret

Address = tuple[int, object]
"""Address family and what `connect` takes."""

_BEFORE_TLS = frozenset({Reason.SERVER_NOT_RESOLVED, Reason.SERVER_CONNECT_FAILED})
"""Failures that a second attempt with other encryption cannot mend."""


@attrs.frozen(eq=False)
class OriginAccess:
    """An origin and what it takes to log in there as one user."""

    origin: Origin
    startup_parameters: Mapping[str, str]
    """What our own StartupMessage says: user, database, settings."""
    password: OriginSecret | None = attrs.field(repr=False)
    tls_context: ssl.SSLContext

    @classmethod
    def to(cls, database: Database, user: str, password: OriginSecret | None) -> Self:
        """The access of one pool.

        Raises OSError (`ssl.SSLError` is one) if a certificate cannot be loaded.
        """
        origin = database.origin
        parameters = {"user": user, "database": origin.dbname or database.name, **origin.parameters}
        return cls(origin, parameters, password, tls_contexts.origin_context(origin))


@attrs.frozen(eq=False)
class Reached:
    """A connection to one host on which nobody has logged in: encrypted, if the server and `sslmode` say so.

    `certificate` is the server's (DER), None without TLS.
    """

    conversation: Conversation
    certificate: bytes | None
    address: Address
    host: str
    port: int

    def close(self) -> None:
        self.conversation.transport.close()


@attrs.frozen(eq=False)
class Dialled:
    """A logged-in connection: its transport, what the login learned, where it leads, and whether it is
    encrypted.

    `unread` is what has arrived behind the login's ReadyForQuery.
    """

    transport: PlainTransport | TLSTransport
    login: Login
    address: Address
    host: str
    unread: bytes


async def dial(access: OriginAccess) -> Dialled:
    """Connect and log in.

    Hosts are tried in order; raises the last host's `ServerFault`. The caller bounds the time.
    """
    fault: ServerFault | None = None
    for host, port in access.origin.hosts:
        try:
            return await dial_host(access, host, port)
        except ServerFault as failed:
            fault = failed
            if _final(failed):
                raise
    assert fault is not None
    raise fault


async def dial_host(access: OriginAccess, host: str, port: int) -> Dialled:
    """Connect to one host and log in, with and without TLS as `sslmode` allows.

    The caller bounds the time.
    """
    fault: ServerFault | None = None
    for tls in _attempts(access.origin, host):
        try:
            return await _log_in(access, await _reach(access, host, port, tls=tls))
        except ServerFault as failed:
            fault = failed
            if _final(failed) or failed.reason in _BEFORE_TLS:
                raise
    assert fault is not None
    raise fault


async def reach_host(access: OriginAccess, host: str, port: int) -> Reached:
    """Everything before the log in: a connection to one host, encrypted as `sslmode` says.

    The caller bounds the time and closes it.
    """
    fault: ServerFault | None = None
    for tls in _attempts(access.origin, host):
        try:
            return await _reach(access, host, port, tls=tls)
        except ServerFault as failed:
            fault = failed
            if failed.reason in _BEFORE_TLS:
                raise
    assert fault is not None
    raise fault


def _final(fault: ServerFault) -> bool:
    """Whether neither another host nor TLS (for which `pg_hba.conf` may have another rule) can mend it."""
    return fault.lasting and fault.sqlstate != SqlState.INVALID_AUTHORIZATION


def _attempts(origin: Origin, host: str) -> tuple[bool, ...]:
    """Whether to use TLS, first and second choice. A Unix socket never does."""
    if host.startswith("/"):
        return (False,)
    match origin.sslmode:
        case SslMode.DISABLE:
            return (False,)
        case SslMode.ALLOW:
            return (False, True)
        case SslMode.PREFER:
            return (True, False)
        case _:
            return (True,)


async def _reach(access: OriginAccess, host: str, port: int, *, tls: bool) -> Reached:
    sock, address = await _connect(host, port)
    try:
        conversation = Conversation.over(PlainTransport(sock), MAX_LOGIN_REPLY)
        try:
            certificate = await _encrypt(conversation, access, host) if tls else None
        except EndOfStream as error:
            raise ServerFault(
                f"{spell(host, port)} did not answer SSLRequest: {error}",
                reason=Reason.SERVER_LOGIN_FAILED,
            ) from error
        return Reached(conversation, certificate, address, host, port)
    except BaseException:
        sock.close()
        raise


async def _log_in(access: OriginAccess, reached: Reached) -> Dialled:
    """Takes the connection over: it is closed if the login fails."""
    conversation, host = reached.conversation, reached.host
    try:
        encrypted = isinstance(conversation.transport, TLSTransport)
        login = Login(
            access.startup_parameters,
            access.password,
            tls=encrypted,
            channel_binding=None if reached.certificate is None else end_point(reached.certificate),
            allow_cleartext=host.startswith("/"),
            client_nonce=secrets.token_urlsafe(18),
        )
        await conversation.send(login.begin())
        while not login.done:
            reply = login.receive(*await conversation.message())
            if reply:
                await conversation.send(reply)
        unread = conversation.assembler.rest()
        return Dialled(conversation.transport, login, reached.address, host, unread)
    except EndOfStream as error:
        reached.close()
        raise ServerFault(
            f"the server at {spell(host, reached.port)} did not complete the login: {error}",
            reason=Reason.SERVER_LOGIN_FAILED,
        ) from error
    except FramingError as error:
        reached.close()
        raise ServerFault(
            f"{spell(host, reached.port)} does not speak PostgreSQL's protocol: {error}",
            SqlState.PROTOCOL_VIOLATION,
            reason=Reason.SERVER_PROTOCOL_VIOLATION,
        ) from error
    except BaseException:
        reached.close()
        raise


async def _connect(host: str, port: int) -> tuple[socket.socket, Address]:
    """A connected, non-blocking socket; every address of the host is tried."""
    fault: OSError | None = None
    try:
        addresses = await _resolve(host, port)
    except (OSError, UnicodeError) as error:  # UnicodeError: a label longer than a name can have
        raise ServerFault(
            f"cannot resolve the host name {host!r}: {getattr(error, 'strerror', None) or error}",
            reason=Reason.SERVER_NOT_RESOLVED,
        ) from error
    for address in addresses:
        try:
            return await _connect_address(address), address
        except OSError as error:
            fault = error
    raise ServerFault(
        f"cannot connect to {spell(host, port)}: {fault and (fault.strerror or fault)}",
        reason=Reason.SERVER_CONNECT_FAILED,
    ) from fault


async def _resolve(host: str, port: int) -> list[Address]:
    if host.startswith("/"):
        return [(socket.AF_UNIX, f"{host}/.s.PGSQL.{port}")]
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


async def _connect_address(address: Address) -> socket.socket:
    family, where = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        code = sock.connect_ex(where)  # type: ignore[arg-type]
        if code in (errno.EINPROGRESS, errno.EAGAIN):
            await trio.lowlevel.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        return sock
    except BaseException:
        sock.close()
        raise


async def _encrypt(conversation: Conversation, access: OriginAccess, host: str) -> bytes | None:
    """SSLRequest and handshake; the server's certificate, or None if it said no and that is acceptable."""
    await conversation.send(messages.SSL_REQUEST)
    answer = await conversation.byte()
    if answer == b"N":
        if access.origin.sslmode in (SslMode.PREFER, SslMode.ALLOW):
            return None
        raise ServerFault("the server does not support TLS", reason=Reason.SERVER_TLS_FAILED)
    if answer != b"S":
        raise ServerFault(
            "the server answered SSLRequest with nonsense", reason=Reason.SERVER_PROTOCOL_VIOLATION
        )
    if conversation.unread:
        raise ServerFault(
            "the server sent unencrypted data after its answer to SSLRequest",
            reason=Reason.SERVER_PROTOCOL_VIOLATION,
        )
    try:
        transport = await conversation.upgrade(access.tls_context, server_side=False, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        raise ServerFault(
            f"the server's certificate is not acceptable: {error.verify_message}",
            reason=Reason.SERVER_TLS_FAILED,
        ) from error
    except ssl.SSLError as error:
        raise ServerFault(f"TLS failed: {error.reason or error}", reason=Reason.SERVER_TLS_FAILED) from error
    return transport.tls.getpeercert(binary_form=True)


async def send_cancel(dialled: Dialled, access: OriginAccess) -> None:
    """Ask the origin to cancel what this connection runs; returns when the origin has closed the request's
    connection.

    By then the signal has been sent (`processCancelRequest` in PostgreSQL signals before it exits), so
    whatever is sent to the server afterwards is safe.
    """
    sock = await _connect_address(dialled.address)
    with sock:
        conversation = Conversation.over(PlainTransport(sock))
        try:
            if isinstance(dialled.transport, TLSTransport):
                await _encrypt(conversation, access, dialled.host)
            await conversation.send(messages.cancel_request(dialled.login.process_id, dialled.login.secret))
            await conversation.end()
        except EndOfStream:
            pass


def spell(host: str, port: int) -> str:
    """A host of an origin as messages name it."""
    return f"{host}/.s.PGSQL.{port}" if host.startswith("/") else f"{host}:{port}"
