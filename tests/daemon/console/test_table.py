"""How values are written in both formats."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_pool.daemon.console.table import BINARY_FORMAT, TEXT_FORMAT, Column, Type, encoded, formats_of

if TYPE_CHECKING:
    from trio_pool.daemon.console.table import Value

VALUES: dict[Type, st.SearchStrategy[Any]] = {
    Type.BOOL: st.booleans(),
    Type.INT4: st.integers(-(1 << 31), (1 << 31) - 1),
    Type.INT8: st.integers(-(1 << 63), (1 << 63) - 1),
    Type.TEXT: st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    Type.FLOAT8: st.floats(allow_nan=False),
    Type.NUMERIC: st.integers(0, 1 << 80),
}


@pytest.mark.parametrize("form", [TEXT_FORMAT, BINARY_FORMAT])
@pytest.mark.parametrize("kind", VALUES)
@given(data=st.data())
def test_a_driver_reads_what_is_written(data: st.DataObject, kind: Type, form: int) -> None:
    """In the text format and in the binary one."""
    value: Value = data.draw(VALUES[kind])
    written = encoded(value, kind, form)
    assert int.from_bytes(written[:4], "big") == len(written) - 4
    loader = psycopg.adapt.Transformer().get_loader(kind.value[0], psycopg.pq.Format(form))
    expected = Decimal(value) if kind is Type.NUMERIC and value is not None else value
    assert loader.load(written[4:]) == expected


def test_what_is_too_large_becomes_the_largest() -> None:
    """A driver gets a number that it can read, not an error, where PgBouncer's columns are too small."""
    assert encoded(1 << 40, Type.INT4, TEXT_FORMAT)[4:] == b"2147483647"
    assert encoded(1 << 40, Type.INT4, BINARY_FORMAT)[4:] == b"\x7f\xff\xff\xff"


def test_null_has_no_bytes() -> None:
    """Whatever the type and the format."""
    assert {encoded(None, kind, form) for kind in Type for form in (0, 1)} == {b"\xff\xff\xff\xff"}


def test_formats() -> None:
    """None, one for all, or one for each; nothing else."""
    some = (Column("a"), Column("b"))
    assert formats_of((), some) == (0, 0)
    assert formats_of((1,), some) == (1, 1)
    assert formats_of((1, 0), some) == (1, 0)
    for wrong in ((0, 0, 0), (2,)):
        with pytest.raises(ValueError, match="format"):
            formats_of(wrong, some)
