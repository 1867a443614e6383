"""An origin's side of tunnels: keeps some ready at every edge, and gives those that are used to the daemon.

One task per edge dials; each tunnel that is ready has a task, in the same nursery. When the edge takes it,
the daemon serves it as it serves a client that it has accepted, in a task of its own: so what ends the
dialling leaves those alone that are in use.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import attrs
import structlog
import trio

from trio_pool.config.origin import LINK_TCP
from trio_pool.errors import ServerFault
from trio_pool.net import tunnel
from trio_pool.net.backoff import Backoff
from trio_pool.net.conversation import Conversation, EndOfStream
from trio_pool.net.mailbox import Mailbox
from trio_pool.net.sockets import connect, remote_end, resolve
from trio_pool.net.transport import PlainTransport, TLSTransport
from trio_pool.net.tunnel import ASK, HERE, PATIENCE, TAKE, TAKEN, Numbers, TunnelFault
from trio_pool.protocol.channel_binding import end_point

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Mapping

    from trio_pool.config.address import TcpAddress
    from trio_pool.config.tunnel import TunnelDial

log = structlog.get_logger()

CONNECT = 5.0
"""Seconds for one address of an edge."""
SHORT_LIVED = 1.0
"""Seconds: what is lost before that was no success."""
LINK_KEEPALIVE = attrs.evolve(LINK_TCP, tcp_user_timeout=0)
"""How a silent edge is noticed while a tunnel is in use; what is not acknowledged is watched as a client's is
(net/liveness.py).
"""
SHARE = 4
"""One tunnel is kept ready for so many in use."""
AT_ONCE = 16
"""Attempts at a time, to one edge."""


@attrs.frozen(eq=False)
class Arrival:
    """A tunnel that an edge has taken: what the daemon serves as a client."""

    conversation: Conversation
    host: str
    """The edge's numeric address."""
    peer: str
    binding: bytes | None
    """What SCRAM binds to inside: the hash of the edge's certificate."""


@attrs.frozen(eq=False)
class _Open:
    arrival: Arrival
    ping: float
    since: float


@attrs.define(eq=False)
class EdgeDialler:
    """Tunnels to one edge. `serve` owns what it is given; `rest` is told how many more tasks wait for
    something to read.
    """

    dial: TunnelDial
    edge: TcpAddress
    instance: str
    serve: Callable[[Arrival], Awaitable[None]]
    rest: Callable[[int], None]
    ready: int = 0
    used: int = 0
    taken: int = 0
    lost: int = 0
    """As `Numbers` has them."""
    failure: str | None = None
    """Why the last attempt has failed; None if it has not."""
    good_until: float | None = None
    """When the certificate expires that the edge has shown last, as Unix time."""
    _guests: trio.Nursery | None = None
    _attempts: int = 0
    """Those that are under way."""
    _dialling: trio.CancelScope | None = None
    """Around everything but what is in use."""
    _over: bool = False
    _backoff: Backoff = attrs.field(factory=Backoff)
    _mailbox: Mailbox = attrs.field(factory=Mailbox)

    @property
    def numbers(self) -> Numbers:
        return Numbers(self.ready, self.used, self.taken, self.lost)

    @property
    def wanted(self) -> int:
        """How many are to be ready."""
        return max(self.dial.ready, -(-self.used // SHARE))

    async def run(self, guests: trio.Nursery) -> None:
        """Until cancelled or stopped; those that are in use are tasks of `guests`."""
        self._guests = guests
        while not self._over:
            with trio.CancelScope() as self._dialling:
                await self._keep_ready()

    def configure(self, dial: TunnelDial) -> None:
        """From now on this holds. What is ready is dialled anew, unless only numbers have changed."""
        alike = attrs.evolve(self.dial, ready=dial.ready, max_age=dial.max_age) == dial
        self.dial = dial
        self._mailbox.wake()
        if not alike:
            self._dial_anew()

    def stop(self) -> None:
        """Dial no more, and close what is ready. What is in use goes on."""
        self._over = True
        self._dial_anew()

    def _dial_anew(self) -> None:
        self.failure = None
        self._backoff.reset()
        if self._dialling is not None:
            self._dialling.cancel()

    async def _keep_ready(self) -> None:
        """For ever."""
        async with trio.open_nursery() as nursery:
            while True:
                lacking = min(self.wanted - self.ready, AT_ONCE) - self._attempts
                if lacking <= 0:
                    await self._mailbox.wait()
                elif self.failure is None:
                    for _ in range(lacking):
                        self._attempts += 1
                        nursery.start_soon(self._attempt, nursery)
                else:  # one at a time while the edge is not there
                    await self._backoff.wait()
                    self._attempts += 1
                    await self._attempt(nursery)

    async def _attempt(self, nursery: trio.Nursery) -> None:
        """One more tunnel, or `failure`."""
        try:
            with trio.fail_after(tunnel.GREETING):
                opened = await self._open()
        except TunnelFault as fault:
            self._failed(str(fault))
        except trio.TooSlowError:
            self._failed("no answer")
        else:
            if self.failure is not None:
                log.info("tunnels are back", edge=str(self.edge), tunnel=self.dial.name)
            self.failure = None
            self.ready += 1
            nursery.start_soon(self._keep, opened)
        finally:
            self._attempts -= 1
            self._mailbox.wake()

    def _failed(self, why: str) -> None:
        if why != self.failure:
            log.warning("tunnel failed", edge=str(self.edge), tunnel=self.dial.name, error=why)
        self.failure = why

    async def _open(self) -> _Open:
        """A tunnel that the edge has welcomed. Raises `TunnelFault`; the caller bounds the time."""
        try:
            context = await trio.to_thread.run_sync(tunnel.dial_context, self.dial)
        except OSError as error:
            raise TunnelFault(f"our certificate cannot be loaded: {error}") from error
        sock = await self._connect()
        conversation = Conversation.over(PlainTransport(sock))
        try:
            host, _ = remote_end(sock.fileno())
            transport = await tunnel.encrypt(conversation, context, server_hostname=self.edge.host)
            await conversation.send(tunnel.hello(self.instance))
            ping = tunnel.read_answer(await tunnel.line(conversation))
        except EndOfStream as end:
            conversation.transport.close()
            raise TunnelFault(str(end)) from end
        except BaseException:
            conversation.transport.close()
            raise
        self.good_until = tunnel.good_until(transport)
        return _Open(
            Arrival(conversation, host, f"{self.edge} by tunnel", _binding(transport)),
            ping,
            trio.current_time(),
        )

    async def _connect(self) -> socket.socket:
        why = "it has no address"
        try:
            for address in await resolve(self.edge.host, self.edge.port):
                with trio.move_on_after(CONNECT):
                    try:
                        return await connect(address, LINK_KEEPALIVE)
                    except OSError as error:
                        why = error.strerror or str(error)
                        continue
                why = f"no answer within {CONNECT:g} s"
        except ServerFault as fault:
            why = fault.message
        raise TunnelFault(f"cannot connect: {why}")

    async def _keep(self, opened: _Open) -> None:
        """Until the edge takes it, it is lost, or it is too old."""
        arrival = opened.arrival
        handed_over = False
        why = "it is old"
        self.rest(1)
        try:
            with trio.move_on_after(self.dial.max_age * random.uniform(0.9, 1.0)):
                why = await self._watch(arrival.conversation, opened.ping)
            if not why:
                arrival.conversation.transport.send(TAKEN)
                handed_over = True
        finally:
            self.rest(-1)
            self.ready -= 1
            if not handed_over:
                arrival.conversation.transport.close()
        if handed_over:
            self._backoff.reset()
            self.used += 1
            self.taken += 1
            assert self._guests is not None
            self._guests.start_soon(self._serve, arrival)
        else:
            self.lost += 1
            log.info("tunnel lost", edge=str(self.edge), tunnel=self.dial.name, error=why)
            if trio.current_time() - opened.since < SHORT_LIVED:
                self._failed(why)
            else:
                self._backoff.reset()
        self._mailbox.wake()

    async def _watch(self, conversation: Conversation, ping: float) -> str:
        """Answer the edge until it takes the tunnel; returns why it is no good any more, "" if it is."""
        try:
            while True:
                with trio.move_on_after(ping * PATIENCE) as waiting:
                    said = await conversation.byte()
                if waiting.cancelled_caught:
                    return "the edge is silent"
                if said == TAKE:
                    return ""
                if said != ASK:
                    return "the edge does not speak as a tunnel does"
                await conversation.send(HERE)
        except EndOfStream as end:
            return str(end)

    async def _serve(self, arrival: Arrival) -> None:
        try:
            await self.serve(arrival)
        finally:
            self.used -= 1


@attrs.define(eq=False)
class Dialling:
    """All diallers, one for each edge of each table."""

    make: Callable[[TunnelDial, TcpAddress], EdgeDialler]
    diallers: tuple[EdgeDialler, ...] = ()
    _nurseries: tuple[trio.Nursery, trio.Nursery] | None = None

    def start(self, nursery: trio.Nursery, guests: trio.Nursery) -> None:
        """Dial until the nursery is cancelled; what is in use are tasks of `guests`."""
        self._nurseries = nursery, guests
        for dialler in self.diallers:
            nursery.start_soon(dialler.run, guests)

    def configure(self, dials: Mapping[str, TunnelDial]) -> None:
        """From now on these. What is in use goes on, whether it is among them or not."""
        before = {(one.dial.name, one.edge): one for one in self.diallers}
        found = []
        for dial in dials.values():
            for edge in dict.fromkeys(dial.edges):
                dialler = before.pop((dial.name, edge), None)
                if dialler is not None:
                    dialler.configure(dial)
                else:
                    dialler = self.make(dial, edge)
                    if self._nurseries is not None:
                        nursery, guests = self._nurseries
                        nursery.start_soon(dialler.run, guests)
                found.append(dialler)
        for gone in before.values():
            gone.stop()
        self.diallers = tuple(found)


def _binding(transport: TLSTransport) -> bytes | None:
    certificate = transport.tls.getpeercert(binary_form=True)
    return None if certificate is None else end_point(certificate)
