"""The parent's side of what all workers share: the broker, the wards, the count of clients.

A *party* is one worker process; when it is replaced, that is another party. Its messages are notes on its
channel (office.py has the other side).

While one pooler takes over from another, both have parties, and the newer one has the broker: the older one
passes on what its parties say (elsewhere.py), and hands them what is for them.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

import attrs

from trio_pool.daemon.applying import sized_for
from trio_pool.daemon.workers.elsewhere import Elsewhere
from trio_pool.daemon.workers.wards import Wards
from trio_pool.pooling.broker import Broker

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio

    from trio_pool.config.model import Config
    from trio_pool.daemon.workers.channel import Channel
    from trio_pool.net.dial import CancelKey
    from trio_pool.pooling.pool import PoolKey

Held = dict[int, tuple[int, "PoolKey"]]
"""Permits, who has them, and of which pool."""
Wants = list[tuple[int, "PoolKey", bool]]
"""Who wants one, of which pool, and whether that presses."""


class Teller(Protocol):
    """What leads to a party."""

    def tell(self, name: str, *arguments: object) -> None: ...


@attrs.frozen
class _Behind:
    """A party of the older pooler."""

    channel: Channel
    party: int

    def tell(self, name: str, *arguments: object) -> None:
        self.channel.tell("to", self.party, name, arguments)


@attrs.define(eq=False)
class Brokerage:
    """`config` gives the one that holds."""

    config: Callable[[], Config]
    nursery: trio.Nursery
    broker: Broker | Elsewhere = attrs.field(init=False)
    wards: Wards = attrs.field(init=False)
    clients: Counter[tuple[int, str, str]] = attrs.field(factory=Counter)
    """By party, database and user."""
    parties: int = 0
    """The highest number that a party has had."""
    let_in: set[PoolKey] = attrs.field(factory=set)
    """Pools for which the origin has let somebody in."""
    _all: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    """Of all parties: by what they have in common ("", "database" or "user"), and its name."""
    _tellers: dict[int, Teller] = attrs.field(factory=dict)
    _limits: dict[PoolKey, tuple[int, int]] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.broker = Broker(self.limits, self)
        self.wards = Wards(self.config, self.returned, self.nursery)

    def new_party(self) -> int:
        """A number for one more."""
        self.parties += 1
        return self.parties

    def serve(self, party: int, channel: Channel) -> None:
        """Do what this party says."""
        channel.tell("let_in", self.let_in)
        self._tellers[party] = channel
        channel.notes |= {
            "ask": lambda key, pressing: self.broker.ask(party, key, pressing=pressing),
            "withdraw": lambda key: self.broker.withdraw(party, key),
            "kept": lambda sake: self.broker.kept(sake),
            "rename": lambda key, new: self.broker.rename(party, key, new),
            "opened": self.wards.opened,
            "logged_in": self._logged_in,
            "closed": self.wards.closed,
            "left": lambda database, user: self._count(party, database, user, -1),
        }
        channel.takes_descriptors.add("opened")

        async def admit(database: str, user: str, most: int, of_database: int, of_user: int) -> str | None:
            return self.admit(party, database, user, most, of_database, of_user)

        channel.handlers["admit"] = admit

    def _logged_in(self, permit: int, database: str, key: CancelKey) -> None:
        self.wards.logged_in(permit, database, key)
        held = self.broker.held.get(permit)
        if held is not None:
            self.note_let_in({held[1]})

    def note_let_in(self, keys: set[PoolKey]) -> None:
        """The origin has let somebody in: everybody is told."""
        new = keys - self.let_in
        self.let_in |= new
        if new:
            for teller in self._tellers.values():
                teller.tell("let_in", new)

    def held_by(self, party: int) -> dict[int, str]:
        """Its permits, and the databases that they are of."""
        return {permit: key.database for permit, (holder, key) in self.broker.held.items() if holder == party}

    def gone(self, party: int) -> None:
        """The process has ended: its clients are gone, its servers will be."""
        self._tellers.pop(party, None)
        for who, count in list(self.clients.items()):
            if who[0] == party:
                self._count(*who, -count)
        self.wards.bereft(self.broker.gone(party))

    def returned(self, permit: int) -> None:
        """Nothing of it is left at the origin."""
        self.broker.returned(permit)

    def review(self) -> None:
        """Another configuration holds."""
        self.broker.review()

    def limits(self, key: PoolKey) -> tuple[int, int]:
        """What a pool may have, and all of its database together. Where it is not configured any more, what
        it had.
        """
        config = self.config()
        database = config.database(key.database)
        if database is not None:
            if database.origin.user is None:
                database = sized_for(database, config.users.get(key.user))
            self._limits[key] = database.pool_size, database.max_servers
        return self._limits.get(key, (1, 0))

    # -- two poolers -----------------------------------------------------------------------------------------

    def hand_over(self, channel: Channel) -> tuple[Held, Wants]:
        """The broker of another pooler is everybody's from now on; what it has to know."""
        assert isinstance(self.broker, Broker)
        held = dict(self.broker.held)
        wants = [(*who, want.pressing > 0) for who, want in self.broker.wants.items()]
        self.broker = Elsewhere(channel, dict(held))
        channel.notes["to"] = self._pass_on
        return held, wants

    def take_back(self) -> None:
        """The other pooler is no more, if there has been one."""
        if isinstance(self.broker, Broker):
            return
        held = self.broker.held
        self.broker = broker = Broker(self.limits, self)
        for permit, (party, key) in held.items():
            broker.adopt(party, key, permit)

    def _pass_on(self, party: int, name: str, arguments: tuple[object, ...]) -> None:
        assert isinstance(self.broker, Elsewhere)
        if name == "granted":
            key, permit = arguments
            self.broker.held[permit] = party, key  # type: ignore[index,assignment]
        teller = self._tellers.get(party)
        if teller is not None:
            teller.tell(name, *arguments)
        elif name == "granted":
            self.broker.returned(arguments[1])  # type: ignore[arg-type]
        elif name == "recall":
            self.broker.kept(arguments[2])  # type: ignore[arg-type]

    def take_over(self, channel: Channel, held: Held, wants: Wants, parties: int) -> None:
        """Be the broker of an older pooler's parties as well, until its channel is gone."""
        broker = self.broker
        assert isinstance(broker, Broker)
        self.parties = parties
        for party in range(1, parties + 1):
            self._tellers[party] = _Behind(channel, party)
        for permit, (party, key) in held.items():
            broker.adopt(party, key, permit)
        channel.notes |= {
            "let_in": self.note_let_in,
            "ask": lambda party, key, pressing: broker.ask(party, key, pressing=pressing),
            "withdraw": broker.withdraw,
            "kept": broker.kept,
            "rename": broker.rename,
            "returned": broker.returned,
            "gone": self._gone_there,
        }
        for party, key, pressing in wants:
            broker.ask(party, key, pressing=pressing)
        self.nursery.start_soon(self._until_alone, channel, parties)

    def _gone_there(self, party: int) -> None:
        """What it had is returned when it is gone at the origin, by whoever sees that."""
        self._tellers.pop(party, None)
        self.broker.gone(party)

    async def _until_alone(self, channel: Channel, parties: int) -> None:
        await channel.gone.wait()
        for party in range(1, parties + 1):
            self._tellers.pop(party, None)
            for permit in self.broker.gone(party):
                self.broker.returned(permit)

    # -- what the broker says --------------------------------------------------------------------------------

    def granted(self, party: int, key: PoolKey, permit: int) -> None:
        self._tellers[party].tell("granted", key, permit)

    def recall(self, party: int, key: PoolKey, *, due: bool, sake: tuple[int, PoolKey]) -> None:
        teller = self._tellers.get(party)
        if teller is not None:
            teller.tell("recall", key, due, sake)
        elif not due:
            self.broker.kept(sake)

    def surrender(self, party: int, key: PoolKey, count: int) -> None:
        teller = self._tellers.get(party)
        if teller is not None:
            teller.tell("surrender", key, count)

    # -- clients ---------------------------------------------------------------------------------------------

    def admit(
        self, party: int, database: str, user: str, most: int, of_database: int, of_user: int
    ) -> str | None:
        """Count one more; or why not, in PostgreSQL's words."""
        if self._all["", ""] >= most:
            return "sorry, too many clients already"
        if of_user and self._all["user", user] >= of_user:
            return f'too many connections for role "{user}"'
        if of_database and self._all["database", database] >= of_database:
            return f'too many connections for database "{database}"'
        self._count(party, database, user, 1)
        return None

    def _count(self, party: int, database: str, user: str, change: int) -> None:
        self.clients[party, database, user] += change
        if not self.clients[party, database, user]:
            del self.clients[party, database, user]
        for what in (("", ""), ("database", database), ("user", user)):
            self._all[what] += change
            if not self._all[what]:
                del self._all[what]
