"""Random requests of a client that knows the protocol and does not always keep to it.

What no pooler can tell from what a direct connection would do is left out, so that replies can be compared one by one: requests during COPY (they end the connection), a Parse or Bind that
builds upon a statement whose Parse may fail in an earlier group that is still unanswered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypothesis import strategies as st

from tests.support.requests import (
    COPY_DONE,
    FLUSH,
    SYNC,
    bind,
    close,
    close_portal,
    copy_data,
    copy_fail,
    describe,
    describe_portal,
    execute,
    function_call,
    parse,
    query,
)

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES: Final = ["s1", "s2", "s3"]
PORTALS: Final = ["", "p1"]
MARK: Final = "@"
"""Stands for the payload in these texts; `stamped` puts the sender's own there."""

_SIMPLE: Final = [
    "SELECT '@'",
    "SELECT '@'",
    "SELECT '@' FROM generate_series(1,3)",
    "SELECT '@'; SELECT '@b'",
    "SELECT 1/0",
    "ERROR @",
    "",
    "BEGIN",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "COPY (SELECT '@' FROM generate_series(1,2)) TO STDOUT",
    "SET application_name = '@'",
    "SHOW application_name",
    "DISCARD ALL",
]
_PREPARED: Final = [
    "SELECT $1::text",
    "SELECT $1::text FROM generate_series(1,3)",
    "SELECT 'shared'",
    "SELECT 1/0",
    "ERROR",
    "",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
]

Payload = "Callable[[], str]"
