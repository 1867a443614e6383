"""Texts without their strings: two have the same skeleton only if they write to the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_pool.protocol.skeleton import skeleton
from trio_pool.protocol.writing import Everything, written_by

SAME = [
    (b"INSERT INTO t VALUES (1, 'a')", b"INSERT INTO t VALUES (7, 'another')"),
    (b"UPDATE t SET a = 'it''s' WHERE b = 'x'", b"UPDATE t SET a = 'b''c' WHERE b = 'yy'"),
    (b"""UPDATE "t" SET "a" = 'x'""", b"""UPDATE "t" SET "a" = 'y'"""),
]
DIFFERENT = [
    (b"UPDATE t1 SET a = 'x'", b"UPDATE t2 SET a = 'x'"),
    (b"""UPDATE "t1" SET a = 'x'""", b"""UPDATE "t2" SET a = 'x'"""),
    (b"""UPDATE "a'" SET b = 'x'""", b"""UPDATE "b'" SET b = 'x'"""),
]
UNKNOWN = [
    b"SELECT 1",
    b"UPDATE t SET a = 'x' -- it's",
    b"UPDATE t SET a = $$it's$$",
    b"UPDATE t SET a = E'\\''",
    b"/* ' */ UPDATE t SET a = 'x'",
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_texts_that_differ_in_values_have_one_skeleton(one: bytes, other: bytes) -> None:
    """What is remembered of one holds for the other."""
    assert skeleton(one) == skeleton(other) is not None


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_names_are_no_values(one: bytes, other: bytes) -> None:
    """Quoted or not, with quotes in them or not."""
    assert skeleton(one) != skeleton(other)


@pytest.mark.parametrize("text", UNKNOWN)
def test_where_a_quote_may_be_none_there_is_no_skeleton(text: bytes) -> None:
    """Comments, dollars, escapes; and texts without strings."""
    assert skeleton(text) is None


PIECES = st.sampled_from([b"'", b"''", b'"', b"a", b"t1", b"t2", b" ", b"1", b"x", b",", b"="])


@given(tails=st.tuples(st.lists(PIECES, max_size=8), st.lists(PIECES, max_size=8)))
def test_one_skeleton_means_one_writing(tails: tuple[list[bytes], list[bytes]]) -> None:
    """Whatever is put together: if both are understood, they write to the same."""
    one, other = (b"UPDATE t SET a = 'x' WHERE b = " + b"".join(tail) for tail in tails)
    bare = skeleton(one)
    if bare is not None and bare == skeleton(other):
        found, also = written_by(one), written_by(other)
        assert found == also or isinstance(found, Everything) or isinstance(also, Everything)
