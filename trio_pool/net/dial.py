"""Opening connections to an origin: addresses, TLS as `sslmode` says, log in; and sending cancel requests.

`sslmode` is libpq's: `allow` and `prefer` are a preference and a fall-back, tried per host on connections of
their own, except that a server which answers SSLRequest with no is talked to in the clear on the same
connection.

Several hosts, and the addresses of one, are tried one after the other until one will do, as in libpq. Each
gets its share of the time that is left, so that one that hangs does not use up what the others need. A host
that has hung is tried last for a while: else each connection, opened one at a time, would wait for it.
"""

from __future__ import annotations

import math
import random
import secrets
import ssl
from typing import TYPE_CHECKING, Self, TypeVar

import attrs
import trio

from trio_pool.config.origin import LoadBalanceHosts, Origin, SslMode, SslNegotiation, TargetSessionAttrs
from trio_pool.errors import Reason, ServerFault, SqlState
from trio_pool.net import tls as tls_contexts
from trio_pool.net.conversation import Conversation, EndOfStream
from trio_pool.net.sockets import Address, connect, keep_alive, resolve, spell
from trio_pool.net.suitability import misfit
from trio_pool.net.transport import PlainTransport, TLSTransport
from trio_pool.net.tunnel import BY_TUNNEL
from trio_pool.net.warden import connected
from trio_pool.protocol import link
from trio_pool.protocol.channel_binding import end_point
from trio_pool.protocol.login import Login
from trio_pool.wire import messages
from trio_pool.wire.frames import MAX_LOGIN_REPLY, Assembler, FramingError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from trio_pool.config.model import Database
    from trio_pool.config.origin import TcpOptions
    from trio_pool.net.tunnel_listen import Tunnels
    from trio_pool.protocol.credentials import OriginSecret

__all__ = [
    "CancelKey",
    "Dialled",
    "OriginAccess",
    "Reached",
    "dial",
    "dial_host",
    "reach_host",
    "send_cancel",
    "send_cancel_by",
    "spell",
]

T = TypeVar("T")
if TYPE_CHECKING:
    Attempt = Callable[["OriginAccess", str, int, Address, bool], Awaitable[T]]

PASSED_OVER = 60.0
"""Seconds for which a host that did not answer is tried last. Arbitrary: it costs its share of
`server_connect` once in so long.
"""


@attrs.frozen(eq=False)
class OriginAccess:
    """An origin and what it takes to log in there as one user."""

    origin: Origin
    startup_parameters: Mapping[str, str]
    """What our own StartupMessage says: user, database, settings."""
    password: OriginSecret | None = attrs.field(repr=False)
    tls_context: ssl.SSLContext
    tunnels: Tunnels | None = None
    """Where connections come from if the origin connects to us."""
    silent: dict[tuple[str, int], float] = attrs.field(factory=dict, init=False, repr=False)
    """Hosts that did not answer, and until when they are tried last."""

    @classmethod
    def to(
        cls,
        database: Database,
        user: str,
        password: OriginSecret | None,
        tls_context: ssl.SSLContext | None = None,
        tunnels: Tunnels | None = None,
    ) -> Self:
        """The access of one pool; `tls_context` is one that was made for this origin already.

        Raises OSError (`ssl.SSLError` is one) if a certificate cannot be loaded.
        """
        origin = database.origin
        parameters = {"user": user, "database": origin.dbname or database.name, **origin.parameters}
        if origin.link:
            parameters[link.OPTION] = link.VERSION
        return cls(origin, parameters, password, tls_context or tls_contexts.origin_context(origin), tunnels)

    @property
    def tcp(self) -> TcpOptions:
        """Options of its sockets. Of a link, what is not acknowledged is watched instead (liveness.py)."""
        tcp = self.origin.tcp
        return attrs.evolve(tcp, tcp_user_timeout=0) if self.origin.link else tcp


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


@attrs.frozen
class CancelKey:
    """What it takes to cancel what a connection runs."""

    address: Address
    host: str
    encrypted: bool
    process_id: int
    secret: bytes = attrs.field(repr=False)


@attrs.frozen(eq=False)
class Dialled:
    """A logged-in connection: its transport, what the login learned, where it leads, and whether it is
    encrypted.

    `unread` is what has arrived behind the login's ReadyForQuery. `misfit` is why the server is not what
    `target_session_attrs` asks for, or no trio-pool where one was wanted; None if it will do.
    """

    transport: PlainTransport | TLSTransport
    login: Login
    address: Address
    host: str
    unread: bytes
    misfit: str | None

    @property
    def cancel_key(self) -> CancelKey:
        encrypted = isinstance(self.transport, TLSTransport)
        login = self.login
        return CancelKey(self.address, self.host, encrypted, login.process_id, login.secret)

    def hang_up(self) -> None:
        """Close a connection of which nothing is wanted."""
        self.transport.send(messages.TERMINATE)
        self.transport.close()


async def dial(access: OriginAccess, limit: float = math.inf) -> Dialled:
    """Connect and log in to the first host that will do, within so many seconds.

    Without a limit the caller bounds the time. Raises a `ServerFault` that says of each host why it would not
    do.
    """
    deadline = min(trio.current_time() + limit, trio.current_effective_deadline())
    prefers = access.origin.target_session_attrs is TargetSessionAttrs.PREFER_STANDBY
    faults: list[tuple[str, ServerFault]] = []
    second_best: Dialled | None = None
    hosts = _in_order(access)
    try:
        for place, (host, port) in enumerate(hosts):
            # Time is left over for the second best to be used.
            shares = len(hosts) - place + (second_best is not None)
            try:
                dialled = await dial_host(access, host, port, _share(deadline, shares))
            except ServerFault as failed:
                if _final(failed):
                    raise
                faults.append((spell(host, port), failed))
                if failed.reason is Reason.SERVER_CONNECT_TIMEOUT:
                    access.silent[host, port] = trio.current_time() + PASSED_OVER
                continue
            access.silent.pop((host, port), None)
            if dialled.misfit is None:
                return dialled
            if prefers and second_best is None:
                second_best = dialled
                continue
            dialled.hang_up()
            unsuitable = ServerFault(f"{spell(host, port)} {dialled.misfit}", reason=Reason.SERVER_UNSUITABLE)
            faults.append((spell(host, port), unsuitable))
        if second_best is not None:
            chosen, second_best = second_best, None
            return chosen
    finally:
        if second_best is not None:
            second_best.hang_up()
    raise _all_together(faults)


async def dial_host(access: OriginAccess, host: str, port: int, deadline: float = math.inf) -> Dialled:
    """Connect to one host and log in, with and without TLS as `sslmode` allows, whether it will do or not.

    Without a deadline the caller bounds the time.
    """
    return await _at_host(_log_in, access, host, port, deadline)


async def reach_host(access: OriginAccess, host: str, port: int, deadline: float = math.inf) -> Reached:
    """Everything before the log in: a connection to one host, encrypted as `sslmode` says.

    The caller closes it, and bounds the time if there is no deadline.
    """
    return await _at_host(_reach, access, host, port, deadline)


async def _at_host(attempt: Attempt[T], access: OriginAccess, host: str, port: int, deadline: float) -> T:
    """The first success at an address of the host. Another address is tried only if one cannot be reached,
    other encryption only if it can.
    """
    began = trio.current_time()
    fault: ServerFault | None = None
    try:
        with trio.fail_at(deadline):
            addresses = [(BY_TUNNEL, host)] if access.origin.tunnel else await resolve(host, port)
        if access.origin.load_balance_hosts is LoadBalanceHosts.RANDOM:
            random.shuffle(addresses)
        for place, address in enumerate(addresses):
            try:
                with trio.fail_at(_share(deadline, len(addresses) - place)):
                    return await _at_address(attempt, access, host, port, address)
            except ServerFault as failed:
                if failed.reason is not Reason.SERVER_CONNECT_FAILED:
                    raise
                fault = failed
            except trio.TooSlowError:
                if place == len(addresses) - 1:
                    raise
    except trio.TooSlowError:
        took = f"within {trio.current_time() - began:.3g} s"
        raise ServerFault(
            f"no tunnel from {host!r} {took}"
            if access.origin.tunnel
            else f"{spell(host, port)} did not answer {took}",
            reason=Reason.SERVER_CONNECT_TIMEOUT,
        ) from None
    assert fault is not None
    raise fault


async def _at_address(attempt: Attempt[T], access: OriginAccess, host: str, port: int, address: Address) -> T:
    fault: ServerFault | None = None
    for tls in _attempts(access.origin, host):
        try:
            return await attempt(access, host, port, address, tls)
        except ServerFault as failed:
            fault = failed
            if _final(failed) or failed.reason is Reason.SERVER_CONNECT_FAILED:
                raise
    assert fault is not None
    raise fault


def _in_order(access: OriginAccess) -> list[tuple[str, int]]:
    """The hosts, those that did not answer lately behind the others."""
    hosts = list(access.origin.hosts)
    if access.origin.load_balance_hosts is LoadBalanceHosts.RANDOM:
        random.shuffle(hosts)
    now = trio.current_time()
    return sorted(hosts, key=lambda host: access.silent.get(host, 0.0) > now)


def _share(deadline: float, shares: int) -> float:
    """Until when the first of so many may take."""
    now = trio.current_time()
    return now + (deadline - now) / shares


def _all_together(faults: list[tuple[str, ServerFault]]) -> ServerFault:
    """One fault for those of all hosts. It is lasting only if all of them are."""
    if len(faults) == 1:
        return faults[0][1]
    texts = [f.message if name in f.message else f"{name}: {f.message}" for name, f in faults]
    first = next((fault for _, fault in faults if not fault.lasting), faults[0][1])
    return ServerFault("; ".join(texts), first.sqlstate, reason=first.reason)


def _final(fault: ServerFault) -> bool:
    """Whether neither another host nor TLS (for which `pg_hba.conf` may have another rule) can mend it."""
    return fault.lasting and fault.sqlstate != SqlState.INVALID_AUTHORIZATION


def _attempts(origin: Origin, host: str) -> tuple[bool, ...]:
    """Whether to use TLS, first and second choice. A Unix socket never does, a tunnel always."""
    if host.startswith("/"):
        return (False,)
    if origin.tunnel:
        return (True,)
    match origin.sslmode:
        case SslMode.DISABLE:
            return (False,)
        case SslMode.ALLOW:
            return (False, True)
        case SslMode.PREFER:
            return (True, False)
        case _:
            return (True,)


async def _reach(access: OriginAccess, host: str, port: int, address: Address, tls: bool) -> Reached:
    if access.origin.tunnel:
        return await _reach_by_tunnel(access, host, port)
    try:
        sock = await connect(address, access.tcp)
    except OSError as error:
        raise ServerFault(
            f"cannot connect to {spell(host, port)}: {error.strerror or error}",
            reason=Reason.SERVER_CONNECT_FAILED,
        ) from error
    try:
        connected(sock.fileno())
        conversation = Conversation.over(PlainTransport(sock), MAX_LOGIN_REPLY)
        try:
            certificate = await _encrypt(conversation, access, host) if tls else None
        except EndOfStream as error:
            direct = access.origin.sslnegotiation is SslNegotiation.DIRECT
            what = "TLS without being asked" if direct else "SSLRequest"
            raise ServerFault(
                f"{spell(host, port)} did not answer {what}: {error}",
                reason=Reason.SERVER_TLS_FAILED if direct else Reason.SERVER_LOGIN_FAILED,
            ) from error
        return Reached(conversation, certificate, address, host, port)
    except BaseException:
        sock.close()
        raise


async def _reach_by_tunnel(access: OriginAccess, host: str, port: int) -> Reached:
    """A connection that the origin has made."""
    tunnel = await _tunnels(access, host).take(host)
    keep_alive(tunnel.sock.fileno(), access.tcp)
    conversation = Conversation(tunnel.conversation.transport, Assembler(MAX_LOGIN_REPLY))
    return Reached(conversation, tunnel.certificate, (BY_TUNNEL, tunnel.instance), host, port)


def _tunnels(access: OriginAccess, host: str) -> Tunnels:
    if access.tunnels is None:
        raise ServerFault(
            f"{host!r} connects by tunnels, and nothing listens for them here",
            reason=Reason.SERVER_CONNECT_FAILED,
        )
    return access.tunnels


async def _log_in(access: OriginAccess, host: str, port: int, address: Address, tls: bool) -> Dialled:
    reached = await _reach(access, host, port, address, tls)
    conversation = reached.conversation
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
        if link.OPTION in login.not_understood:
            problem: str | None = "is no trio-pool, or one of another version"
        else:
            problem = await misfit(conversation, login.parameters, access.origin.target_session_attrs)
        unread = conversation.assembler.rest()
        return Dialled(conversation.transport, login, reached.address, host, unread, problem)
    except EndOfStream as error:
        reached.close()
        raise ServerFault(
            f"the server at {spell(host, port)} did not complete the login: {error}",
            reason=Reason.SERVER_LOGIN_FAILED,
        ) from error
    except FramingError as error:
        reached.close()
        raise ServerFault(
            f"{spell(host, port)} does not speak PostgreSQL's protocol: {error}",
            SqlState.PROTOCOL_VIOLATION,
            reason=Reason.SERVER_PROTOCOL_VIOLATION,
        ) from error
    except BaseException:
        reached.close()
        raise


async def _encrypt(conversation: Conversation, access: OriginAccess, host: str) -> bytes | None:
    """SSLRequest and handshake; the server's certificate, or None if it said no and that is acceptable."""
    if access.origin.sslnegotiation is SslNegotiation.DIRECT:
        return await _handshake(conversation, access, host)
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
    return await _handshake(conversation, access, host)


async def _handshake(conversation: Conversation, access: OriginAccess, host: str) -> bytes | None:
    """TLS; the server's certificate."""
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
    await send_cancel_by(dialled.cancel_key, access)


async def send_cancel_by(key: CancelKey, access: OriginAccess) -> None:
    """The same for whoever has no more of the connection than this."""
    request = messages.cancel_request(key.process_id, key.secret)
    family, where = key.address
    if family == BY_TUNNEL:
        tunnel = await _tunnels(access, key.host).take(key.host, str(where))
        try:
            await tunnel.conversation.send(request)
            await tunnel.conversation.end()
        finally:
            tunnel.close()
        return
    sock = await connect(key.address, access.tcp)
    with sock:
        conversation = Conversation.over(PlainTransport(sock))
        try:
            if key.encrypted:
                await _encrypt(conversation, access, key.host)
            await conversation.send(request)
            await conversation.end()
        except EndOfStream:
            pass
