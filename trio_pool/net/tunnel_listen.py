"""An edge's side of tunnels: who may come, which are ready, and taking one.

Each tunnel that is not used has a task, which asks now and then whether it is still there. `take` ends that
task and goes on with the connection, which from then on belongs to whoever took it.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import TYPE_CHECKING

import attrs
import structlog
import trio

from trio_pool.net import tls, tunnel
from trio_pool.net.conversation import Conversation, EndOfStream
from trio_pool.net.listeners import accept_for_ever
from trio_pool.net.liveness import Keepalive
from trio_pool.net.transport import PlainTransport
from trio_pool.net.tunnel import ASK, HERE, PATIENCE, TAKE, TAKEN, Numbers, TunnelFault

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from trio_pool.config.tunnel import TunnelListen

log = structlog.get_logger()

ANSWER = 2.0
"""Seconds for the answer to TAKE; then another tunnel is tried, since this one leads nowhere."""
COMPLAIN_EVERY = 60.0
"""Seconds between log lines about the same reason to refuse tunnels."""
MOST_REASONS = 100
"""Reasons that are remembered for that."""
MOST_GREETED = 256
"""Connections that are being greeted. When there are more the oldest has to go: who only holds connections
open keeps nobody out, since an honest origin needs a few round trips.
"""


@attrs.define(eq=False)
class Tunnel:
    """One that is ready, or was. Who has taken it closes its transport."""

    conversation: Conversation
    sock: socket.socket
    names: frozenset[str]
    instance: str
    peer: str
    certificate: bytes
    """Ours (DER), which SCRAM binds to inside."""
    good_until: float
    """When the origin's certificate expires, as Unix time."""
    heard: float
    """When the other side has last said something, on Trio's clock."""
    asked: bool = False
    """Whether it has been asked and has not answered."""
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """Around its task."""
    parted: trio.Event = attrs.field(factory=trio.Event)
    """Its task does not touch it any more."""
    taken: bool = False

    def close(self) -> None:
        self.conversation.transport.close()


@attrs.define(eq=False)
class Tunnels:
    """All tunnels of an edge. `rest` is told how many more tasks wait for something to read."""

    listen: TunnelListen
    rest: Callable[[int], None]
    address: str = ""
    """Where it listens."""
    _ready: list[Tunnel] = attrs.field(factory=list)
    _used: list[Tunnel] = attrs.field(factory=list)
    _more: trio.Event = attrs.field(factory=trio.Event)
    _greeted: dict[trio.CancelScope, None] = attrs.field(factory=dict)
    """Around those of whom nobody knows yet who they are, oldest first."""
    _complained: dict[str, float] = attrs.field(factory=dict)
    """When the log has last said a reason."""
    refusals: int = 0
    """Connections that did not become tunnels."""
    _taken: Counter[str] = attrs.field(factory=Counter)
    _lost: Counter[str] = attrs.field(factory=Counter)
    """By name: tunnels that were used, and that have ended unused."""
    _good_until: dict[str, float] = attrs.field(factory=dict)

    @property
    def numbers(self) -> dict[str, Numbers]:
        """By the name of the origin."""
        used = _in_use(self._used)
        return {
            name: Numbers(
                sum(name in one.names for one in self._ready),
                sum(name in one.names for one in used),
                self._taken[name],
                self._lost[name],
            )
            for name in self.listen.origins
        }

    def good_until(self, name: str) -> float | None:
        """When the certificate expires that the origin of this name has shown last, as Unix time; None if it
        has shown none.
        """
        return self._good_until.get(name)

    def configure(self, listen: TunnelListen) -> None:
        """From now on this holds, but for the address. Who may not come any more loses what is not in use."""
        self.listen = attrs.evolve(listen, address=self.listen.address)
        for one in self._ready:
            if not one.names.intersection(listen.origins):
                one.scope.cancel()

    async def run(self, listener: socket.socket) -> None:
        """Accept tunnels and keep them, until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self.rest(1)
                await accept_for_ever(listener, self._accepted, nursery, Keepalive)
        finally:
            self.rest(-1)

    async def take(self, name: str, instance: str | None = None) -> Tunnel:
        """A tunnel to an origin, and if it matters to that very process. Waits until there is one, so the
        caller bounds the time. What it gets has just answered.
        """
        silent: set[str] = set()
        while True:
            found = self._pick(name, instance, silent)
            if found is None:
                await self._more.wait()
            elif await self._claim(found):
                return found
            else:
                silent.add(found.instance)

    def _pick(self, name: str, instance: str | None, silent: set[str]) -> Tunnel | None:
        """Rather not of a process that has just not answered; of the process of which fewest are used; the
        one that was heard of last.
        """
        fit = [one for one in self._ready if name in one.names and instance in (None, one.instance)]
        used = Counter(one.instance for one in _in_use(self._used))
        return max(
            fit, key=lambda one: (one.instance not in silent, -used[one.instance], one.heard), default=None
        )

    async def _claim(self, found: Tunnel) -> bool:
        """Whether it is ours now; if not, it was of no use and is closed."""
        self._ready.remove(found)
        found.taken = True
        found.scope.cancel()
        claimed = False
        try:
            await found.parted.wait()
            with trio.move_on_after(ANSWER):
                await found.conversation.send(TAKE)
                answer = await found.conversation.byte()
                if answer == HERE and found.asked:
                    answer = await found.conversation.byte()
                claimed = answer == TAKEN
        except EndOfStream:
            pass
        finally:
            if not claimed:
                found.close()
                self._lost.update(found.names)
                log.warning(
                    "tunnel lost", origin=found.peer, names=sorted(found.names), ready=len(self._ready)
                )
        if claimed:
            self._used = [*_in_use(self._used), found]
            self._taken.update(found.names)
        return claimed

    async def _accepted(self, sock: socket.socket, host: str | None, peer: str) -> None:
        """One accepted socket. The boundary behind which its errors stay."""
        conversation = Conversation.over(PlainTransport(sock))
        kept: Tunnel | None = None
        greeting = trio.CancelScope()
        self._greeted[greeting] = None
        if len(self._greeted) > MOST_GREETED:
            next(iter(self._greeted)).cancel()
        try:
            with greeting, trio.fail_after(tunnel.GREETING):
                kept = await self._greet(conversation, sock, peer)
            if greeting.cancelled_caught:
                self._refused(peer, f"more than {MOST_GREETED} are being greeted, and it was the slowest")
        except TunnelFault as fault:
            self._refused(peer, str(fault))
        except trio.TooSlowError:
            self._refused(peer, "the greeting took too long")
        except EndOfStream as end:
            self._refused(peer, str(end))
        except Exception as error:
            log.error("internal error in a tunnel's task", origin=peer, exc_info=error)
        finally:
            del self._greeted[greeting]
            if kept is None:
                conversation.transport.close()
        if kept is not None:
            await self._keep(kept)

    def _refused(self, peer: str, why: str) -> None:
        """Say so; the same again only after a while."""
        self.refusals += 1
        now = trio.current_time()
        if now < self._complained.get(why, -math.inf) + COMPLAIN_EVERY:
            return
        log.warning("tunnel refused", origin=peer, error=why)
        if len(self._complained) >= MOST_REASONS:
            self._complained.clear()
        self._complained[why] = now

    async def _greet(self, conversation: Conversation, sock: socket.socket, peer: str) -> Tunnel:
        try:
            context = await trio.to_thread.run_sync(tunnel.listen_context, self.listen)
            certificate = tls.own_certificate(self.listen)
        except (OSError, ValueError) as error:
            raise TunnelFault(f"our certificate cannot be loaded: {error}") from error
        transport = await tunnel.encrypt(conversation, context)
        names = tunnel.names(transport)
        instance = tunnel.read_hello(await tunnel.line(conversation))
        allowed = names.intersection(self.listen.origins)
        if not allowed:
            await conversation.send(tunnel.refused("no name in the certificate is one of an origin here"))
            raise TunnelFault(f"none of its names may connect: {', '.join(sorted(names)) or 'it has none'}")
        good_until = tunnel.good_until(transport)
        for name in allowed:
            if sum(name in one.names for one in self._ready) >= self.listen.max_ready:
                await conversation.send(
                    tunnel.refused(f"{self.listen.max_ready} of {name} are ready already")
                )
                raise TunnelFault(f"{self.listen.max_ready} tunnels of {name} are ready already (max_ready)")
            self._good_until[name] = good_until
        await conversation.send(tunnel.ready(self.listen.ping))
        return Tunnel(
            conversation, sock, allowed, instance, peer, certificate, good_until, trio.current_time()
        )

    async def _keep(self, kept: Tunnel) -> None:
        """Until somebody takes it or it is lost."""
        log.info("tunnel ready", origin=kept.peer, names=sorted(kept.names))
        self._ready.append(kept)
        more, self._more = self._more, trio.Event()
        more.set()
        self.rest(1)
        try:
            why = "it may not come any more"
            with kept.scope:
                why = await self._watch(kept)
            if not kept.taken:
                log.info("tunnel lost", origin=kept.peer, names=sorted(kept.names), error=why)
        finally:
            self.rest(-1)
            if not kept.taken:
                self._ready.remove(kept)
                self._lost.update(kept.names)
                kept.close()
            kept.parted.set()

    async def _watch(self, kept: Tunnel) -> str:
        """Ask now and then; returns why it cannot be used any more."""
        conversation, ping = kept.conversation, self.listen.ping
        try:
            while True:
                with trio.move_on_after(ping * random.uniform(0.8, 1.0)):
                    await conversation.byte()
                    return "it spoke without being asked"
                kept.asked = True
                await conversation.send(ASK)
                with trio.move_on_after(ping * (PATIENCE - 1)) as waiting:
                    if await conversation.byte() != HERE:
                        return "it does not speak as a tunnel does"
                if waiting.cancelled_caught:
                    return "it does not answer"
                kept.asked = False
                kept.heard = trio.current_time()
        except EndOfStream as end:
            return str(end)


def _in_use(tunnels: list[Tunnel]) -> list[Tunnel]:
    return [one for one in tunnels if one.sock.fileno() >= 0]
