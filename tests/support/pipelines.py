"""Random requests of a client that knows the protocol and does not always keep to it.

A request is a tuple, for hypothesis to print and shrink; `rendered` makes bytes of it. What no pooler can
relay as if it were not there is left out by `restrained`: requests that build upon a Parse or Close which may
have failed in an earlier group that is still unanswered. (A pooler has to decide when it sends; the client
cannot know either.)
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from hypothesis import strategies as st

from tests.support import requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Request = tuple[Any, ...]
Strategy = st.SearchStrategy[list[Request]]

NAMES: Final = ["s1", "s2", "s3"]
PORTALS: Final = ["", "", "p1"]
_SQL_NAMES: Final = ["q1", "q2"]
_BY_SQL: Final = "prepared "
_UNSURE: Final = "unsure "
_RESETS: Final = re.compile("RESET|DISCARD")
MARK: Final = "@"
"""Stands for the payload, which says whose request it is."""
LONG: Final = "..."
"""Stands for more of it than fits a read."""

_SIMPLE: Final = [
    "SELECT '@'",
    "SELECT '@' FROM generate_series(1,3)",
    "SELECT '@'; SELECT '@b'",
    "SELECT 1/0",
    "ERROR @",
    "",
    "COPY (SELECT '@' FROM generate_series(1,2)) TO STDOUT",
    "SET application_name = '@'",
    "RESET application_name",
    "RESET ALL",
    "SHOW application_name",
    "PREPARE q1 AS SELECT '@'",
    "PREPARE q1 AS SELECT '@'; SELECT 1/0",
    "PREPARE q2 AS SELECT '@' FROM generate_series(1,3)",
    "EXECUTE q1",
    "EXECUTE q1",
    "EXECUTE q2; EXECUTE q1",
    "EXECUTE s1",
    "DEALLOCATE q1",
    "DEALLOCATE s1",
    "DEALLOCATE ALL",
    "DISCARD ALL",
    "BEGIN",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
]
_PREPARED: Final = [
    "SELECT $1::text",
    "SELECT $1::text FROM generate_series(1,3)",
    "SELECT 'shared'",
    "SELECT 1/0",
    "ERROR",
    "",
    "SHOW application_name",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
]
_UNNAMED: Final = [
    *_PREPARED,
    "SET application_name = 'shared'",
    "RESET application_name",
    "PREPARE q1 AS SELECT 'shared'",
    "EXECUTE q1",
    "EXECUTE s1",
    "DEALLOCATE q1",
]
"""Not under a name: what EXECUTE gives may be another thing when it is prepared again."""
_ENDS_GROUP: Final = ("query", "sync", "call")

_names = st.sampled_from(NAMES)
_any_names = st.sampled_from([*NAMES, *NAMES, "q1"])
_portals = st.sampled_from(PORTALS)
_texts = st.sampled_from(_PREPARED)
_limits = st.sampled_from([0, 0, 1, 2, 3])


def _just(*items: Request) -> Strategy:
    return st.just(list(items))


def _parameters(text: str, payload: str = MARK) -> tuple[str, ...]:
    return (payload,) * text.count("$1")


@st.composite
def _unnamed(draw: st.DrawFn) -> list[Request]:
    text, portal = draw(st.sampled_from(_UNNAMED)), draw(_portals)
    requests_: list[Request] = [("parse", "", text), ("bind", "", portal, *_parameters(text))]
    if draw(st.booleans()):
        requests_.append(("describe_portal", portal))
    requests_.append(("execute", portal, draw(_limits)))
    return [*requests_, ("sync",)] if _RESETS.match(text) else requests_


@st.composite
def _named(draw: st.DrawFn) -> list[Request]:
    """Bind and Execute, which may not fit the statement that the name stands for."""
    name, portal = draw(_any_names), draw(_portals)
    parameters = () if name == "q1" else (MARK,) * draw(st.sampled_from([1, 1, 0]))
    return [("bind", name, portal, *parameters), ("execute", portal, draw(_limits))]


@st.composite
def _prepared(draw: st.DrawFn) -> list[Request]:
    name, text = draw(_names), draw(_texts)
    portal = draw(_portals)
    ahead: list[Request] = [("close", name)] if draw(st.booleans()) else []
    return [
        *ahead,
        ("parse", name, text),
        ("bind", name, portal, *_parameters(text)),
        ("execute", portal, draw(_limits)),
    ]


_unit: Strategy = st.one_of(
    _unnamed(),
    _named(),
    _prepared(),
    st.builds(lambda n, t: [("parse", n, t)], _names, _texts),
    st.builds(lambda n: [("describe", n)], st.sampled_from([*NAMES, "q1", ""])),
    st.builds(lambda n: [("close", n)], st.sampled_from([*NAMES, "q1", "", "unknown"])),
    st.builds(lambda p: [("close_portal", p)], _portals),
    st.builds(lambda p, n: [("execute", p, n)], _portals, _limits),
    _just(("bind", "unknown", ""), ("execute", "", 0)),
    _just(("bind", "", ""), ("execute", "", 0)),
    _just(("flush",)),
    _just(("copy_done",)),
)
_end: Strategy = st.one_of(
    _just(("sync",)),
    _just(("sync",)),
    _just(("sync",), ("sync",)),
    _just(("flush",)),
    _just(("call", MARK)),
    st.builds(lambda t: [("query", t)], st.sampled_from(_SIMPLE)),
    _just(),
)


@st.composite
def _copy(draw: st.DrawFn) -> list[Request]:
    """COPY FROM STDIN in either protocol: with Syncs that it ignores, and CopyDone behind an error."""
    extended = draw(st.booleans())
    copy = "COPY sink FROM STDIN"
    begin: list[Request] = [("query", copy)]
    if extended:
        begin = [("parse", "", copy), ("bind", "", ""), ("execute", "", 0)]
        begin += draw(st.sampled_from([[], [("flush",)], [("sync",)], [("sync",), ("sync",)]]))
    good = draw(st.booleans())
    data: list[Request] = [("copy_data", b"1\n"), ("copy_data", b"2\n" if good else b"bad\n")]
    if good and extended and draw(st.booleans()):
        data.insert(1, ("sync",))
    end: Request = ("copy_fail",) if draw(st.integers(0, 3)) == 0 else ("copy_done",)
    return [*begin, *data, end, *([("sync",)] if extended else [])]


_group: Strategy = st.builds(
    lambda units, end: [*(item for unit in units for item in unit), *end],
    st.lists(_unit, min_size=1, max_size=3),
    _end,
)
_long: Strategy = _just(
    ("parse", "", "SELECT $1::text"), ("bind", "", "", f"{MARK}{LONG}"), ("execute", "", 0), ("sync",)
)

_part: Strategy = st.one_of(
    st.builds(lambda t: [("query", t)], st.sampled_from(_SIMPLE)),
    _group,
    _group,
    _copy(),
    st.one_of(_group, _long),
)


@st.composite
def pipelines(draw: st.DrawFn) -> list[Request]:
    """What a client sends without waiting for replies."""
    return [request for part in draw(st.lists(_part, min_size=1, max_size=4)) for request in part]


def restrained(
    pipeline: Iterable[Request], changed: set[str], *, knows_unnamed: bool
) -> tuple[list[Request], set[str]]:
    """The pipeline without what depends on unanswered changes, and the names that it leaves changed.

    `changed` are those that earlier pipelines have, marked if SQL did it. `knows_unnamed` tells that the
    unnamed statement is certain.

    SQL may use what a Query outside of any group prepares, once. It may not use what SQL deallocates or
    prepares otherwise (which may fail), nor what the protocol has changed in an earlier group, and the
    protocol may not use what SQL has changed. A RESET is a group of its own: within one it goes back to the
    server's settings, until the group ends. Neither it nor what names prepared statements stands behind a
    Query that may be skipped.
    """
    kept: list[Request] = []
    before, now = set(changed), set[str]()
    parsed_unnamed = False
    in_group = may_be_skipped = True  # as far as anybody knows
    for request in pipeline:
        kind = request[0]
        uses, prepares, drops = _sql_names(request)
        if kind == "query" and (uses or drops or _RESETS.match(request[1])) and (in_group or may_be_skipped):
            kept.append(("sync",))
            before |= now
            now = set()
            in_group = may_be_skipped = parsed_unnamed = False
        if uses & before or any(_UNSURE + name in before | now for name in uses):
            continue
        if any(_BY_SQL + name in before | now for name in prepares):
            continue
        if kind in ("parse", "bind", "describe", "close"):
            name = request[1]
            if name == "":
                if kind == "parse":
                    parsed_unnamed, knows_unnamed = True, False
                elif kind == "close" or not (parsed_unnamed or (knows_unnamed and not before)):
                    continue
            elif name in before or not {_BY_SQL + name, _UNSURE + name}.isdisjoint(before | now):
                continue
            elif kind in ("parse", "close"):
                now.add(name)
        unsure = drops | (prepares if in_group or kind == "parse" else set())
        now |= {_BY_SQL + name for name in prepares} | {_UNSURE + name for name in unsure}
        kept.append(request)
        may_be_skipped = kind != "sync" and (may_be_skipped or (in_group and kind in _ENDS_GROUP))
        in_group = kind not in _ENDS_GROUP
        if not in_group:
            before |= now
            now = set()
            parsed_unnamed = False
            if kind == "query":
                knows_unnamed = False
    return kept, before | now


def _sql_names(request: Request) -> tuple[set[str], set[str], set[str]]:
    """Names of prepared statements that a text uses; of these, those that it prepares and those that it
    deallocates.
    """
    if request[0] not in ("query", "parse"):
        return set(), set(), set()
    text = request[-1]
    if text.endswith(" ALL"):
        return set(), set(), set() if text.startswith("RESET") else {*NAMES, *_SQL_NAMES}
    words = list(pairwise(text.replace(";", "").split()))
    executes, prepares, drops = (
        {name for word, name in words if word == verb} for verb in ("EXECUTE", "PREPARE", "DEALLOCATE")
    )
    return executes | prepares | drops, prepares, drops


def rendered(request: Request, payload: Callable[[], str]) -> bytes:
    """The bytes of a request."""
    kind, *arguments = request
    match kind:
        case "query":
            return requests.query(arguments[0].replace(MARK, payload()))
        case "parse":
            return requests.parse(*arguments)
        case "bind":
            statement, portal, *parameters = arguments
            values = [value.replace(MARK, payload()).replace(LONG, "." * 100_000) for value in parameters]
            return requests.bind(statement, *values, portal=portal)
        case "call":
            return requests.function_call(payload())
        case "copy_fail":
            return requests.copy_fail("given up")
        case "sync":
            return requests.SYNC
        case "flush":
            return requests.FLUSH
        case "copy_done":
            return requests.COPY_DONE
        case _:
            built: bytes = getattr(requests, kind)(*arguments)
            return built
