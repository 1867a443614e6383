"""Parameters that PostgreSQL has in newer versions only, and trio-pool honours on older ones.

`transaction_timeout` came with PostgreSQL 17. Before, a client's SET of it becomes one of a parameter of the
application, whose name has a dot: such a one any server takes, and it is carried along as all are.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_pool.protocol.settings import Settings

NAME = "transaction_timeout"
STAND_IN = "trio_pool.transaction_timeout"
FIRST_VERSION = 17

_SET = re.compile(
    rb"(\s*(?:set(?:\s+session)?|reset)\s+)transaction_timeout(\s*(?:;\s*)?$|\s*(?:=|\bto\b)\s*([^;]+?)\s*;?\s*$)",
    re.IGNORECASE,
)
_VALUE = re.compile(r"'?\s*(\d+)\s*(us|ms|s|min|h|d)?\s*'?", re.ASCII)
_MILLISECONDS = {"us": 0.001, None: 1, "ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}


def lacks(reported: Settings) -> bool:
    """Whether the server that has reported these parameters is too old."""
    major = re.match(r"\d+", reported.get("server_version", ""))
    return major is not None and int(major[0]) < FIRST_VERSION


def stand_in(text: bytes) -> bytes | None:
    """A SET or RESET of `transaction_timeout`, as a statement of its stand-in; None for other texts, and for
    values that are no time, which PostgreSQL shall refuse.
    """
    found = _SET.fullmatch(text)
    if found is None:
        return None
    value = found[3]
    if value is not None and value.lower() != b"default" and milliseconds(value.decode("latin-1")) is None:
        return None
    return b"%b%b%b" % (found[1], STAND_IN.encode(), found[2])


def milliseconds(value: str) -> float | None:
    """A time as PostgreSQL's parameters take it, without a unit in milliseconds; None if it is none."""
    found = _VALUE.fullmatch(value.strip())
    return None if found is None else int(found[1]) * _MILLISECONDS[found[2]]
