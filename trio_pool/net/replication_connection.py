"""The two connections behind a stream of changes: one that asks, one that streams.

Both are awaited and slow by design. A walsender that streams takes no questions, so what must be asked in
the meantime has a connection of its own.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Self

import attrs
import trio

from trio_pool.errors import Reason, ServerFault, SqlState
from trio_pool.net.conversation import Conversation, EndOfStream
from trio_pool.net.dial import Dialled, OriginAccess, dial, send_cancel
from trio_pool.protocol.pgoutput import ChangeReader, standby_status
from trio_pool.wire import messages
from trio_pool.wire.frames import Assembler, FramingError
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_pool.protocol.pgoutput import Event

Row = list[str | None]

CANCELLING = 2.0
"""Seconds for asking the origin to give a half-made slot up; it gives it up by itself a little later."""
ABSENT = 15
"""Seconds after which the server gives a slot up whose reader is frozen or has vanished without a word."""
_MAX_ANSWER = 1 << 26
"""The longest row of an answer to us."""


class Refusal(ServerFault):
    """The origin has answered a question with an error; the connection goes on."""

    def __init__(self, error: messages.ErrorFields) -> None:
        super().__init__(error.summary, error.sqlstate, reason=Reason.SERVER_LOGIN_FAILED)
        self.hint = error.hint


@attrs.define(eq=False)
class Asking:
    """A connection that asks one thing at a time, in SQL."""

    access: OriginAccess
    dialled: Dialled
    conversation: Conversation

    @classmethod
    async def open(cls, access: OriginAccess) -> Self:
        """Raises `ServerFault`."""
        return cls.over(access, await dial(access))

    @classmethod
    def over(cls, access: OriginAccess, dialled: Dialled) -> Self:
        assembler = Assembler(_MAX_ANSWER)
        assembler.feed(dialled.unread)
        return cls(access, dialled, Conversation(dialled.transport, assembler))

    @property
    def process_id(self) -> int:
        return self.dialled.login.process_id

    def close(self) -> None:
        self.dialled.hang_up()

    async def rows(self, sql: str, *parameters: str | None) -> list[Row]:
        """Everything that one statement finds. Raises `Refusal`, or another `ServerFault` at the end."""
        request = messages.parse(b"", messages.text(sql) + b"\0\0") + messages.bind(b"", parameters)
        return await self._answer(request + messages.EXECUTE + messages.SYNC)

    async def run(self, sql: str) -> list[Row]:
        """The same through the simple protocol, the only one that a walsender has."""
        return await self._answer(messages.query(sql))

    async def run_all(self, statements: Sequence[str]) -> None:
        """Several statements in one transaction."""
        await self.run("; ".join(statements))

    async def _answer(self, request: bytes) -> list[Row]:
        rows: list[Row] = []
        refusal: Refusal | None = None
        try:
            await self.conversation.send(request)
            while True:
                tag, body = await self.conversation.message()
                match tag:
                    case Backend.DATA_ROW:
                        rows.append(messages.read_row(body))
                    case Backend.ERROR_RESPONSE:
                        refusal = refusal or Refusal(messages.read_error(body))
                    case Backend.COPY_BOTH_RESPONSE:
                        return rows
                    case Backend.READY_FOR_QUERY:
                        if refusal is not None:
                            raise refusal
                        return rows
        except EndOfStream as end:
            raise refusal or _lost(end) from end
        except FramingError as error:
            raise _nonsense(error) from error


@attrs.define(eq=False)
class Streaming:
    """A connection whose server is a walsender: it makes a temporary slot, then streams."""

    asking: Asking
    _reader: ChangeReader = attrs.field(factory=ChangeReader)
    _sending: trio.Lock = attrs.field(factory=trio.Lock)

    @classmethod
    async def open(cls, access: OriginAccess, beside: Dialled) -> Self:
        """Log in at the host that another connection leads to. Raises `ServerFault`."""
        parameters = {**access.startup_parameters, "replication": "database"}
        hosts = tuple(one for one in access.origin.hosts if one[0] == beside.host)
        origin = attrs.evolve(access.origin, hosts=hosts)
        access = attrs.evolve(access, origin=origin, startup_parameters=parameters)
        return cls(Asking.over(access, await dial(access)))

    @property
    def process_id(self) -> int:
        """Of the walsender."""
        return self.asking.process_id

    def close(self) -> None:
        self.asking.close()

    async def limit_waiting(self) -> None:
        """Let the server notice by itself that we are gone, also while it waits for transactions."""
        await self.asking.run(f"SET wal_sender_timeout = '{ABSENT}s'")
        # What the role has been given must not end the waiting for transactions.
        await self.asking.run("SET statement_timeout = 0")
        for setting in (
            "transaction_timeout = 0",  # since 17
            f"client_connection_check_interval = '{ABSENT}s'",  # since 14, where the system can tell
        ):
            with contextlib.suppress(Refusal):
                await self.asking.run(f"SET {setting}")

    async def make_slot(self, name: str) -> str:
        """Make the slot, which waits for all transactions that write at this time; from where it streams.

        If the waiting is cancelled the server is told, which would otherwise go on waiting, and holding WAL.
        """
        command = f'CREATE_REPLICATION_SLOT "{name}" TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT'
        try:
            (row,) = await self.asking.run(command)
        except trio.Cancelled:
            # Where it fails, the end of the connection has to do.
            with trio.move_on_after(CANCELLING, shield=True), contextlib.suppress(OSError):
                await send_cancel(self.asking.dialled, self.asking.access)
            raise
        return row[1] or "0/0"

    async def start(self, slot: str, publication: str) -> None:
        name = publication.replace("'", "''").replace('"', '""')
        options = f"proto_version '1', publication_names '\"{name}\"'"
        await self.asking.run(f'START_REPLICATION SLOT "{slot}" LOGICAL 0/0 ({options})')

    async def receive(self) -> list[Event]:
        """What comes next. Raises `ServerFault` at the end."""
        conversation = self.asking.conversation
        try:
            if not conversation.unread:
                await conversation.receive()
            return self._reader.receive(conversation.assembler.rest())
        except EndOfStream as end:
            raise _lost(end) from end
        except FramingError as error:
            raise _nonsense(error) from error

    async def confirm(self, position: int, unix_time: float, *, reply: bool) -> None:
        """Everything up to there is done with; with `reply` the server answers."""
        async with self._sending:
            await self.asking.conversation.send(standby_status(position, unix_time, reply=reply))


def _lost(end: EndOfStream) -> ServerFault:
    return ServerFault(str(end), SqlState.CONNECTION_FAILURE, reason=Reason.SERVER_CLOSED)


def _nonsense(error: FramingError) -> ServerFault:
    return ServerFault(
        f"not a replication stream: {error}",
        SqlState.PROTOCOL_VIOLATION,
        reason=Reason.SERVER_PROTOCOL_VIOLATION,
    )
