"""What a parent and its worker, or two generations of a pooler, say to each other.

Each side calls what the other has in its `handlers`, by name. Messages are pickles behind a length: both
ends are the same program, one the child of the other, and nobody else can write into what is between them.
Calls run side by side, so one that waits holds up no other. `notes` are what is done at once and in the order
in which it was told. File descriptors go along with a message; the handler of a name in `takes_descriptors`
gets them as its first argument, and owns them.

A message is on its way when `tell` returns, if the socket has room: so what a process has told of before it
is killed has been told.
"""

from __future__ import annotations

import os
import pickle
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import attrs
import structlog
import trio

from trio_pool.net import descriptors
from trio_pool.net.mailbox import Mailbox

if TYPE_CHECKING:
    from collections.abc import Iterator

log = structlog.get_logger()

HEADER: Final = struct.Struct("!IB")
"""Length of the pickle, number of descriptors."""
Handler = Callable[..., Awaitable[object]]
Note = Callable[..., None]


class WorkerError(Exception):
    """What was called at the other end has failed; `kind` is the name of the exception there."""

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class WorkerGone(WorkerError):
    """The process at the other end has ended, or ended before it answered."""


@attrs.define(eq=False)
class Channel:
    """One end. `run` must be running for anything to arrive; it returns when the other end is gone."""

    sock: descriptors.Socket
    name: str = ""
    """Who is at the other end, for the log."""
    handlers: dict[str, Handler] = attrs.field(factory=dict)
    notes: dict[str, Note] = attrs.field(factory=dict)
    """Only for `tell`."""
    takes_descriptors: set[str] = attrs.field(factory=set)
    gone: trio.Event = attrs.field(factory=trio.Event)
    """Set when the other end is gone."""
    _outbox: deque[tuple[memoryview, tuple[int, ...]]] = attrs.field(factory=deque)
    _mailbox: Mailbox = attrs.field(factory=Mailbox)
    _calls: dict[int, _Call] = attrs.field(factory=dict)
    _answering: dict[int, trio.CancelScope] = attrs.field(factory=dict)
    _count: int = 0

    async def call(self, name: str, *arguments: object, descriptors: tuple[int, ...] = ()) -> Any:
        """What the other side's handler returns. When cancelled, the handler is cancelled too.

        Raises `WorkerError` for what the handler has raised, and `WorkerGone`.
        """
        self._count += 1
        number = self._count
        call = self._calls[number] = _Call()
        try:
            self._send((number, name, arguments), descriptors)
            await call.done.wait()
        except trio.Cancelled:
            self._send((-number, "", ()))
            raise
        finally:
            del self._calls[number]
        if call.error is not None:
            raise call.error
        return call.result

    def tell(self, name: str, *arguments: object, descriptors: tuple[int, ...] = ()) -> None:
        """Have the other side do something; nobody hears what comes of it. Nothing if it is gone.

        `descriptors` are copied: they may be closed at once.
        """
        self._send((0, name, arguments), descriptors)

    async def run(self) -> None:
        """Until the other end is gone, or cancellation. Then `sock` is closed."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                try:
                    await self._read(nursery)
                except Exception as error:  # what is not understood is of another version
                    log.error("a message cannot be read", sender=self.name, error=repr(error))
                nursery.cancel_scope.cancel()
        finally:
            self.close()

    def close(self) -> None:
        """Nothing is sent or received any more."""
        self.gone.set()
        self.sock.close()
        for call in self._calls.values():
            call.error = WorkerGone(f"{self.name or 'the other process'} has ended")
            call.done.set()
        while self._outbox:
            _close(self._outbox.popleft()[1])

    # -- sending ---------------------------------------------------------------------------------------------

    def _send(self, message: object, passed: tuple[int, ...] = ()) -> None:
        if self.gone.is_set():
            if isinstance(message, tuple) and message[0] in self._calls:
                call = self._calls[message[0]]
                call.error = WorkerGone(f"{self.name or 'the other process'} has ended")
                call.done.set()
            return
        body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        copies = tuple(map(descriptors.copy_of, passed))
        self._outbox.append((memoryview(HEADER.pack(len(body), len(copies)) + body), copies))
        if len(self._outbox) > 1 or not self._flush(1):
            self._mailbox.wake()

    def _flush(self, most: int) -> bool:
        """Send so many chunks; whether all is on its way."""
        while self._outbox and most:
            most -= 1
            data, copies = self._outbox[0]
            try:
                sent = descriptors.send(self.sock, data, copies)
            except OSError:
                return True  # `_read` sees that too
            if not sent:
                return False
            _close(copies)
            if sent == len(data):
                self._outbox.popleft()
            else:
                self._outbox[0] = data[sent:], ()
        return not self._outbox

    async def _write(self) -> None:
        while True:
            await self._mailbox.wait()
            while not self._flush(1):
                await trio.lowlevel.wait_writable(self.sock)

    # -- receiving -------------------------------------------------------------------------------------------

    async def _read(self, nursery: trio.Nursery) -> None:
        buffer = bytearray()
        came: deque[int] = deque()
        try:
            while True:
                await trio.lowlevel.wait_readable(self.sock)
                try:
                    received = descriptors.receive(self.sock)
                except OSError:
                    return
                if received is None:
                    continue
                buffer += received[0]
                came.extend(received[1])
                if not received[0]:
                    return
                while len(buffer) >= HEADER.size:
                    length, count = HEADER.unpack_from(buffer)
                    end = HEADER.size + length
                    if len(buffer) < end:
                        break
                    message = pickle.loads(memoryview(buffer)[HEADER.size : end].tobytes())
                    del buffer[:end]
                    self._take(message, [came.popleft() for _ in range(count)], nursery)
        finally:
            _close(tuple(came))

    def _take(self, message: Any, passed: list[int], nursery: trio.Nursery) -> None:
        number, name, content = message
        if name == "":
            scope = self._answering.get(-number)
            if scope is not None:
                scope.cancel()
        elif name == "=":
            self._answered(number, content)
        elif name in self.notes:
            self._note(name, content, passed)
        else:
            nursery.start_soon(self._handle, number, name, content, passed)

    def _note(self, name: str, arguments: tuple[object, ...], passed: list[int]) -> None:
        """The boundary behind which the errors of one note stay."""
        try:
            if name in self.takes_descriptors:
                passed, arguments = [], (passed, *arguments)
            self.notes[name](*arguments)
        except Exception as error:
            log.error("internal error in a message", sender=self.name, name=name, exc_info=error)
        finally:
            _close(tuple(passed))

    def _answered(self, number: int, content: tuple[bool, Any]) -> None:
        call = self._calls.get(number)
        if call is not None:
            fine, result = content
            if fine:
                call.result = result
            else:
                call.error = WorkerError(result[1], result[0])
            call.done.set()

    async def _handle(self, number: int, name: str, arguments: tuple[object, ...], passed: list[int]) -> None:
        """One message, and the boundary behind which its errors stay."""
        with trio.CancelScope() as scope, self._noted(number, scope):
            try:
                handler = self.handlers[name]
                if name in self.takes_descriptors:
                    passed, arguments = [], (passed, *arguments)
                result = await handler(*arguments)
            except Exception as error:
                if number:
                    self._send((number, "=", (False, (type(error).__name__, str(error)))))
                else:
                    log.error("internal error in a message", sender=self.name, name=name, exc_info=error)
            else:
                if number:
                    self._send((number, "=", (True, result)))
            finally:
                _close(tuple(passed))

    @contextmanager
    def _noted(self, number: int, scope: trio.CancelScope) -> Iterator[None]:
        if number:
            self._answering[number] = scope
        try:
            yield
        finally:
            self._answering.pop(number, None)


@attrs.define(eq=False)
class _Call:
    done: trio.Event = attrs.field(factory=trio.Event)
    result: Any = None
    error: WorkerError | None = None


def _close(passed: tuple[int, ...]) -> None:
    for descriptor in passed:
        os.close(descriptor)
