from __future__ import annotations

import pytest

from trio_pool.migration.problems import CannotImport
from trio_pool.migration.userlist import parse_userlist


def secrets(text: str) -> dict[str, str]:
    return {name: stored.secret for name, stored in parse_userlist(text, "users").items()}


def test_users_and_their_passwords() -> None:
    """What stands behind the second field does not count, nor do comments; the last line of a name does."""
    text = '; comment\n\n"a" "1"  rest\n  "b ""q""" "p""w"\n"c" ""\n"a" "2"\n'
    assert secrets(text) == {"a": "2", 'b "q"': 'p"w', "c": ""}


def test_an_empty_file_has_no_users() -> None:
    """White space neither."""
    assert secrets("\n  \n") == {}


@pytest.mark.parametrize("text", ['"a" "1"\nnobody secret\n', '"a" "1"\n"b secret\n'])
def test_a_broken_line_is_named_without_its_password(text: str) -> None:
    """By file and line."""
    with pytest.raises(CannotImport) as caught:
        secrets(text)
    assert str(caught.value).startswith("users:2: ")
    assert "secret" not in str(caught.value)


def test_a_password_does_not_show() -> None:
    """Not in a traceback or a log."""
    assert "hidden" not in repr(parse_userlist('"a" "hidden"', "users"))
