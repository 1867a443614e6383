"""Directives in comments."""

from __future__ import annotations

import pytest

from trio_pool.cache.plan import NO_DIRECTIVES, Directives, directives_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"select 1", NO_DIRECTIVES),
        (b"/* trio-pool: cache=off */ select 1", Directives(off=True)),
        (b"/* trio-pool: cache=on */ select 1", Directives()),
        (b"select 1 -- trio-pool: max_age=5s", Directives(max_age=5.0)),
        (b"/*trio-pool:max_age=500ms,tag=a,tag=b*/ select 1", Directives(max_age=0.5, tags=frozenset("ab"))),
        (b"/* trio-pool: stale_while_revalidate=0 */", Directives(stale=0.0)),
        (b"/* trio-pool: stale_while_revalidate=1min */", Directives(stale=60.0)),
        (b"/* trio-pool: tag=a */ select 1 /* trio-pool: tag=b */", Directives(tags=frozenset("ab"))),
        (b"/* of trio-pool: no directive */ select 1", NO_DIRECTIVES),
    ],
)
def test_directives(text: bytes, expected: Directives) -> None:
    """Where they may stand, and what they mean."""
    assert directives_of(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        b"/* trio-pool: cache=of */",
        b"/* trio-pool: maxage=5s */",
        b"/* trio-pool: max_age=5 */",
        b"/* trio-pool: max_age=0 */",
        b"/* trio-pool: tag=a b */",
        b"/* trio-pool: */",
        b"/* trio-pool: cache=off, cache=on, tag= */",
    ],
)
def test_what_is_not_understood_turns_the_cache_off(text: bytes) -> None:
    """Somebody wanted something: what is served from memory all the same could be wrong."""
    assert directives_of(text).off
