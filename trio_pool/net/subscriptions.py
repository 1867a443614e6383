"""Who gets which notifications, and which channels are therefore wanted. Knows no connection and no time.

A subscriber has the channels that it gets now and, while it is being handed over (see listening.py), stages:
what it gets from the moment at which a token comes. Both, and what it has reserved, are its claims; a channel
is wanted as long as anybody has a claim to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs
import structlog
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_pool.errors import ServerFault

log = structlog.get_logger()


class Subscriber(Protocol):
    """Whoever gets notifications."""

    def notify(self, message: bytes) -> None:
        """Take a whole NotificationResponse as the origin sent it.

        Must neither block nor raise. May call back into `Listening`.
        """


@attrs.define(eq=False)
class Reservation:
    """Channels that somebody has asked to be covered and has not yet said what for."""

    channels: frozenset[bytes]
    fault: ServerFault | None = None
    answered: trio.Event = attrs.field(factory=trio.Event)

    def answer(self, fault: ServerFault | None = None) -> None:
        self.fault = fault
        self.answered.set()


@attrs.define(eq=False)
class _Subscription:
    """What one subscriber gets and is going to get."""

    subscriber: Subscriber
    now: frozenset[bytes] = frozenset()
    stages: dict[bytes, frozenset[bytes]] = attrs.field(factory=dict)
    """By the token that is waited for, oldest first."""
    reservations: set[Reservation] = attrs.field(factory=set)
    counted: frozenset[bytes] = frozenset()
    """The channels that this subscription keeps wanted."""

    def claims(self) -> frozenset[bytes]:
        return self.now.union(*self.stages.values(), *(one.channels for one in self.reservations))


class Subscriptions:
    """Who gets what, and which channels are therefore wanted. Knows no connection and no time.

    `on_wanted` and `on_unwanted` are told when a channel gets its first and loses its last claim.
    """

    def __init__(self, on_wanted: Callable[[bytes], None], on_unwanted: Callable[[bytes], None]) -> None:
        self.wanted: dict[bytes, int] = {}
        """How many subscribers have a claim to each channel."""
        self._on_wanted = on_wanted
        self._on_unwanted = on_unwanted
        self._routes: dict[bytes, dict[Subscriber, None]] = {}
        self._subscriptions: dict[Subscriber, _Subscription] = {}
        self._tokens: dict[bytes, _Subscription] = {}

    def __len__(self) -> int:
        return len(self._subscriptions)

    def deliver(self, channel: bytes, message: bytes) -> int:
        """Hand a message to everybody who gets the channel; how many that were. Hot path."""
        route = self._routes.get(channel)
        if route is None:
            return 0
        delivered = 0
        for subscriber in [*route]:
            if subscriber in route:  # the one before may have ended it
                try:
                    subscriber.notify(message)
                except Exception as error:
                    log.error("internal error in taking a notification", exc_info=error)
                delivered += 1
        return delivered

    def reserve(self, subscriber: Subscriber, channels: frozenset[bytes]) -> Reservation:
        subscription = self._of(subscriber)
        reservation = Reservation(channels)
        subscription.reservations.add(reservation)
        self._recount(subscription)
        return reservation

    def release(self, subscriber: Subscriber, reservation: Reservation) -> None:
        subscription = self._subscriptions.get(subscriber)
        if subscription is not None:
            subscription.reservations.discard(reservation)
            self._recount(subscription)

    def admit(self, subscriber: Subscriber, channels: frozenset[bytes], token: bytes) -> None:
        if token in self._tokens:
            raise ValueError("a token must be fresh")
        subscription = self._of(subscriber)
        subscription.stages[token] = channels
        self._tokens[token] = subscription
        self._use_reservations(subscription)
        self._recount(subscription)

    def settle(self, subscriber: Subscriber, channels: frozenset[bytes]) -> None:
        subscription = self._of(subscriber)
        self._drop_stages(subscription)
        self._use_reservations(subscription)
        self._enter(subscription, channels)

    def withdraw(self, subscriber: Subscriber, channels: frozenset[bytes]) -> None:
        subscription = self._subscriptions.get(subscriber)
        if subscription is not None:
            for token, stage in subscription.stages.items():
                subscription.stages[token] = stage - channels
            self._enter(subscription, subscription.now - channels)

    def forget(self, subscriber: Subscriber) -> None:
        subscription = self._subscriptions.get(subscriber)
        if subscription is not None:
            self._drop_stages(subscription)
            subscription.reservations.clear()
            self._enter(subscription, frozenset())

    def reach(self, token: bytes) -> None:
        """The marker has come with this token. One that nobody waits for is ignored."""
        subscription = self._tokens.get(token)
        if subscription is None:
            return
        # Tokens admitted before this one will not come any more: a client's are sent one after the other.
        for passed in list(subscription.stages):
            channels = subscription.stages.pop(passed)
            del self._tokens[passed]
            if passed == token:
                self._enter(subscription, channels)
                return

    def reach_all(self) -> None:
        """No marker that has been waited for until now will come."""
        for token in list(self._tokens):
            self.reach(token)

    # -- one place for each change ---------------------------------------------------------------------------

    def _of(self, subscriber: Subscriber) -> _Subscription:
        subscription = self._subscriptions.get(subscriber)
        if subscription is None:
            subscription = self._subscriptions[subscriber] = _Subscription(subscriber)
        return subscription

    def _drop_stages(self, subscription: _Subscription) -> None:
        for token in subscription.stages:
            del self._tokens[token]
        subscription.stages.clear()

    def _use_reservations(self, subscription: _Subscription) -> None:
        """Those that are still waited for stay."""
        subscription.reservations = {one for one in subscription.reservations if not one.answered.is_set()}

    def _enter(self, subscription: _Subscription, channels: frozenset[bytes]) -> None:
        """From now on the subscriber gets these."""
        before, subscription.now = subscription.now, channels
        for channel in channels - before:
            self._routes.setdefault(channel, {})[subscription.subscriber] = None
        for channel in before - channels:
            route = self._routes[channel]
            del route[subscription.subscriber]
            if not route:
                del self._routes[channel]
        self._recount(subscription)

    def _recount(self, subscription: _Subscription) -> None:
        before, claims = subscription.counted, subscription.claims()
        subscription.counted = claims
        for channel in claims - before:
            count = self.wanted[channel] = self.wanted.get(channel, 0) + 1
            if count == 1:
                self._on_wanted(channel)
        for channel in before - claims:
            self.wanted[channel] -= 1
            if not self.wanted[channel]:
                del self.wanted[channel]
                self._on_unwanted(channel)
        if not claims and not subscription.stages and not subscription.reservations:
            self._subscriptions.pop(subscription.subscriber, None)
