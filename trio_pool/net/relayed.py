"""A connection to the origin that is one edge's alone, passed on without being looked into: the one on which
the edge listens for its clients.

Not a client of the pool, for two reasons. The edge compares what this connection reports with what its links
report, and relies on both being in the order of the database's queue of notifications, which holds between
sessions of PostgreSQL, but not where a pooler puts together what several of them report. And links that wait
for it hold servers, so it must not wait for one.

It says LISTEN and UNLISTEN and is silent otherwise, so nothing here is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from trio_pool.errors import ClientFault, Reason, ServerFault, SqlState
from trio_pool.net.conversation import EndOfStream
from trio_pool.net.dial import dial
from trio_pool.wire import messages

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_pool.net.conversation import Conversation
    from trio_pool.net.dial import Dialled, OriginAccess
    from trio_pool.net.transport import PlainTransport, TLSTransport


async def relay(
    conversation: Conversation,
    access: OriginAccess,
    parameters: Mapping[str, str],
    greeting: bytes,
    limit: float,
) -> None:
    """Log in at the origin, with these settings besides, and pass everything on until one side ends.

    `greeting` is what the edge gets ahead of ParameterStatus. Raises `ClientFault` if there is no origin.
    """
    everything = {**access.startup_parameters, **parameters}
    try:
        dialled = await dial(attrs.evolve(access, startup_parameters=everything), limit)
    except ServerFault as fault:
        raise ClientFault(
            f"cannot connect to the origin: {fault.message}",
            SqlState.CANNOT_CONNECT,
            reason=Reason.CLIENT_REFUSED,
        ) from fault
    try:
        await _pass_on(conversation, dialled, greeting)
    except EndOfStream:
        return
    finally:
        dialled.hang_up()


async def _pass_on(conversation: Conversation, dialled: Dialled, greeting: bytes) -> None:
    login = dialled.login
    reported = b"".join(messages.parameter_status(*pair) for pair in login.parameters.items())
    key = messages.backend_key_data(login.process_id, bytes(4))  # nobody cancels a LISTEN
    await conversation.send(greeting + reported + key + messages.READY[ord("I")] + dialled.unread)
    near, far = conversation.transport, dialled.transport
    await _send(far, conversation.assembler.rest())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_pump, near, far, nursery.cancel_scope)
        nursery.start_soon(_pump, far, near, nursery.cancel_scope)


async def _pump(
    source: PlainTransport | TLSTransport, sink: PlainTransport | TLSTransport, scope: trio.CancelScope
) -> None:
    """One direction, to its end, which is the other one's too."""
    while (data := source.receive()) != b"":
        if data:
            await _send(sink, data)
        else:
            await trio.lowlevel.wait_readable(source.fileno())
    scope.cancel()


async def _send(sink: PlainTransport | TLSTransport, data: bytes) -> None:
    if data:
        sink.send(data)
    while sink.pending:
        await trio.lowlevel.wait_writable(sink.fileno())
        sink.flush()
