"""The origin's end of all feeds of one database: tells edges what ends the answers that they keep.

Whoever has written is held back until the strict ones among them have seen it: what PostgreSQL has answered
stays in the client's connection (`Client.cork`), while the server goes on. An edge that does not say so is
waited for as long as it may still answer from memory, and no longer.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final

import structlog
import trio

from trio_pool.cache import feed
from trio_pool.net.feed_line import FAREWELL, FeedLine
from trio_pool.net.mailbox import Mailbox

if TYPE_CHECKING:
    from trio_pool.cache.feed import Told
    from trio_pool.cache.freshness import Freshness, Writer
    from trio_pool.net.conversation import Conversation
    from trio_pool.net.poller import Poller

log = structlog.get_logger()

DEAF_AFTER: Final = 1.0
"""Seconds after which an edge that does not say that it has seen something is not let answer any longer."""
LOOK_EVERY: Final = 0.005
"""Seconds between looks at what other processes have counted."""


class Feed:
    """One edge that is told."""

    def __init__(self, feeds: Feeds, line: FeedLine, *, strict: bool, seen: int) -> None:
        self.feeds = feeds
        self.line = line
        self.strict = strict
        self.seen = seen
        self.lease_until = -math.inf
        """Until when it may answer from memory."""
        self.unseen_since = math.inf
        """Since when it has not seen anything of what it was told."""

    def took(self, told: Told) -> None:
        """What the edge says."""
        match told.kind:
            case "ping":
                now = self.feeds.poller.tick()
                if now - self.unseen_since < DEAF_AFTER:
                    self.lease_until = now + feed.LEASE + feed.GRACE
                    self.line.post(feed.alive(told.number))
            case "seen":
                self.seen = max(self.seen, told.number)
                behind = self.seen < self.feeds.number
                self.unseen_since = self.feeds.poller.tick() if behind else math.inf
                self.feeds.release()

    def tell(self, message: bytes) -> None:
        """What it is to have seen."""
        self.unseen_since = min(self.unseen_since, self.feeds.poller.now)
        self.line.post(message)


class Feeds:
    """Of one database. Follows its `Freshness` as long as somebody wants to know."""

    def __init__(self, freshness: Freshness, poller: Poller) -> None:
        self.freshness = freshness
        self.poller = poller
        self.feeds: dict[Feed, None] = {}
        self.number = 0
        """Of what was told last."""
        self._held: deque[tuple[int, Writer]] = deque()
        """Who waits until what has been seen."""
        self._changes = Mailbox()

    # -- data plane ------------------------------------------------------------------------------------------

    def ended(self, slots: tuple[int, ...]) -> None:
        self.number += 1
        self._tell(feed.ended(self.number, slots))

    def doubted(self, slots: tuple[int, ...], seconds: float) -> None:
        self.number += 1
        self._tell(feed.doubt(self.number, math.ceil(seconds * 1000), slots))

    def adopted(self, salt: int) -> None:
        for each in self.feeds:
            each.line.post(feed.greeting(salt))

    def _tell(self, message: bytes) -> None:
        for each in self.feeds:
            each.tell(message)

    def hold(self, writer: Writer) -> None:
        """Keep what it is to be told until all that was told so far has been seen."""
        if self._seen_by_all(self.poller.now) < self.number:
            self._held.append((self.number, writer))
            writer.cork(self.number)
            self._changes.wake()

    def release(self) -> None:
        """Whoever need not wait any more goes on."""
        seen = self._seen_by_all(self.poller.tick())
        while self._held and self._held[0][0] <= seen:
            number, writer = self._held.popleft()
            writer.uncork(number)

    def _seen_by_all(self, now: float) -> float:
        return min(
            (each.seen for each in self.feeds if each.strict and each.lease_until > now), default=math.inf
        )

    # -- control plane ---------------------------------------------------------------------------------------

    async def serve(self, conversation: Conversation, greeting: bytes, *, strict: bool, peer: str) -> None:
        """Tell one edge, until the connection ends."""
        line = FeedLine(self.poller, conversation.transport, lambda told: new.took(told))
        new = Feed(self, line, strict=strict, seen=self.number)
        log.info("feed connected", edge=peer, strict=strict)
        if not self.feeds:
            self.freshness.followers.append(self)
        self.feeds[new] = None
        try:
            line.open(b"")
            line.post(greeting + b"".join(feed.greeting(salt) for salt in self.freshness.salts))
            line.receive(conversation.assembler.rest())
            while not line.over:
                await line.mailbox.wait()
        finally:
            line.end("stopping")
            if line.over == FAREWELL:
                new.lease_until = -math.inf
            log.info("feed disconnected", edge=peer, reason=line.over)
            self._changes.wake()

    async def run(self) -> None:
        """Nobody is waited for longer than it may answer from memory, whether it is there or not."""
        async with trio.open_nursery() as nursery:
            if self.freshness.counters.rows > 1:
                nursery.start_soon(self._follow_others)
            while True:
                await self._changes.wait()
                while self._held or any(each.line.over for each in self.feeds):
                    self._forget()
                    self.release()
                    leases = [each.lease_until for each in self.feeds if each.lease_until > -math.inf]
                    await trio.sleep_until(min(leases, default=-math.inf))

    def _forget(self) -> None:
        """Those who have gone and can answer nothing any more."""
        now = trio.current_time()
        for gone in [each for each in self.feeds if each.line.over and each.lease_until <= now]:
            del self.feeds[gone]
        if not self.feeds and self in self.freshness.followers:
            self.freshness.followers.remove(self)

    async def _follow_others(self) -> None:
        """Tell what other processes have counted."""
        before = self.freshness.counters.others()
        while True:
            await trio.sleep(LOOK_EVERY)
            now = self.freshness.counters.others()
            if now != before:
                changed = [
                    at for at, (one, other) in enumerate(zip(before, now, strict=True)) if one != other
                ]
                before = now
                self.ended(tuple(changed))
