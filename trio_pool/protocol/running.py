"""Which transactions can be seen already: PostgreSQL's snapshots as text, `xmin:xmax:xip_list`.

Source: PostgreSQL 18, section "Transaction ID and Snapshot Information Functions". The numbers have 64 bits;
those that a replication stream mentions have the lower 32 of them.
"""

from __future__ import annotations

import attrs

_LOW = 0xFFFFFFFF
_HALF = 0x80000000


@attrs.frozen
class Snapshot:
    """`end` is the first transaction that had not begun; `running` those before it that had not ended."""

    end: int
    running: frozenset[int]
    _low: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """Raises ValueError."""
        _, end, listed = text.split(":")
        running = frozenset(int(xid) for xid in listed.split(",") if xid)
        return cls(int(end), running, frozenset(xid & _LOW for xid in running))

    def has_seen(self, xid: int) -> bool:
        """Whether a transaction had ended, given by the lower half of its number."""
        return (xid - self.end & _LOW) >= _HALF and xid not in self._low

    def has_seen_all(self, older: frozenset[int]) -> bool:
        """Whether all of these, which an older snapshot has found running, had ended."""
        return self.running.isdisjoint(older)
