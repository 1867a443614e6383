"""From answers of a database to verdicts: rounds, memory, doubts. Real databases answer in tests/e2e."""

from __future__ import annotations

import re

import pytest

from tests.support.fakesql import data_row
from tests.support.requests import SYNC, close
from trio_pool.protocol import settings
from trio_pool.protocol.catalog import (
    MOST_NAMES,
    Catalog,
    Doubt,
    Inquiry,
    Verdict,
    Volatility,
    settles_parameters,
)
from trio_pool.protocol.catalog_question import SQL
from trio_pool.protocol.reading import Kind, Name, Reading, read

TABLE = ("relation", "", "t", "table", "20000")
EQUAL = [("operator", "", "=", "immutable", ""), ("operator", "", "=", "settled", "")]


def reading(text: str) -> Reading:
    found = read(text.encode())
    assert isinstance(found, Reading), found
    return found


def row(kind: str, schema: str, name: str, finding: str, detail: str) -> bytes:
    return data_row(kind, schema, name, finding, detail.encode().hex())[5:]


def ask(catalog: Catalog, text: str) -> Inquiry:
    inquiry = catalog.inquiry(reading(text))
    assert inquiry is not None
    return inquiry


def answer(catalog: Catalog, text: str, *rows: tuple[str, str, str, str, str]) -> Verdict | None:
    """The verdict after one round."""
    inquiry = ask(catalog, text)
    for values in rows:
        inquiry.row(row(*values))
    catalog.learn(inquiry)
    assert catalog.verdict(reading(text)) is None
    catalog.inquiry(reading(text))
    return catalog.verdict(reading(text))


# -- the question --------------------------------------------------------------------------------------------


def test_the_question_is_one_query_of_ours() -> None:
    """Names travel as one parameter; the first time it asks for what runs without a name, too."""
    catalog = Catalog()
    expected = "database\t\t\noperator\t\t=\nrelation\ts\tt"
    inquiry = ask(catalog, "SELECT * FROM s.t WHERE a = 1")
    assert inquiry.request.endswith(settings.run(SQL, [expected]) + close("") + SYNC)
    catalog.learn(inquiry)
    assert ask(catalog, "SELECT 1 FROM u").names == {Name(Kind.RELATION, "", "u")}


def test_the_question_does_not_depend_on_the_clients_search_path() -> None:
    """Every relation, function, type and operator is PostgreSQL's own; words of SQL's grammar are left."""
    bare = re.sub(r"'[^']*'", "''", SQL)
    assert set(re.findall(r"(?<![.\w])(\w+)\(", bare)) <= {"OPERATOR", "coalesce"}
    assert re.findall(r"(?<![.\w])pg_(?!catalog\.)\w+", bare) == []
    assert re.findall(r"::(?!pg_catalog\.)", bare) == []
    assert re.findall(r" [-=<>|+/~!@#%^&?]+ ", bare) == []
    assert re.findall(r"\b(?:IN|LIKE|BETWEEN|SIMILAR|CAST|USING)\b", bare) == []


# -- verdicts ------------------------------------------------------------------------------------------------


def test_a_table_and_an_operator_are_proven() -> None:
    """With the tables that are read; a built-in operator that depends on settings holds for ever."""
    verdict = answer(Catalog(), "SELECT * FROM t WHERE a = 1", TABLE, *EQUAL)
    assert verdict == Verdict(True, Volatility.IMMUTABLE, tables=frozenset({20000}))


@pytest.mark.parametrize(
    ("text", "rows", "volatility"),
    [
        ("SELECT f()", [("function", "", "f", "immutable", "")], Volatility.IMMUTABLE),
        ("SELECT f()", [("function", "", "f", "declared", "")], Volatility.STABLE),
        ("SELECT now()", [("function", "", "now", "stable", "")], Volatility.STABLE),
        ("SELECT to_char(a, b)", [("function", "", "to_char", "stable", "")], Volatility.IMMUTABLE),
        ("SELECT to_char(a, b)", [("function", "", "to_char", "declared", "")], Volatility.STABLE),
        ("SELECT current_date", [], Volatility.STABLE),
    ],
)
def test_volatility(text: str, rows: list[tuple[str, str, str, str, str]], volatility: Volatility) -> None:
    """Stable is what depends on the moment; what depends on settings is not."""
    assert answer(Catalog(), text, *rows) == Verdict(True, volatility)


@pytest.mark.parametrize(
    ("kind", "finding", "doubt"),
    [
        ("function", "volatile", Doubt.VOLATILE),
        ("function", "unreadable", Doubt.UNREADABLE),
        ("function", "input", Doubt.INPUT),
        ("relation", "foreign", Doubt.FOREIGN),
        ("relation", "temporary", Doubt.TEMPORARY),
        ("relation", "kind", Doubt.KIND),
    ],
)
def test_one_bad_meaning_of_a_name_is_enough(kind: str, finding: str, doubt: Doubt) -> None:
    """Whatever else it means, and in whatever order the rows come; the verdict names it."""
    good = "immutable" if kind == "function" else "table"
    rows = [(kind, "", "x", good, "1"), (kind, "", "x", finding, "1"), (kind, "", "x", good, "2")]
    text = "SELECT x(1, 2)" if kind == "function" else "SELECT * FROM x"
    verdict = answer(Catalog(), text, *rows)
    assert verdict == Verdict(False, doubt=doubt, name=Name(Kind(kind), "", "x"))


def test_what_does_not_exist_is_not_proven() -> None:
    """But for names that may be something else."""
    verdict = answer(Catalog(), "SELECT * FROM x")
    assert verdict == Verdict(False, doubt=Doubt.MISSING, name=Name(Kind.RELATION, "", "x"))
    verdict = answer(Catalog(), "WITH x AS (SELECT 1) SELECT x.y FROM x")
    assert verdict == Verdict(True, Volatility.IMMUTABLE)


def test_what_runs_unnamed_is_minded_everywhere() -> None:
    """One cast that is not harmless, and nothing in its database is proven."""
    verdict = answer(Catalog(), "SELECT 1", ("database", "", "", "volatile", ""))
    assert verdict == Verdict(False, doubt=Doubt.DATABASE)


def test_texts_behind_names_are_read_in_turn() -> None:
    """A view's names are asked for in a second round, and count as the statement's own."""
    catalog = Catalog()
    view = [("relation", "", "v", "view", "20001"), ("relation", "", "v", "text", " SELECT f(), t.a FROM t;")]
    assert answer(catalog, "SELECT * FROM v", *view) is None
    inquiry = ask(catalog, "SELECT * FROM v")
    assert inquiry.names == {
        Name(Kind.FUNCTION, "", "f"),
        Name(Kind.RELATION, "", "t"),
        Name(Kind.ATTRIBUTE, "", "a"),
    }
    verdict = answer(catalog, "SELECT * FROM v", TABLE, ("function", "", "f", "stable", ""))
    assert verdict == Verdict(True, Volatility.STABLE, tables=frozenset({20000, 20001}))


def test_texts_that_are_no_readings_are_not_proven() -> None:
    """A view that locks; a check that nobody understands."""
    view = ("relation", "", "v", "text", " SELECT t.a FROM t FOR UPDATE;")
    verdict = answer(Catalog(), "SELECT * FROM v", view)
    assert verdict == Verdict(False, doubt=Doubt.TEXT, name=Name(Kind.RELATION, "", "v"))
    check = ("type", "", "d", "check", "CHECK ((VALUE > f(1, 2))) NOT VALID")
    catalog = Catalog()
    assert answer(catalog, "SELECT 1::d", check) is None
    assert Name(Kind.FUNCTION, "", "f") in ask(catalog, "SELECT 1::d").names


def test_functions_that_call_each_other_come_to_an_end() -> None:
    """A closed circle of texts is gone through once."""
    catalog = Catalog()
    one = ("function", "", "f", "text", "SELECT g(1, 2)")
    other = ("function", "", "g", "text", "SELECT f()")
    assert answer(catalog, "SELECT f()", one) is None
    assert answer(catalog, "SELECT f()", other) == Verdict(True, Volatility.IMMUTABLE)


# -- memory --------------------------------------------------------------------------------------------------


def test_names_are_asked_for_once() -> None:
    """A statement of known names needs no server."""
    catalog = Catalog()
    answer(catalog, "SELECT * FROM t WHERE a = 1", TABLE, *EQUAL)
    assert catalog.inquiry(reading("SELECT 2 = 2 FROM t")) is None
    assert catalog.verdict(reading("SELECT 2 = 2 FROM t")) is not None


def test_an_answer_older_than_a_change_is_not_learnt() -> None:
    """Who asked before `clear` asked about another schema."""
    catalog = Catalog()
    inquiry = ask(catalog, "SELECT * FROM t")
    inquiry.row(row(*TABLE))
    catalog.clear()
    catalog.learn(inquiry)
    assert ask(catalog, "SELECT * FROM t").names == inquiry.names
    assert catalog.version == 1


def test_a_change_takes_verdicts_away() -> None:
    """Nothing that was proven is proven behind `clear`."""
    catalog = Catalog()
    answer(catalog, "SELECT * FROM t", TABLE)
    catalog.clear()
    assert catalog.verdict(reading("SELECT * FROM t")) is None


def test_memory_is_bounded() -> None:
    """Clients that name what they like make it forget, not grow."""
    catalog = Catalog()
    for start in range(0, 2 * MOST_NAMES, 100):
        names = frozenset(Name(Kind.RELATION, "", f"t{n}") for n in range(start, start + 100))
        catalog.learn(Inquiry(names, catalog.version))
    assert len(catalog._answers) <= MOST_NAMES


def test_types_of_parameters() -> None:
    """A type of a user may run anything when a parameter comes in, if there is one."""
    assert settles_parameters(reading("SELECT $1"), [0, 23])
    assert not settles_parameters(reading("SELECT $1"), [0, 16384])
    assert settles_parameters(reading("SELECT 1"), [16384])
