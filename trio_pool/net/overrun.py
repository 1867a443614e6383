"""The end of a client's time: what runs is cancelled, what is open is rolled back, and both connections stay.

Nothing here closes anything, unless PostgreSQL does not obey within `cancel`. The steps:

1. The client's further requests are held back: a cancel request must not hit one that it is not meant for.
2. What waits for the client is ended in its place: a COPY FROM STDIN by CopyFail, half a message by bytes
   that make it invalid.
3. A cancel request is sent, and again, until PostgreSQL has answered. Its answer goes to the client as ever,
   in sequence; only the error that the cancel caused is put in words that name the limit (`verdict`). So
   whoever wins the race, the client learns what PostgreSQL says.
4. If a transaction is left that has no more time, the server is rolled back without the client, which answers
   itself until the client has ended it (`Client.expire`, `Server.roll_back`).

A COMMIT is not cancelled: its outcome is waited for, however long that takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import trio

from trio_pool.errors import Reason
from trio_pool.net.limits import Limit
from trio_pool.protocol.transactions import Verb, control
from trio_pool.wire.tags import Status

if TYPE_CHECKING:
    from trio_pool.net.client import Client
    from trio_pool.net.server import Server

log = structlog.get_logger()

CANCEL_AGAIN = 0.1
"""Seconds between cancel requests for what goes on running.

Arbitrary: one that arrives before the statement does has no effect, so there have to be a few within
`cancel`.
"""


async def end(client: Client, limit: Limit) -> None:
    """The client's time is over."""
    server, machine = client.server, client.session.server
    unsent = client.session.unsent > 0
    runs = machine is not None and (machine.copy_in or (machine.owes and not unsent))
    doing = client.shown
    timeouts = client.origin.traffic.timeouts
    if client.ending:
        timeouts[limit.value] += 1
        log.info("time limit", limit=limit.value, client=client.process_id, pool=str(client.origin.pool.key))
        client.finish(Reason.CLIENT_VANISHED)
    elif machine is not None and machine.owes and _commits(client):
        client.excuse()
    else:
        timeouts[limit.value] += 1
        log.info(
            "time limit",
            limit=limit.value,
            client=client.process_id,
            user=client.user,
            pool=str(client.origin.pool.key),
            doing=doing,
        )
        error = client.limits.error(limit, running=runs)
        if server is not None and machine is not None and machine.owes:
            await _interrupt(client, server, limit, error)
        else:
            client.expire(error)


def _commits(client: Client) -> bool:
    found = control(client.session.doing())
    return found is not None and found.verb is Verb.COMMIT


async def _interrupt(client: Client, server: Server, limit: Limit, error: bytes) -> None:
    """Something runs on the server for the client."""
    machine = server.session
    first = machine.answered

    def over() -> bool:
        """Whether what had no more time has ended. The verdict goes with the lease: the client may have the
        same server again, for something else.
        """
        if machine.verdict is not error or client.session.server is not machine or not machine.owes:
            return True
        return machine.answered != first and (limit is Limit.QUERY or machine.status == Status.IDLE)

    client.session.hold()
    client.verdict = machine.verdict = error
    machine.judged = False
    server.interrupted = True
    ending_upload = client.session.end_upload()
    if ending_upload:
        server.write(ending_upload)
    server.resume()
    try:
        with trio.move_on_after(client.timeouts.cancel, shield=True):
            while not over():
                if not machine.judged:
                    await server.cancel()
                if not over():
                    with trio.move_on_after(CANCEL_AGAIN):
                        await client.mailbox.wait()
    finally:
        client.poller.tick()
        told = machine.judged
        same_lease = machine.verdict is error
        if same_lease or not machine.verdict:  # else somebody else's time is over there
            server.interrupted = False
        if not over():
            server.give_up()
        if same_lease and not machine.owes:  # else what was sent already may yet be hit
            machine.verdict = b""
        client.verdict = b""
        if same_lease and client.server is server and client.session.server is machine:
            if limit is not Limit.QUERY and machine.status != Status.IDLE and not machine.owes:
                client.expire(b"" if told else error)
            else:
                client.go_on()
