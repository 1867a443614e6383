"""Statements by content, what a server has of them, and changes under way."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_pool.protocol.pending import Pending
from trio_pool.protocol.prepared import ServerStatements
from trio_pool.protocol.replies import Action, Edit, Group
from trio_pool.protocol.settings import intern
from trio_pool.protocol.statements import Statement, StatementRegistry


def settle(edit: Edit, *, done: bool) -> None:
    callback = edit.done if done else edit.undo
    assert callback is not None
    callback()


# -- the registry --------------------------------------------------------------------------------------------


def test_a_content_has_one_statement() -> None:
    """With one name of ours; other contents have others."""
    registry = StatementRegistry(b"_p_")
    first = registry.get(b"SELECT 1\0\0\0")
    assert registry.get(b"SELECT 1\0\0\0") is first
    other = registry.get(b"SELECT 1\0\0\1\0\0\0\x17")
    assert (first.name, other.name) == (b"_p_1", b"_p_2")


def test_what_changes_the_meaning_of_a_text_is_part_of_its_content() -> None:
    """search_path, who the session is, how texts are read; nothing else."""
    registry = StatementRegistry(b"_p_")
    rest = b"SELECT 1\0\0\0"
    plain, there = registry.get(rest), registry.get(rest, intern({"search_path": "a"}))
    assert registry.get(rest, intern({"work_mem": "4MB"})) is plain
    assert registry.get(rest, intern({"search_path": "a", "work_mem": "4MB"})) is there
    assert len({plain.name, there.name, registry.get(rest, intern({"role": "r"})).name}) == 3


def test_a_private_statement_is_nobody_elses() -> None:
    """And remembers how its text was read, if that is known."""
    registry = StatementRegistry(b"_p_")
    latin = intern({"client_encoding": "LATIN1"})
    private = registry.make(b"x", latin)
    assert registry.get(b"x") is not private
    assert registry.proven(b"x") is None
    assert (private.reading, registry.make(b"x").reading) == (latin, None)
    assert registry.get(b"x", intern({"client_encoding": "LATIN1", "search_path": "a"})).reading is latin


def test_nobody_has_the_name_of_nobody() -> None:
    """A request that is to fail names it."""
    registry = StatementRegistry(b"_p_")
    assert registry.nobody == b"_p_none"
    assert registry.get(b"x").name != registry.nobody


def test_nobodys_statements_are_forgotten() -> None:
    """The registry keeps none alive (hazard E7), and never gives a name twice."""
    registry = StatementRegistry(b"_p_")
    registry.get(b"SELECT 1\0\0\0")
    gc.collect()
    assert len(registry) == 0
    assert registry.get(b"SELECT 1\0\0\0").name == b"_p_2"


def test_only_accepted_statements_are_proven() -> None:
    """A text is not taken for good because a client tried it."""
    registry = StatementRegistry(b"_p_")
    statement = registry.get(b"x")
    assert registry.proven(b"x") is None
    server = ServerStatements(10)
    settle(server.parse(statement, Group()), done=False)
    assert registry.proven(b"x") is None
    settle(server.parse(statement, Group()), done=True)
    assert registry.proven(b"x") is statement
    assert registry.proven(b"y") is None


def test_renewed_statements_are_others() -> None:
    """After plans have changed, the same text gets another name; who has the old one keeps it."""
    registry = StatementRegistry(b"_p_")
    old = registry.get(b"x")
    registry.renew()
    assert registry.get(b"x") is not old


# -- what a server has ---------------------------------------------------------------------------------------

A, B, C = (Statement(name, name) for name in (b"a", b"b", b"c"))


def test_a_statement_under_way_may_be_relied_upon_in_its_own_group_only() -> None:
    """What relies on it there is skipped with it; elsewhere nobody knows."""
    server, group = ServerStatements(10), Group()
    edit = server.parse(A, group)
    assert server.has(A, group)
    assert not server.has(A, None)
    assert not server.has(A, Group())
    settle(edit, done=True)
    assert server.has(A, None)
    assert not server.unconfirmed


@pytest.mark.parametrize("done", [True, False])
def test_a_skipped_change_has_not_happened(done: bool) -> None:
    """Neither Parse nor Close."""
    server = ServerStatements(10)
    settle(server.parse(A, Group()), done=done)
    assert (A in server.present) is done
    settle(server.parse(A, Group()), done=True)
    settle(server.close(A, Group()), done=done)
    assert (A in server.present) is not done


def test_the_least_recently_used_goes_first() -> None:
    """Being asked for counts as use."""
    server = ServerStatements(2)
    for statement in (A, B):
        settle(server.parse(statement, Group()), done=True)
    assert server.has(A, None)
    assert server.overflow() == [B]
    settle(server.close(B, Group()), done=True)
    assert server.overflow() == []


def test_parse_and_close_in_one_failed_group_leave_nothing() -> None:
    """A statement that was made and evicted behind an error was never there."""
    server, group = ServerStatements(1), Group()
    edits = [server.parse(A, group), server.close(A, group)]
    for edit in reversed(edits):
        settle(edit, done=False)
    assert (len(server), server.unconfirmed) == (0, {})


def test_everything_forgotten_but_what_was_sent_later() -> None:
    """DISCARD ALL is answered in front of a Parse that was sent behind it."""
    server = ServerStatements(10)
    settle(server.parse(A, Group()), done=True)
    group = Group()
    later = server.parse(B, group)
    server.clear()
    assert not server.has(A, None)
    assert server.has(B, group)
    settle(later, done=True)
    assert server.has(B, None)


def test_everything_forgotten_stays_so_when_a_later_close_is_skipped() -> None:
    """What the Close would have closed was gone already."""
    server = ServerStatements(10)
    settle(server.parse(A, Group()), done=True)
    later = server.close(A, Group())
    server.clear()
    settle(later, done=False)
    assert not server.has(A, None)


# -- changes under way ---------------------------------------------------------------------------------------

_groups = st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=4), st.integers(0, 4)), max_size=6)


@given(_groups, st.integers(0, 6))
def test_assumptions_end_where_the_truth_is(groups: list[tuple[list[int], int]], ahead: int) -> None:
    """Whichever part of each group succeeds, and however many groups are sent ahead of their answers."""
    truth, assumed = -1, {"key": -1}
    pending: Pending[str, int] = Pending(assumed.__setitem__)
    unanswered: list[tuple[list[Edit], list[int], int]] = []

    def answer() -> None:
        nonlocal truth
        edits, values, succeeding = unanswered.pop(0)
        for edit, value in zip(edits[:succeeding], values, strict=False):
            truth = value
            settle(edit, done=True)
        for edit in reversed(edits[succeeding:]):
            settle(edit, done=False)

    for values, succeeding in groups:
        edits = []
        for value in values:
            edits.append(Edit(0, Action.FORWARD))
            pending.begin("key", assumed["key"], value, edits[-1])
            assert assumed["key"] == value
        unanswered.append((edits, values, succeeding))
        if len(unanswered) > ahead:
            answer()
    while unanswered:
        answer()
    assert assumed["key"] == truth
    assert "key" not in pending


def test_callbacks_that_an_edit_has_already_are_called_as_well() -> None:
    """Two parties may want to know."""
    calls: list[str] = []
    for done in (True, False):
        edit = Edit(0, Action.FORWARD, undo=lambda: calls.append("undo"), done=lambda: calls.append("done"))
        Pending[str, int](lambda key, value: None).begin("key", 0, 1, edit)
        settle(edit, done=done)
    assert calls == ["done", "undo"]
