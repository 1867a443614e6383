"""For whom answers are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_pool.cache.flight import Flight
    from trio_pool.cache.store import Entry
    from trio_pool.protocol.settings import Settings

_HARMLESS = frozenset(
    {
        "application_name",
        "client_min_messages",
        "deadlock_timeout",
        "idle_in_transaction_session_timeout",
        "idle_session_timeout",
        "lock_timeout",
        "statement_timeout",
        "synchronous_commit",
        "tcp_user_timeout",
        "transaction_timeout",
    }
)
"""Settings that change no answer. In doubt a setting does."""


@attrs.define(eq=False, weakref_slot=True)
class Shelf:
    """Answers to those who have these settings, and requests of theirs that are under way, by key.

    Alive as long as somebody needs it.
    """

    settings: Settings
    reported: Settings
    """Some of those whom it is for: what they have set, and what servers report to them."""
    on_standby: bool = False
    """Whether the servers replay what another server writes, later than that says so."""
    entries: dict[bytes, Entry] = attrs.field(factory=dict)
    flights: dict[bytes, Flight] = attrs.field(factory=dict)


Identity = tuple[object, frozenset[tuple[str, str]], frozenset[tuple[str, str]]]


def identity(pool: object, settings: Mapping[str, str], reported: Mapping[str, str]) -> Identity:
    """What answers depend on besides the request: the pool, which has one user; what the session has set; and
    what the server says of itself.
    """
    return pool, _that_matter(settings), _that_matter(reported)


def _that_matter(values: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in values.items() if name.lower() not in _HARMLESS)
