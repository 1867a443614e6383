"""Who gets which notifications: against a model that says it in the plainest words."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.net.harness import logged
from trio_pool.net.subscriptions import Reservation, Subscriptions

NAMES = ("a", "b", "c")
CHANNELS = (b"1", b"2", b"3", b"4")
names = st.sampled_from(NAMES)
sets = st.frozensets(st.sampled_from(CHANNELS), max_size=3)


@attrs.define(eq=False)
class Client:
    got: list[bytes] = attrs.field(factory=list)

    def notify(self, message: bytes) -> None:
        self.got.append(message)


@attrs.define(eq=False)
class Model:
    """One subscriber."""

    now: frozenset[bytes] = frozenset()
    stages: list[tuple[bytes, frozenset[bytes]]] = attrs.field(factory=list)
    reservations: list[Reservation] = attrs.field(factory=list)

    def claims(self) -> set[bytes]:
        return {
            *self.now,
            *(channel for _, stage in self.stages for channel in stage),
            *(channel for one in self.reservations for channel in one.channels),
        }

    def use(self) -> None:
        self.reservations = [one for one in self.reservations if not one.answered.is_set()]


class Machine(RuleBasedStateMachine):
    """Anything in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted: set[bytes] = set()
        self.subscriptions = Subscriptions(self._on_wanted, self._on_unwanted)
        self.clients = {name: Client() for name in NAMES}
        self.models = {name: Model() for name in NAMES}
        self.tokens = 0

    def _on_wanted(self, channel: bytes) -> None:
        assert channel not in self.wanted
        self.wanted.add(channel)

    def _on_unwanted(self, channel: bytes) -> None:
        self.wanted.remove(channel)

    @rule(name=names, channels=sets)
    def reserve(self, name: str, channels: frozenset[bytes]) -> None:
        reservation = self.subscriptions.reserve(self.clients[name], channels)
        self.models[name].reservations.append(reservation)

    @rule(name=names, data=st.data())
    def answer_or_release(self, name: str, data: st.DataObject) -> None:
        model = self.models[name]
        if model.reservations:
            reservation = data.draw(st.sampled_from(model.reservations))
            if data.draw(st.booleans()):
                reservation.answer()
            else:
                self.subscriptions.release(self.clients[name], reservation)
                model.reservations.remove(reservation)

    @rule(name=names, channels=sets)
    def admit(self, name: str, channels: frozenset[bytes]) -> None:
        self.tokens += 1
        token = b"%d" % self.tokens
        self.subscriptions.admit(self.clients[name], channels, token)
        self.models[name].stages.append((token, channels))
        self.models[name].use()

    @rule(back=st.integers(0, 5))
    def reach(self, back: int) -> None:
        token = b"%d" % (self.tokens - back)
        self.subscriptions.reach(token)
        for model in self.models.values():
            for at, (one, channels) in enumerate(model.stages):
                if one == token:
                    model.now = channels
                    del model.stages[: at + 1]
                    break

    @rule()
    def reach_all(self) -> None:
        self.subscriptions.reach_all()
        for model in self.models.values():
            if model.stages:
                model.now = model.stages[-1][1]
                model.stages = []

    @rule(name=names, channels=sets)
    def settle(self, name: str, channels: frozenset[bytes]) -> None:
        self.subscriptions.settle(self.clients[name], channels)
        self.models[name].now, self.models[name].stages = channels, []
        self.models[name].use()

    @rule(name=names, channels=sets)
    def withdraw(self, name: str, channels: frozenset[bytes]) -> None:
        self.subscriptions.withdraw(self.clients[name], channels)
        model = self.models[name]
        model.now -= channels
        model.stages = [(token, stage - channels) for token, stage in model.stages]

    @rule(name=names)
    def forget(self, name: str) -> None:
        self.subscriptions.forget(self.clients[name])
        self.models[name] = Model()

    @invariant()
    def everybody_gets_what_is_theirs(self) -> None:
        for channel in CHANNELS:
            expected = {name for name, model in self.models.items() if channel in model.now}
            assert self.subscriptions.deliver(channel, channel) == len(expected)
            assert {name for name, client in self.clients.items() if client.got == [channel]} == expected
            for client in self.clients.values():
                client.got.clear()

    @invariant()
    def wanted_is_what_anybody_claims(self) -> None:
        claims = set().union(*(model.claims() for model in self.models.values()))
        assert self.wanted == claims == set(self.subscriptions.wanted)

    @invariant()
    def nothing_is_left_of_nobody(self) -> None:
        alive = [m for m in self.models.values() if m.now or m.stages or m.reservations]
        assert len(self.subscriptions) == len(alive)


TestSubscriptions = Machine.TestCase


def subscriptions() -> Subscriptions:
    return Subscriptions(lambda _: None, lambda _: None)


def test_a_token_is_used_once() -> None:
    """Two hand-overs with one token could not be told apart."""
    one = subscriptions()
    one.admit(Client(), frozenset((b"1",)), b"token")
    with pytest.raises(ValueError, match="fresh"):
        one.admit(Client(), frozenset((b"1",)), b"token")


def test_a_subscriber_may_end_another() -> None:
    """Who is forgotten while a notification is on its way to many does not get it any more."""
    one = subscriptions()
    second = Client()

    class First:
        def notify(self, _: bytes) -> None:
            one.forget(self)
            one.forget(second)

    third = Client()
    for subscriber in (First(), second, third):
        one.settle(subscriber, frozenset((b"1",)))
    assert one.deliver(b"1", b"message") == 2
    assert (second.got, third.got) == ([], [b"message"])
    assert len(one) == 1


def test_a_subscriber_that_raises_harms_nobody_else() -> None:
    """A bug in one is logged, and the others get their notification."""
    one = subscriptions()

    class Broken:
        def notify(self, _: bytes) -> None:
            raise RuntimeError("a bug")

    client = Client()
    for subscriber in (Broken(), client):
        one.settle(subscriber, frozenset((b"1",)))
    with logged() as log:
        one.deliver(b"1", b"message")
    assert client.got == [b"message"]
    assert [entry["level"] for entry in log.entries] == ["error"]
