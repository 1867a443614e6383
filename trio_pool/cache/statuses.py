"""What became of a request where there is a cache, and how often.

The names in parentheses are those that Hyperdrive reports for the same.
"""

from __future__ import annotations

import enum
from collections import Counter

import attrs


class Status(enum.Enum):
    """What became of one request of a client."""

    HIT = "hit"
    """Answered from memory."""
    STALE = "stale"
    """Answered from memory past `max_age`, while a new answer is fetched (`hit`)."""
    SHARED = "shared"
    """Answered with the answer to somebody else's request that was under way (`hit`)."""
    MISS = "miss"
    """Sent to PostgreSQL; its answer may be kept."""
    DISABLED = "disabled"
    """The statement's comment, or the client's user, does without."""
    TRANSACTION = "transaction"
    """In an explicit transaction, or while the client keeps a server connection."""
    MULTIPLE = "multiple statements"
    """More than one statement at once (`multiplestatements`), or one whose answer is no whole result: a
    pipeline, a row limit, a named portal.
    """
    NOT_A_QUERY = "not a query"
    """It does not only read (`notaquery`)."""
    PARSE_ERROR = "not understood"
    """The grammar does not know it, or its meaning depends on settings (`parseerror`)."""
    OVERSIZED_QUERY = "text too long"
    """(`oversizedquery`)"""
    OVERSIZED_RESULT = "result too large"
    """Past `max_result_size` (`oversizedresult`)."""
    VOLATILE = "volatile"
    """It depends on more than the contents of tables: on the time, on chance, on the session."""
    UNCACHEABLE = "uncacheable"
    """It reads what nobody tells of when it changes: system catalogs, temporary and foreign tables, rows that
    depend on who looks.
    """
    UNKNOWN = "not known yet"
    """Seen for the first time, or the catalog is being asked (`uncacheable`)."""
    BYPASSED = "bypassed"
    """The stream of changes lags or is broken (`uncacheable`)."""
    DRY_HIT = "would hit"
    """With `dry_run`: it would have been answered from memory."""


FROM_MEMORY = (Status.HIT, Status.STALE, Status.SHARED)


class Tally:
    """How many requests had one status for one reason. Compiled code adds to `count`."""

    __slots__ = ("count", "status", "why")

    def __init__(self, status: Status, why: str) -> None:
        self.status = status
        self.why = why
        self.count = 0


@attrs.define(eq=False)
class CacheStatistics:
    """Of one pool, since it was made."""

    stored: int = 0
    overtaken: int = 0
    """Answers that were not kept because something was written meanwhile."""
    revalidated: int = 0
    verified: int = 0
    """Hits that were asked again to compare the answers."""
    differed: int = 0
    """Those of which the answer was another one, although nothing is known to have changed."""
    _tallies: dict[tuple[Status, str], Tally] = attrs.field(factory=dict)

    def tally(self, status: Status, why: str = "") -> Tally:
        """The one for this status and reason."""
        found = self._tallies.get((status, why))
        if found is None:
            found = self._tallies[status, why] = Tally(status, why)
        return found

    def statuses(self) -> Counter[Status]:
        """Requests by status."""
        found: Counter[Status] = Counter()
        for tally in self._tallies.values():
            found[tally.status] += tally.count
        return found

    def kept(self) -> dict[str, int]:
        """Answers by what became of them."""
        return {
            "stored": self.stored,
            "overtaken": self.overtaken,
            "revalidated": self.revalidated,
            "verified": self.verified,
            "differed": self.differed,
        }

    def reasons(self) -> Counter[tuple[Status, str]]:
        """Requests that were not answered from memory, by status and reason."""
        return Counter({key: tally.count for key, tally in self._tallies.items() if tally.why})
