"""Crossings are round trips that somebody waits for, however they are cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.link_crossings import Crossings, Line

if TYPE_CHECKING:
    from bench.link_crossings import Mark


@pytest.fixture
def tally() -> Crossings:
    return Crossings()


@pytest.fixture
def line(tally: Crossings) -> Line:
    return tally.opened()


def go(line: Line) -> None:
    """Something crosses."""
    line.reaches_far(line.leaves_near())


def come(line: Line) -> None:
    """Something comes back."""
    line.reaches_near(line.leaves_far())


def test_there_and_back_is_one(line: Line) -> None:
    """What is sent counts when it is answered."""
    go(line)
    assert line.crossings == 0
    come(line)
    assert line.crossings == 1


def test_pieces_are_one(line: Line) -> None:
    """A request in three pieces and its answer in three are one crossing."""
    for _ in range(3):
        go(line)
    for _ in range(3):
        come(line)
    assert line.crossings == 1


def test_each_turn_counts(line: Line) -> None:
    """What is sent after an answer has come crosses once more."""
    for _ in range(5):
        go(line)
        come(line)
    assert line.crossings == 5


def test_what_is_under_way_together_is_one(line: Line) -> None:
    """A pipeline crosses once, even if its answers come one by one."""
    there = [line.leaves_near() for _ in range(3)]
    back: list[Mark] = []
    for mark in there:
        line.reaches_far(mark)
        back.append(line.leaves_far())
    for mark in back:
        line.reaches_near(mark)
    assert line.crossings == 1


def test_what_is_sent_between_two_pieces_of_an_answer(line: Line) -> None:
    """Three requests, the second and the third sent while the first is being answered: two crossings."""
    go(line)
    first, rest = line.leaves_far(), line.leaves_far()
    line.reaches_near(first)
    second = line.leaves_near()
    line.reaches_near(rest)
    third = line.leaves_near()
    for mark in (second, third):
        line.reaches_far(mark)
    come(line)
    assert line.crossings == 2


def test_what_comes_unasked_is_none(line: Line) -> None:
    """A greeting that nobody has asked for is no crossing."""
    come(line)
    assert line.crossings == 0
    go(line)
    come(line)
    assert line.crossings == 1


def test_connections_are_counted_together(tally: Crossings) -> None:
    """An action that asks on one connection and then, knowing the answer, on another, has waited twice; one
    that asks on both at once, once.
    """
    one, other = tally.opened(), tally.opened()
    tally.begin()
    go(one)
    come(one)
    go(other)
    come(other)
    assert tally.of_action == 2
    tally.begin()
    go(one)
    go(other)
    come(one)
    come(other)
    assert tally.of_action == 1
    assert tally.total == 4


def test_what_was_under_way_is_not_the_next_action(tally: Crossings, line: Line) -> None:
    """An answer to an earlier question is no crossing of an action that sends its own without waiting for it,
    and one more for an action that waits.
    """
    go(line)
    tally.begin()
    request = line.leaves_near()
    come(line)
    assert tally.of_action == 0
    line.reaches_far(request)
    come(line)
    assert tally.of_action == 1

    go(line)
    tally.begin()
    come(line)
    go(line)
    come(line)
    assert tally.of_action == 2
