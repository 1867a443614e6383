"""What every driver does against every target: the promises, by name.

A driver is a class with one method per action; a method that returns has kept the promise. What a driver does
not offer is named in its `lacks`, with the reason, and makes no test: nothing is skipped that could have run.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import decimal
import inspect
import random
import uuid
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.support.target import Target

ACTIONS: Mapping[str, str] = {
    "connect": "Log in with SCRAM, over TLS with the certificate verified where the target speaks TLS; a"
    " wrong password and an unknown database are refused as by PostgreSQL, a stranger's certificate by"
    " the driver.",
    "bind_channel": "SCRAM-SHA-256-PLUS, demanded by the client, binds the login to the TLS connection;"
    " without TLS the client refuses.",
    "query": "Rows, column names, NULLs, no rows, no statement and several statements in one text arrive.",
    "parameters": "Values of many types make the round trip as parameters.",
    "prepared": "A named statement is executed many times, in and outside transactions, and after others"
    " were prepared, evicted and closed in between.",
    "transactions": "What was committed stays, what was rolled back is gone, and both are told right.",
    "savepoints": "Rolling back to a savepoint undoes what came after it and nothing else.",
    "errors": "After a syntax error or a violated constraint the connection goes on; in a transaction, only"
    " after its end.",
    "copy_in": "COPY FROM STDIN stores the rows sent; a copy that the client or the server breaks off stores"
    " none and leaves the connection usable.",
    "copy_out": "COPY TO STDOUT delivers every row; given up by the client, it leaves the connection usable.",
    "pipeline": "Statements sent without waiting are answered in order, and after an error the rest is"
    " skipped up to the next Sync.",
    "cancel": "A cancel request ends the running query with 57014, and the connection is usable after it.",
    "many_rows": "A result of 1,000,000 rows arrives complete and in order.",
    "big_value": "A value of 64 MB goes up as a parameter and comes down again, unchanged.",
}

# The ones that take long whoever else is there, because they move much data.
HEAVY_ACTIONS = ("many_rows", "big_value")

# By PostgreSQL type, with Python values that every driver can send and gives back equal.
VALUES: Mapping[str, Any] = {
    "int4": 7,
    "int8": -(2**62),
    "float8": 1.5,
    "numeric": decimal.Decimal("12345678901234567890.0123456789"),
    "text": 'O\'Reilly \\ "quoted" \u20ac \U0001f418 $1 %s :name',
    "bytea": b"\x00\x01\xff'\\",
    "bool": True,
    "varchar": None,
    "date": datetime.date(2024, 2, 29),
    "timestamptz": datetime.datetime(2024, 2, 29, 23, 59, 59, 999999, tzinfo=datetime.UTC),
    "uuid": uuid.UUID("12345678-1234-5678-1234-567812345678"),
    "int4[]": [1, 2, None, 3],
    "text[]": ["a,b", 'c"d', "{}", None, ""],
}

MANY_ROWS = 1_000_000
MANY_ROWS_SQL = f"select i, 'row ' || i as name from generate_series(1, {MANY_ROWS}) as i"
BIG_VALUE_BYTES = 64 * 1024 * 1024


def big_value() -> str:
    """64 MB of text in which no two places look alike, the same each time."""
    return base64.b64encode(random.Random(64).randbytes(BIG_VALUE_BYTES * 3 // 4)).decode()


def difference(received: Sequence[object], expected: Sequence[object]) -> str | None:
    """None if they are equal, else where they begin to differ.

    For what is too long for pytest's own explanation, which takes minutes to compare a million rows.
    """
    if received == expected:
        return None
    place = next(
        (place for place, pair in enumerate(zip(received, expected, strict=False)) if pair[0] != pair[1]),
        min(len(received), len(expected)),
    )
    got, wanted = received[place : place + 1], expected[place : place + 1]
    return f"at {place}: {got!r:.200} instead of {wanted!r:.200}; lengths {len(received)} and {len(expected)}"


def long_query(marker: str) -> str:
    """A statement that runs for a minute unless it is cancelled."""
    return f"select pg_sleep(60) /* {marker} */"


class Driver:
    """One client library. Subclasses have a method for each action that is not in `lacks`, async or not."""

    lacks: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def __init__(self, target: Target) -> None:
        self.target = target
        self.marker = uuid.uuid4().hex
        self.table = f"t_{self.marker}"

    @classmethod
    def has(cls, action: str) -> bool:
        """Whether there is code for an action."""
        return callable(getattr(cls, action, None))

    def perform(self, action: str) -> None:
        """Keep one promise of `ACTIONS`."""
        outcome = getattr(self, action)()
        if inspect.isawaitable(outcome):
            asyncio.run(_finish(outcome))

    @contextlib.contextmanager
    def cancelling(self, marker: str, cancel: Callable[[], object]) -> Iterator[None]:
        """Meanwhile call `cancel` in another thread, as soon as the statement with `marker` runs."""

        def cancel_when_running() -> None:
            self.target.wait_until_running(marker)
            cancel()

        with ThreadPoolExecutor(1) as threads:
            cancelled = threads.submit(cancel_when_running)
            yield
            cancelled.result()


async def _finish(outcome: object) -> None:
    assert inspect.isawaitable(outcome)
    await outcome


def offered_by(driver: type[Driver]) -> list[str]:
    """The actions of a driver, in the order of `ACTIONS`; what it lacks it must explain."""
    offered = [action for action in ACTIONS if action not in driver.lacks]
    missing = [action for action in offered if not driver.has(action)]
    assert missing == [], f"{driver.__name__} neither has nor explains {missing}"
    unknown = [action for action in driver.lacks if action not in ACTIONS]
    assert unknown == [], f"{driver.__name__} lacks {unknown}, which are no actions"
    return offered


def actions_of(driver: type[Driver]) -> pytest.MarkDecorator:
    """Parametrise `action` by everything the driver offers."""
    return pytest.mark.parametrize("action", offered_by(driver))
