"""One connection to the console, from AuthenticationOk to its end.

A conversation, not the data plane: one message at a time, awaited. While a command waits (PAUSE, WAIT_CLOSE),
the client is listened to, so that its end and its cancel request end the command; what it sends meanwhile is
read afterwards.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import attrs
import structlog
import trio

from trio_pool.daemon.console.answer import answer, understand, written
from trio_pool.daemon.console.extended import Extended
from trio_pool.daemon.console.failure import ConsoleError
from trio_pool.daemon.console.show_process import REPORTED
from trio_pool.daemon.console.table import formats_of, row_description
from trio_pool.errors import SqlState
from trio_pool.net.conversation import EndOfStream
from trio_pool.wire import messages
from trio_pool.wire.frames import FramingError
from trio_pool.wire.tags import Frontend, Status

if TYPE_CHECKING:
    from trio_pool.daemon.console.answer import Answer, Request
    from trio_pool.daemon.console.show import View
    from trio_pool.net.clients import Console
    from trio_pool.net.conversation import Conversation

log = structlog.get_logger()

MOST_UNREAD: Final = 1 << 16
"""Bytes that are kept while a command waits; then the client is not listened to any more."""

_READY: Final = messages.READY[Status.IDLE]


@attrs.define(eq=False)
class ConsoleSession:
    """`console` is how others see the connection."""

    conversation: Conversation
    view: View
    user: str
    console: Console
    _extended: Extended = attrs.field(init=False)
    _skipping: bool = False
    """Whether a request of the extended protocol has failed, and everything up to Sync is ignored."""
    _out: list[bytes] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self._extended = Extended(self._answer)

    async def run(self) -> None:
        """Greet, then serve until the client leaves. Raises `EndOfStream` if it does so without a word."""
        greeting = b"".join(messages.parameter_status(name, value) for name, value in REPORTED.items())
        key = messages.backend_key_data(self.console.process_id, self.console.secret)
        await self.conversation.send(greeting + key + _READY)
        try:
            while True:
                tag, body = await self.conversation.message()
                if tag == Frontend.TERMINATE:
                    return
                await self._receive(tag, body)
        except FramingError as error:
            fatal = messages.error(SqlState.PROTOCOL_VIOLATION, str(error), severity="FATAL")
            await self.conversation.send(fatal)

    async def _receive(self, tag: int, body: bytes) -> None:
        """One message. Replies are sent when the client waits for them."""
        if tag == Frontend.SYNC:
            self._skipping = False
            self._extended.sync()
            self._out.append(_READY)
        elif tag == Frontend.QUERY:
            self._skipping = False
            self._extended.query()
            await self._guarded(tag, body)
            self._out.append(_READY)
        elif tag != Frontend.FLUSH and not self._skipping:
            self._skipping = not await self._guarded(tag, body)
        if tag in (Frontend.SYNC, Frontend.QUERY, Frontend.FLUSH):
            await self._flush()

    async def _guarded(self, tag: int, body: bytes) -> bool:
        """Do it, or say what is wrong. Returns whether it was done."""
        try:
            self._out.append(await self._request(tag, body))
        except ConsoleError as failure:
            self._out.append(
                messages.error(failure.sqlstate, failure.message, detail=failure.detail, hint=failure.hint)
            )
            return False
        except (IndexError, ValueError, struct.error) as error:
            raise FramingError(f"malformed message {chr(tag)!r}") from error
        return True

    async def _request(self, tag: int, body: bytes) -> bytes:
        match tag:
            case Frontend.QUERY:
                return await self._query(body[: body.index(b"\0")].decode(errors="replace"))
            case Frontend.PARSE:
                return self._extended.parse(body)
            case Frontend.BIND:
                return self._extended.bind(body)
            case Frontend.DESCRIBE:
                return self._extended.describe(body)
            case Frontend.EXECUTE:
                return await self._extended.execute(body)
            case Frontend.CLOSE:
                return self._extended.close(body)
            case _:
                raise FramingError(f"unsupported packet type for admin console: {chr(tag)!r}")

    async def _query(self, text: str) -> bytes:
        request = understand(text)
        if request is None:
            return messages.EMPTY_QUERY
        done = await self._answer(request)
        described, sent = request.columns, done.notices
        if described is not None and done.rows is not None:
            formats = formats_of((), described)
            sent += row_description(described, formats)
            sent += await written(done.rows, described, formats)
        return sent + messages.command_complete(done.tag)

    async def _flush(self) -> None:
        sent, self._out = b"".join(self._out), []
        if sent:
            await self.conversation.send(sent)

    async def _answer(self, request: Request) -> Answer:
        """What comes of a command, unless the client cancels it or leaves."""
        done: Answer | None = None
        failure: ConsoleError | None = None
        interrupted = left = False
        async with trio.open_nursery() as nursery:

            def interrupt() -> None:
                nonlocal interrupted
                interrupted = True
                nursery.cancel_scope.cancel()

            async def watch() -> None:
                nonlocal left
                try:
                    while len(self.conversation.assembler.buffer) < MOST_UNREAD:
                        await self.conversation.receive()
                except EndOfStream:
                    left = True
                    nursery.cancel_scope.cancel()

            self.console.interrupt = interrupt
            nursery.start_soon(watch)
            try:
                done = await answer(request, self.view, self.user)
            except ConsoleError as raised:
                failure = raised
            finally:
                self.console.interrupt = None
            nursery.cancel_scope.cancel()
        if done is not None:
            return done
        if failure is not None:
            raise failure
        if left:
            raise EndOfStream
        assert interrupted
        raise ConsoleError("canceling statement due to user request", sqlstate=SqlState.QUERY_CANCELED)
