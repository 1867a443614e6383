"""The store: bounded by bytes, and the least useful leave first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trio_pool.cache.plan import Plan
from trio_pool.cache.shelf import Shelf
from trio_pool.cache.store import Entry, Store
from trio_pool.protocol.settings import NONE

PLAN = Plan(None, 60.0, 15.0, (1,))


def entry(shelf: Shelf, key: bytes, size: int, *, credit: int = 0, until: float = 60.0) -> Entry:
    return Entry(
        shelf,
        key,
        b"",
        fresh_until=until,
        stale_until=until,
        plan=PLAN,
        stamp=0,
        seen=0,
        credit=credit,
        size=size,
        statement=None,
    )


@given(sizes=st.lists(st.integers(1, 400), max_size=200), limit=st.integers(400, 2000))
def test_it_never_holds_more_than_it_may(sizes: list[int], limit: int) -> None:
    """And what it says that it holds is what it holds."""
    store, shelf = Store(limit), Shelf(NONE, NONE)
    for number, size in enumerate(sizes):
        store.put(entry(shelf, b"%d" % (number % 50), size, credit=number % 4), 0.0)
        assert store.size <= limit
        assert store.size == sum(one.size for one in shelf.entries.values())
        assert len(store) == len(shelf.entries)


def test_what_is_used_stays() -> None:
    """A scan of answers that are used once does not push out what is used again and again."""
    store, shelf = Store(100), Shelf(NONE, NONE)
    useful = entry(shelf, b"useful", 10)
    store.put(useful, 0.0)
    for number in range(1000):
        if number % 5 == 0:
            useful.credit = 3
        store.put(entry(shelf, b"%d" % number, 10), 0.0)
    assert shelf.entries[b"useful"] is useful
    assert store.evicted == 1000 - 9


def test_what_is_out_of_date_leaves_first() -> None:
    """Whatever its credit."""
    store, shelf = Store(20), Shelf(NONE, NONE)
    store.put(entry(shelf, b"old", 10, credit=3, until=1.0), 0.0)
    store.put(entry(shelf, b"young", 10), 0.0)
    store.put(entry(shelf, b"new", 10), 2.0)
    assert set(shelf.entries) == {b"young", b"new"}
    assert store.evicted == 0


def test_a_new_answer_takes_the_place_of_the_old() -> None:
    """It is counted once."""
    store, shelf = Store(100), Shelf(NONE, NONE)
    first, second = entry(shelf, b"key", 30), entry(shelf, b"key", 40)
    store.put(first, 0.0)
    store.put(second, 0.0)
    assert (store.size, len(store)) == (40, 1)
    store.drop(first)
    assert shelf.entries[b"key"] is second
    store.purge(lambda entry: True)
    assert (store.size, len(store), shelf.entries) == (0, 0, {})


def test_a_smaller_store_lets_go() -> None:
    """As after a reload."""
    store, shelf = Store(100), Shelf(NONE, NONE)
    for number in range(10):
        store.put(entry(shelf, b"%d" % number, 10, credit=2), 0.0)
    store.resize(35)
    assert store.size <= 35
