"""What a client's and a server's connection have in common once they are in the data plane: registration,
writing, back-pressure.

Back-pressure. A `write` that does not go out whole stays in the transport; the connection asks to become
writable, and the peer whose bytes they were is paused (no longer read) until they are gone. So neither side
can make the other's memory grow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_pool.net.mailbox import Mailbox
from trio_pool.net.poller import GONE, HANGUP, READABLE, WRITABLE, Poller

if TYPE_CHECKING:
    from trio_pool.net.transport import Transport


class Connection:
    """One socket of the data plane. Subclasses say what readable bytes and a vanished peer mean."""

    __slots__ = ("_hushed", "_posted", "fd", "mailbox", "mask", "poller", "transport")

    def __init__(self, poller: Poller, transport: Transport) -> None:
        self.poller = poller
        self.transport = transport
        self.mailbox = Mailbox()
        self.mask = 0
        self.fd = -1
        self._hushed = False
        self._posted: list[bytes] = []

    # -- for subclasses --------------------------------------------------------------------------------------

    def on_readable(self) -> None:
        """Bytes, or the end, have arrived."""
        raise NotImplementedError

    def on_gone(self) -> None:
        """The peer closed or reset the connection while it was not being read."""
        raise NotImplementedError

    def on_drained(self) -> None:
        """Everything written has gone out: whoever was paused for it may go on."""
        raise NotImplementedError

    def on_crash(self, error: Exception) -> None:
        """A handler raised: a bug of ours, which must end this connection and nothing else."""
        raise NotImplementedError

    # -- registration ----------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Enter the data plane."""
        self.fd = self.transport.fileno()
        self.mask = READABLE | (WRITABLE if self.transport.pending else 0)
        self.poller.register(self.fd, self.on_event, self.mask)

    def detach(self) -> None:
        """Leave the data plane; harmless to do twice."""
        if self.fd >= 0:
            self.poller.unregister(self.fd)
            self.fd = -1

    def on_event(self, events: int) -> None:
        """The poller's handler. Hot path."""
        try:
            if events & WRITABLE and self.transport.flush():
                self._set_mask(self.mask & ~WRITABLE)
                self.on_drained()
            if events & READABLE:
                self.on_readable()
            elif events & GONE and self.fd >= 0:
                self.on_gone()
        except Exception as error:
            self.on_crash(error)

    # -- writing and reading ---------------------------------------------------------------------------------

    def write(self, data: bytes, source: Connection | None = None) -> None:
        """Send bytes that came from `source`, which is paused if they cannot go out at once. Hot path."""
        if not self.transport.send(data) and self.fd >= 0:
            if not self.mask & WRITABLE:
                self._set_mask(self.mask | WRITABLE)
            if source is not None:
                source.pause()

    def post(self, data: bytes) -> None:
        """Send with whatever else is posted while the poller handles the same batch of sockets. Hot path."""
        self._posted.append(data)
        if len(self._posted) == 1:
            self.poller.deliver_later(self.deliver)

    def deliver(self) -> None:
        """Send what was posted."""
        posted = self._posted
        self._posted = []
        if self.fd >= 0:
            self.write(posted[0] if len(posted) == 1 else b"".join(posted))

    def pause(self) -> None:
        """Stop reading; a hang-up is still noticed."""
        if self.mask & READABLE and self.fd >= 0:
            self._set_mask(self.mask & ~READABLE | HANGUP)

    def resume(self) -> None:
        """Read again."""
        if not self.mask & READABLE and self.fd >= 0:
            self._set_mask((self.mask | READABLE) & ~HANGUP)

    def hush(self) -> None:
        """Hear nothing, not even a hang-up (which epoll would report again and again), until `resume` or a
        write that blocks.
        """
        self.poller.unregister(self.fd)
        self._hushed = True
        self.mask = 0

    def _set_mask(self, mask: int) -> None:
        self.mask = mask
        if self._hushed:
            self._hushed = False
            self.poller.register(self.fd, self.on_event, mask)
        elif self.fd >= 0:
            self.poller.modify(self.fd, mask)
