from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_pool.config.lines import find_lines, line_of

if TYPE_CHECKING:
    from trio_pool.config.problems import KeyPath

DOCUMENT = '''\
# a comment with [brackets] and = signs
title = "a \\" # no comment"

[listen]
addresses = [           # over
  "127.0.0.1:6432",     # several
  # lines
  "[::1]:6432",
]
text = """
[not.a.table]
key = 1 \\""" still
end""""
raw = \'\'\'
[nor.this]\'\'\'\'\'

[ databases . "a.b" ]
origin = 'x'
cache.enabled = true
cache.max_age = "1s"
timeouts = { query = "1s", inner = { cancel = 1979-05-27 07:32:00 } }

[[auth.rules]]
method = "trust"
[auth.rules.sub]
x = 1
[[auth.rules]]
method = "cert"
nested = [[1, 2], [
3]]
'''

LITERALS = st.sampled_from(
    [
        "1",
        "0x1F",
        "inf",
        "true",
        "1979-05-27T07:32:00Z",
        '"x # y"',
        '"\\\\"',
        "'[x]'",
        "'\\'",
        '"""\n[a]\nb = 1\n"""',
        '"""x\\"""""',
        "'''\n[[c]]\n'''",
        "[]",
        "{}",
        "[1, [2, 3], # ]\n{a = ']'}]",
        "{ a.b = [1,\n2], c = '}' }",
    ]
)
KEYS = st.sampled_from(["a", "b-1", '"c d"', "'e.f'", '"g\\"h"', "i.j", 'k . "l"', '""'])


def test_every_key_table_and_element_has_its_line() -> None:
    """Comments, strings and arrays over several lines do not shift the lines of what follows."""
    tomllib.loads(DOCUMENT)
    assert find_lines(DOCUMENT) == {
        ("title",): 2,
        ("listen",): 4,
        ("listen", "addresses"): 5,
        ("listen", "addresses", 0): 6,
        ("listen", "addresses", 1): 8,
        ("listen", "text"): 10,
        ("listen", "raw"): 14,
        ("databases",): 17,
        ("databases", "a.b"): 17,
        ("databases", "a.b", "origin"): 18,
        ("databases", "a.b", "cache"): 19,
        ("databases", "a.b", "cache", "enabled"): 19,
        ("databases", "a.b", "cache", "max_age"): 20,
        ("databases", "a.b", "timeouts"): 21,
        ("databases", "a.b", "timeouts", "query"): 21,
        ("databases", "a.b", "timeouts", "inner"): 21,
        ("databases", "a.b", "timeouts", "inner", "cancel"): 21,
        ("auth",): 23,
        ("auth", "rules"): 23,
        ("auth", "rules", 0): 23,
        ("auth", "rules", 0, "method"): 24,
        ("auth", "rules", 0, "sub"): 25,
        ("auth", "rules", 0, "sub", "x"): 26,
        ("auth", "rules", 1): 27,
        ("auth", "rules", 1, "method"): 28,
        ("auth", "rules", 1, "nested"): 29,
        ("auth", "rules", 1, "nested", 0): 29,
        ("auth", "rules", 1, "nested", 0, 0): 29,
        ("auth", "rules", 1, "nested", 0, 1): 29,
        ("auth", "rules", 1, "nested", 1): 29,
        ("auth", "rules", 1, "nested", 1, 0): 30,
    }


def test_windows_line_ends_count_as_one() -> None:
    """A file written on Windows has the same lines."""
    assert find_lines(DOCUMENT.replace("\n", "\r\n")) == find_lines(DOCUMENT)


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.lists(st.tuples(KEYS, LITERALS), unique_by=lambda pair: pair[0]))
    )
)
def test_lines_agree_with_the_document_whatever_it_holds(
    tables: list[tuple[int, list[tuple[str, str]]]],
) -> None:
    """The scanner finds the keys that tomllib finds, each at the line where it was written."""
    text = ""
    expected: dict[KeyPath, int] = {}
    for number, (blank, pairs) in enumerate(tables):
        text += "\n" * blank + f"[t{number}] # x\n"
        expected[(f"t{number}",)] = text.count("\n")
        for key, literal in pairs:
            path = _first_path(tomllib.loads(f"{key} = 0"))
            expected[(f"t{number}", *path)] = text.count("\n") + 1
            text += f"{key} = {literal}\n"
    lines = find_lines(text)
    assert {path: lines[path] for path in expected} == expected
    assert set(lines) == _paths(tomllib.loads(text))


def _first_path(table: dict[str, object]) -> KeyPath:
    ((key, value),) = table.items()
    return (key, *_first_path(value)) if isinstance(value, dict) else (key,)


def _paths(value: object, at: KeyPath = ()) -> set[KeyPath]:
    """All paths inside a value that tomllib has read."""
    if isinstance(value, dict):
        items: list[tuple[str | int, object]] = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return set()
    return {path for key, item in items for path in {(*at, key), *_paths(item, (*at, key))}}


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("listen", "addresses", 1), 8),
        (("listen", "addresses", 7), 5),
        (("listen", "workers"), 4),
        (("databases", "x", "origin"), 17),
        (("users", "x"), 1),
    ],
)
def test_what_is_not_there_has_the_line_of_the_table_around_it(path: KeyPath, line: int) -> None:
    """A missing key is reported at its table, a missing table at the first line."""
    assert line_of(path, find_lines(DOCUMENT)) == line


@pytest.mark.parametrize("text", ["a = [", "a = {", "a = ", "a", "[a", "[[a]", "a = [1", "= 1"])
def test_a_document_that_is_not_toml_ends_the_scan(text: str) -> None:
    """Even when misused, the scanner ends."""
    with pytest.raises(AssertionError):
        find_lines(text)
