"""What is known of a stream of changes, for the cache, the console and the metrics. Values only."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping


class Phase(enum.Enum):
    """What a stream is doing."""

    CONNECTING = "connecting"
    WAITING = "waiting for older transactions to end"
    STREAMING = "streaming"
    LAGGING = "behind"
    BROKEN = "broken"


@attrs.frozen
class StreamState:
    """Times are of the pooler's clock, in seconds.

    `slot` is the temporary slot, None without one. `since` is since when changes are streamed.
    `behind_bytes` is WAL that the origin has written and that has not been taken into account;
    `behind_seconds` how long ago it is proven that there was none, which is an upper bound. Both are None
    without a stream. `covered` is how many tables' changes are streamed, `uncovered` how many are not, by
    reason. `error` is why there is no stream, or was none before, and what to do about it.
    """

    phase: Phase
    publication: str
    slot: str | None
    since: float | None
    behind_bytes: int | None
    behind_seconds: float | None
    heard_at: float | None
    commits: int
    covered: int
    uncovered: Mapping[str, int]
    error: str | None

    @property
    def connected(self) -> bool:
        """Whether changes come, however late."""
        return self.phase in (Phase.STREAMING, Phase.LAGGING)
