"""Counters of writes: a stamp changes with every write to what it is of, whoever writes."""

from __future__ import annotations

from mmap import mmap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_pool.cache.freshness import EVERYTHING, Counters, Freshness

OIDS = st.frozensets(st.integers(16384, 4_000_000_000), min_size=1, max_size=6)


def freshness() -> Freshness:
    return Freshness(Counters.of_this_process(), "host:5432/app")


@given(reads=OIDS, writes=OIDS)
def test_a_write_to_a_table_that_is_read_changes_the_stamp(
    reads: frozenset[int], writes: frozenset[int]
) -> None:
    """It never stays the same if they have a table in common."""
    known = freshness()
    slots = known.slots_of(reads)
    before, any_before = known.stamp(slots), known.counters.any
    known.invalidate(writes)
    assert known.counters.any != any_before
    if reads & writes:
        assert known.stamp(slots) != before


@given(reads=OIDS)
def test_a_write_to_everything_changes_every_stamp(reads: frozenset[int]) -> None:
    """As when nobody can tell what a statement does."""
    known = freshness()
    before = known.stamp(known.slots_of(reads))
    known.invalidate(frozenset({EVERYTHING}))
    assert known.stamp(known.slots_of(reads)) != before


def test_a_write_elsewhere_changes_nothing() -> None:
    """Tables, and databases, do not end each other's answers, unless they share a slot: these do not."""
    counters = Counters.of_this_process()
    one, other = Freshness(counters, "host:5432/one"), Freshness(counters, "host:5432/other")
    slots = one.slots_of(frozenset({20000}))
    before = one.stamp(slots)
    one.invalidate(frozenset({20001}))
    other.invalidate(frozenset({20000, 20001, EVERYTHING}))
    assert one.stamp(slots) == before


def test_tags_are_ended_alone() -> None:
    """Purging one says nothing of another, nor of tables."""
    known = freshness()
    tagged = known.slots_of(frozenset({20000}), frozenset({"prices"}))
    plain = known.slots_of(frozenset({20000}), frozenset({"names"}))
    before, plain_before = known.stamp(tagged), known.stamp(plain)
    known.purge_tag("prices")
    assert known.stamp(tagged) != before
    assert known.stamp(plain) == plain_before


@pytest.mark.parametrize("tables", [{20000}, {EVERYTHING}])
def test_what_is_in_doubt_is_not_kept_until_it_is_settled(tables: set[int]) -> None:
    """A write that was cut off may take effect for a while."""
    known = freshness()
    slots, other = known.slots_of(frozenset({20000})), known.slots_of(frozenset({20001}))
    before = known.stamp(slots)
    known.doubt(frozenset(tables), 100.0, 60.0)
    assert known.stamp(slots) != before
    assert not known.is_settled(slots, 100.0)
    assert not known.is_settled(slots, 159.9)
    assert known.is_settled(slots, 160.1)
    assert known.is_settled(other, 100.0) == (EVERYTHING not in tables)


def test_processes_see_each_others_writes() -> None:
    """Each writes to its own row, and reads them all; so no count is lost."""
    from mmap import mmap

    memory = mmap(-1, Counters.size(3))
    views = [Freshness(Counters(memory, 3, row), "origin", ahead=float(row)) for row in range(3)]
    slots = views[0].slots_of(frozenset({20000}))
    for writer in views:
        before = [(view.stamp(slots), view.counters.any) for view in views]
        writer.invalidate(frozenset({20000}))
        after = [(view.stamp(slots), view.counters.any) for view in views]
        assert len(set(after)) == 1
        assert all(one != other for one, other in zip(before, after, strict=True))
    views[0].doubt(frozenset({20000}), 100.0, 10.0)
    assert not views[2].is_settled(slots, 105.0)
    assert views[2].is_settled(slots, 109.0)


def test_several_processes_count_together() -> None:
    """In rows of one memory: each sees what the others have counted, and that it was them."""
    memory = mmap(-1, Counters.size(3))
    first, second, third = (Freshness(Counters(memory, 3, own), "origin") for own in range(3))
    slots = first.slots_of(frozenset({7, 8}))
    before, nothing = first.stamp(slots), first.counters.others()
    second.invalidate(frozenset({7}))
    third.invalidate(frozenset({8}))
    assert first.stamp(slots) == before + 2
    assert second.stamp(slots) == before + 2
    changed = {
        at for at, pair in enumerate(zip(nothing, first.counters.others(), strict=True)) if len({*pair}) > 1
    }
    assert changed == {0, *slots[1:]}
    first.invalidate(frozenset({7}))
    assert bytes(first.counters.others()) == bytes(Freshness(Counters(memory, 3, 0), "x").counters.others())


def test_slots_under_the_salt_of_another_daemon() -> None:
    """What it tells by its own slots ends what depends on the same tables here, and nothing else."""
    here, there = (
        Freshness(Counters.of_this_process(), "here"),
        Freshness(Counters.of_this_process(), "there"),
    )
    version = here.schema
    here.adopt(there.salts[0])
    assert here.schema > version
    mine, others = here.slots_of(frozenset({7})), here.slots_of(frozenset({8}))
    stamps = here.stamp(mine), here.stamp(others)
    here.end(there.slots_of(frozenset({7}))[1:])
    assert (here.stamp(mine) > stamps[0], here.stamp(others)) == (True, stamps[1])
    here.end(there.slots_of(frozenset({EVERYTHING})))
    assert here.stamp(others) > stamps[1]


@given(
    oids=st.frozensets(st.integers(1, 2**32 - 1), min_size=1),
    tags=st.frozensets(st.text(max_size=9)),
    origin=st.text(),
    other=st.integers(0, 2**32 - 1),
)
def test_no_table_is_taken_for_everything_or_for_the_schema(
    oids: frozenset[int], tags: frozenset[str], origin: str, other: int
) -> None:
    """Whoever writes to such a table would empty the whole cache each time, as long as the daemon lives."""
    freshness = Freshness(Counters.of_this_process(), origin)
    freshness.adopt(other)
    before = freshness.schema, freshness.stamp(freshness.slots_of(frozenset()))
    freshness.invalidate(oids)
    for tag in tags:
        freshness.purge_tag(tag)
    assert (freshness.schema, freshness.stamp(freshness.slots_of(frozenset()))) == before
