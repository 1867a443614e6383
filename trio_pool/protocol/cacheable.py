"""Whether the result of a reading holds until one of its tables changes, and so may be kept.

What a session's settings, its role and its database make of a reading is not asked here: whoever keeps a
result has those in its key. Equal settings, parameters and contents must give equal results. What is no
reading at all (`reading_kinds.Why`) or not proven to be one (`catalog.Doubt`) is refused before; here are the
reasons that concern results only.

Not seen: that a text in a table, cast to a time, may say 'now'.

It must never know a result, or how long it is kept.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Final

from trio_pool.protocol.catalog import Volatility
from trio_pool.protocol.reading_kinds import Kind, Unkept
from trio_pool.protocol.reading_tree import MOMENT

if TYPE_CHECKING:
    from trio_pool.protocol.catalog import Verdict
    from trio_pool.protocol.reading import Reading


class Reason(enum.StrEnum):
    """Why the result of a reading may not be kept; for statistics."""

    TIME = Unkept.TIME.value
    NAMES = Unkept.NAMES.value
    ROWS = Unkept.ROWS.value
    SETTING = Unkept.SETTING.value
    STABLE = "a stable function: its result depends on more than tables and settings"
    PRIVILEGES = "it asks for privileges, or what is being asked"
    CATALOGS = "it reads system catalogs"
    UNPROVEN = "it is not proven to do nothing but read"
    PARAMETER = "a parameter that may become the time, such as 'now'"


_MOMENTS: Final = re.compile(MOMENT.encode(), re.IGNORECASE)
_PRIVILEGES: Final = re.compile(
    r"has_\w+_privilege|pg_has_role|row_security_active|current_schemas|current_query"
)


def why_not(reading: Reading, verdict: Verdict) -> Reason | None:
    """Why its result may not be kept; None if it may. Of parameters see `may_be_momentary`."""
    if not verdict.proven:
        return Reason.UNPROVEN
    if verdict.unkept is not None:
        return Reason(verdict.unkept.value)
    if any(
        name.kind in (Kind.FUNCTION, Kind.ATTRIBUTE) and _PRIVILEGES.fullmatch(name.name)
        for name in reading.names
    ):
        return Reason.PRIVILEGES
    if verdict.catalog_tables:
        return Reason.CATALOGS
    return None if verdict.volatility is Volatility.IMMUTABLE else Reason.STABLE


def may_be_momentary(request: bytes) -> bool:
    """Whether a value in a request could become the time at which it is read, as 'now' does as a timestamp.

    Texts are told by their reading; this is for parameters.
    """
    return _MOMENTS.search(request) is not None
