"""Where the pools of one origin meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from trio_pool.cache.freshness import Freshness
    from trio_pool.cache.store import Store
    from trio_pool.net.changes import Changes


@attrs.frozen(eq=False)
class Room:
    """What the pools of one origin have in common: what is known of writes; where the answers of one database
    are, None if none are kept; and what tells of changes made elsewhere, None if nobody wants to know.
    """

    freshness: Freshness
    store: Store | None = None
    changes: Changes | None = None
