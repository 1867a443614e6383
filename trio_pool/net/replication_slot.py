"""Making a replication slot, which takes as long as others write, and its limit of WAL held back.

A slot begins where no transaction is under way, so PostgreSQL waits for all that have written. Meanwhile the
slot holds WAL back already.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import trio

from trio_pool.errors import Reason, ServerFault
from trio_pool.net.replication_upkeep import Unusable
from trio_pool.protocol import publication
from trio_pool.protocol.pgoutput import read_lsn

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_pool.config.model import Cache
    from trio_pool.net.replication_connection import Asking, Streaming

LONGEST = 15.0
"""Seconds for connecting, and for any one question."""
LOOK = 1.0
"""Seconds between looks at what a slot that is being made waits for."""


async def make_slot(
    streaming: Streaming, asking: Asking, slot: str, limit: int, tell: Callable[[str], None]
) -> int:
    """Where the stream will begin. `tell` is told what is waited for. Raises `ServerFault`."""
    with limited("the settings of the stream"):
        await streaming.limit_waiting()
    made = trio.Event()
    outcome: list[str | ServerFault] = []
    making = trio.CancelScope()

    async def make() -> None:
        with making:
            try:
                outcome.append(await streaming.make_slot(slot))
            except ServerFault as fault:
                outcome.append(fault)
        made.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(make)
        while True:
            with trio.move_on_after(LOOK):
                await made.wait()
            if made.is_set():
                break
            try:
                tell(await _waits(streaming, asking, slot, limit))
            except ServerFault as fault:
                outcome.append(fault)
                making.cancel()
                break
    first = outcome[0]
    if isinstance(first, ServerFault):
        raise first
    return read_lsn(first)


async def _waits(streaming: Streaming, asking: Asking, slot: str, limit: int) -> str:
    """For whom. Raises `ServerFault` if too much is held back by then."""
    with limited("a look at the slot"):
        ((pids,),) = await asking.rows(publication.BLOCKERS, str(streaming.process_id))
        await bound(asking, slot, limit)
    listed = (pids or "").strip("{}")
    if not listed:
        return "the server makes the slot"
    prepared = " (0 is a prepared one)" if "0" in listed.split(",") else ""
    return f"transactions that have written must end before changes can be streamed; pid {listed}{prepared}"


async def bound(asking: Asking, slot: str, limit: int) -> None:
    """Raises `ServerFault` if the slot holds back more than so many bytes of WAL."""
    rows = await asking.rows(publication.HELD_BACK, slot)
    held = int(rows[0][0] or 0) if rows else 0
    if held > limit:
        raise Unusable(
            f"the slot was given up because it held back {held} bytes of WAL (cache.max_slot_wal): some "
            "transaction is open for too long"
        )


class limited:
    """What takes longer than `LONGEST` is a `ServerFault`."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._scope = trio.CancelScope()

    def __enter__(self) -> None:
        self._scope.deadline = trio.current_time() + LONGEST
        self._scope.__enter__()

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        suppressed = self._scope.__exit__(kind, error, trace)  # type: ignore[arg-type]
        if self._scope.cancelled_caught:
            raise ServerFault(
                f"{self._what} has taken longer than {LONGEST:.0f} s", reason=Reason.SERVER_CONNECT_TIMEOUT
            )
        return bool(suppressed)


def slot_name(cache: Cache) -> str:
    """A new one: lower-case letters, digits, underscores."""
    prefix = cache.slot
    if prefix is None:
        prefix = "".join(c if c.isascii() and c.isalnum() else "_" for c in cache.publication.lower())[:50]
    return f"{prefix}_{secrets.token_hex(4)}"


def explained(fault: ServerFault, role: str) -> ServerFault:
    """What to do about it, where that is known."""
    if isinstance(fault, Unusable):
        return fault
    said = fault.message
    if fault.sqlstate == "42501" and "publication" not in said:
        return Unusable(f"{said}: ALTER ROLE {role} REPLICATION")
    if fault.sqlstate == "53400" or (fault.sqlstate == "53300" and "slots" in said):
        return Unusable(f"{said}: raise max_replication_slots at the origin and restart it")
    if "max_wal_senders" in said:
        return Unusable(f"{said}: raise max_wal_senders at the origin and restart it")
    return fault
