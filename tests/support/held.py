"""An origin whose statements take as long as a test wants, and which remembers what it was sent.

Its backends are scripted ones (tests/support/fakepg.py). A message with a word of `holds` in it is kept until
the test releases it, or a cancel request ends it with 57014.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import attrs
import trio

from tests.net import origins
from tests.support.fakepg import FakePostgres
from trio_pool.wire import messages
from trio_pool.wire.startup import CancelRequest, read_startup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.net.peer import Peer

_SECRET: Final = b"1234"
_FIRST_PROCESS_ID: Final = 1001
_NO_SQL: Final = messages.query("ERROR")
"""What a backend fails with 42601."""


@attrs.define(eq=False)
class Backend:
    """One connection: `seen` are the messages that it has taken up, as one text each."""

    process_id: int
    stream: trio.abc.Stream
    seen: list[str] = attrs.field(factory=list)
    holding: str = ""
    """The message that it keeps just now."""
    released: trio.Event = attrs.field(factory=trio.Event)
    cancelled: bool = False
    machine: FakePostgres = attrs.field(
        factory=lambda: FakePostgres(defaults={"application_name": ""}),
    )

    def answer(self, tag: int, body: bytes) -> bytes:
        """Let the machine have a message; what it says to that."""
        self.machine.receive(messages.message(tag, body))
        return self.machine.deliver()

    def answer_cancelled(self, tag: int, body: bytes) -> bytes:
        """The same, for a message that is cancelled."""
        if tag == _NO_SQL[0]:
            self.machine.receive(_NO_SQL)
        else:  # a Parse
            name = body.partition(b"\0")[0]
            self.machine.receive(messages.parse(name, b"ERROR\0\0\0"))
        return self.machine.deliver().replace(b"C42601\0", b"C57014\0")


@attrs.define(eq=False)
class HeldOrigin:
    """`cancels` are the process ids of cancel requests, in order."""

    holds: tuple[str, ...]
    obeys: bool = True
    """Whether a cancel request ends what is held."""
    cancels: list[int] = attrs.field(factory=list)
    backends: list[Backend] = attrs.field(factory=list)
    may_close: trio.Event = attrs.field(factory=trio.Event)
    """Until it is set, the connections of cancel requests stay open."""
    on_cancel: Callable[[Backend], None] = lambda _: None
    """What else happens when a cancel request arrives."""
    before_answer: Callable[[Backend], None] = lambda _: None
    """What happens when the answer to a held message has just been sent."""
    port: int = 0
    _changed: trio.Event = attrs.field(factory=trio.Event)

    @property
    def url(self) -> str:
        return origins.url(self.port)

    def tell(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def until(self, happened: Callable[[], bool]) -> None:
        while not happened():
            await self._changed.wait()

    async def held(self, word: str) -> Backend:
        """The backend that holds a message with this word in it, once there is one."""
        await self.until(lambda: any(word in backend.holding for backend in self.backends))
        return next(backend for backend in self.backends if word in backend.holding)

    @property
    def seen(self) -> list[str]:
        """What all backends have taken up."""
        return [text for backend in self.backends for text in backend.seen]

    async def script(self, peer: Peer, _: int) -> None:
        packet = await origins.read_startup(peer)
        if not packet:
            return
        request = read_startup(packet)
        if isinstance(request, CancelRequest):
            await self._cancel(request.process_id)
            return
        backend = Backend(_FIRST_PROCESS_ID + len(self.backends), peer.stream)
        self.backends.append(backend)
        await peer.send(origins.greeting(backend.process_id, _SECRET))
        while (message := await peer.receive()) is not None:
            text = f"{chr(message[0])} {message[1].rstrip(bytes(1)).decode(errors='replace')}"
            backend.seen.append(text)
            if chr(message[0]) in "QP" and any(word in text for word in self.holds):
                await self._hold(backend, text)
                backend.cancelled, cancelled = False, backend.cancelled
                said = (backend.answer_cancelled if cancelled else backend.answer)(*message)
                await peer.send(said)
                self.before_answer(backend)
            else:
                self.tell()
                said = backend.answer(*message)
                if said:
                    await peer.send(said)

    async def _hold(self, backend: Backend, text: str) -> None:
        backend.holding, backend.released = text, trio.Event()
        self.tell()
        await backend.released.wait()
        backend.holding = ""
        self.tell()

    async def _cancel(self, process_id: int) -> None:
        self.cancels.append(process_id)
        for backend in self.backends:
            if backend.process_id == process_id:
                self.on_cancel(backend)
                if self.obeys and backend.holding:
                    backend.cancelled = True
                    backend.released.set()
        self.tell()
        await self.may_close.wait()


@asynccontextmanager
async def held_origin(*holds: str, obeys: bool = True, closes: bool = True) -> AsyncIterator[HeldOrigin]:
    """Such an origin, for as long as the block lasts."""
    origin = HeldOrigin(holds, obeys)
    if closes:
        origin.may_close.set()
    async with origins.scripted(origin.script) as listener:
        origin.port = listener.port
        yield origin
