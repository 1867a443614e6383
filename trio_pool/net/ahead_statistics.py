"""What queue-ahead has done and why not more, for the console, the metrics and the tests."""

from __future__ import annotations

from collections import Counter

import attrs


@attrs.define(eq=False)
class AheadStatistics:
    """Statements sent ahead, asked again because what was ahead took too long, asked again because of a
    neighbour's cancel request or a lost server; and why others were not sent ahead.
    """

    queued: int = 0
    hedged: int = 0
    repeated: int = 0
    not_eligible: Counter[str] = attrs.field(factory=Counter)
