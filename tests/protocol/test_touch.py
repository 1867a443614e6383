"""From answers of a database to what is touched: rounds, memory, reasons. Real ones answer in tests/e2e."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.fakesql import data_row
from trio_pool.protocol.catalog import MOST_NAMES
from trio_pool.protocol.reading import Kind, Name
from trio_pool.protocol.touch import Reach, Touches, TouchInquiry
from trio_pool.protocol.touch_question import SQL
from trio_pool.protocol.watch import EVERYTHING, EVERYTHING_AND_SCHEMA, NOTHING_TOUCHED
from trio_pool.protocol.writing import Cause, Event, Target, Writing, written_by

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

Row = tuple[str, str, str, str, str]

DELETES = "DELETE FROM t"
TOUCHED: Row = ("delete", "", "t", "touched", "20000")


def writing(text: str) -> Writing:
    found = written_by(text.encode())
    assert isinstance(found, Writing), found
    return found


def ask(touches: Touches, text: str) -> TouchInquiry:
    inquiry = touches.inquiry(writing(text))
    assert inquiry is not None
    return inquiry


def answer(touches: Touches, text: str, *rows: Row) -> AbstractSet[int] | None:
    """What is known after one round."""
    inquiry = ask(touches, text)
    for kind, schema, name, finding, detail in rows:
        inquiry.row(data_row(kind, schema, name, finding, detail.encode().hex())[5:])
    touches.learn(inquiry)
    touches.inquiry(writing(text))
    return touches.touched(writing(text))


def test_the_question_does_not_depend_on_the_clients_search_path() -> None:
    """Every relation, function, type and operator is PostgreSQL's own; words of SQL's grammar are left."""
    bare = re.sub(r"'[^']*'", "''", SQL)
    calls = set(re.findall(r"(?<![.\w])(\w+)\(", bare))
    assert {call for call in calls if call.islower()} <= {"coalesce"}
    assert re.findall(r"(?<![.\w])pg_(?!catalog\.)\w+", bare) == []
    assert re.findall(r"::(?!pg_catalog\.)", bare) == []
    assert re.findall(r" [-=<>|+/~!@#%^&?]+ ", bare) == []
    assert re.findall(r"\b(?:IN|LIKE|BETWEEN|SIMILAR|CAST|USING)\b", bare) == []


def test_the_first_question_is_about_the_database_too() -> None:
    """Targets and names travel together; the second question is about what is new."""
    touches = Touches()
    assert ask(touches, DELETES).names == {None, Target(Event.DELETE, "", "t"), Name(Kind.RELATION, "", "t")}
    assert answer(touches, DELETES, TOUCHED) == {20000}
    assert ask(touches, "DELETE FROM t USING u").names == {Name(Kind.RELATION, "", "u")}


@pytest.mark.parametrize(
    ("rows", "expected", "why"),
    [
        ([TOUCHED, ("delete", "", "t", "touched", "20001")], {20000, 20001}, ""),
        ([], EVERYTHING, Reach.MISSING),
        ([TOUCHED, ("delete", "", "t", "foreign", "1")], EVERYTHING, Reach.FOREIGN),
        ([TOUCHED, ("delete", "", "t", "code", "pass")], EVERYTHING, Reach.CODE),
        ([TOUCHED, ("delete", "", "t", "code", "drop()")], EVERYTHING_AND_SCHEMA, Reach.CODE),
        ([TOUCHED, ("database", "", "", "code", "")], EVERYTHING, Reach.CODE),
        ([TOUCHED, ("delete", "", "t", "routine", "?")], EVERYTHING, Cause.CODE_OF_USER),
        ([TOUCHED, ("delete", "", "t", "rule", "CREATE RULE r AS ON DELETE TO t DO NOTHING")], {20000}, ""),
    ],
)
def test_what_is_touched(rows: list[Row], expected: AbstractSet[int], why: Reach | Cause | str) -> None:
    """All that a name leads to, and why it is everything."""
    touches = Touches()
    assert answer(touches, DELETES, *rows) == expected
    assert touches.why(writing(DELETES)) == (why if isinstance(why, str) else why.value)


def test_code_is_read_in_turn() -> None:
    """What a trigger's function writes to is asked for, and counts as the statement's own."""
    touches = Touches()
    body = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO u SELECT 1; END'"
    assert answer(touches, DELETES, TOUCHED, ("delete", "", "t", "routine", body)) is None
    assert Target(Event.INSERT, "", "u") in ask(touches, DELETES).names
    assert answer(touches, DELETES, ("insert", "", "u", "touched", "20009")) == {20000, 20009}


def test_functions_that_call_each_other_come_to_an_end() -> None:
    """A closed circle of definitions is gone through once."""
    touches = Touches()
    body = "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT f()'"
    assert answer(touches, "SELECT f()", ("function", "", "f", "routine", body)) == NOTHING_TOUCHED


def test_what_is_everything_by_its_words_needs_no_server() -> None:
    """With the schema, if it may be another one afterwards."""
    touches = Touches()
    assert touches.touched(written_by(b"VACUUM FULL")) == EVERYTHING
    assert touches.touched(written_by(b"DROP TABLE t")) == EVERYTHING_AND_SCHEMA


def test_an_answer_older_than_a_change_is_not_learnt() -> None:
    """Who asked before `clear` asked about another schema."""
    touches = Touches()
    inquiry = ask(touches, DELETES)
    touches.clear()
    touches.learn(inquiry)
    assert touches.inquiry(writing(DELETES)) is not None


def test_memory_is_bounded() -> None:
    """Clients that name what they like make it forget, not grow."""
    touches = Touches()
    for start in range(0, 2 * MOST_NAMES, 100):
        names = frozenset(Name(Kind.RELATION, "", f"t{n}") for n in range(start, start + 100))
        touches.learn(TouchInquiry(names, touches.version))
    assert len(touches._answers) <= MOST_NAMES
