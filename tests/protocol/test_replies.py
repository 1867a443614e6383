"""Edits of a group's replies: what is emitted where, and which callback is called."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_pool.protocol.replies import COMPLETIONS, PLAIN, QUERY, SYNCED, Action, Edit, Effect, Group
from trio_pool.wire.tags import Backend


class Recorder:
    """Edits that write down what became of them."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.undone: list[int] = []

    def edit(self, number: int, position: int, action: Action) -> Edit:
        return Edit(
            position,
            action,
            b"%d" % number,
            undo=lambda: self.undone.append(number),
            done=lambda: self.done.append(number),
        )


def group(edits: list[Edit]) -> Group:
    return Group(edits=edits)


def test_actions_decide_what_is_forwarded() -> None:
    """SWALLOW hides one reply, FORWARD none, FAKE adds one in front of the next."""
    recorder = Recorder()
    actions = [Action.FORWARD, Action.SWALLOW, Action.FAKE, Action.FAKE, Action.SWALLOW]
    positions = [0, 1, 2, 2, 2]
    subject = group([recorder.edit(n, p, a) for n, (p, a) in enumerate(zip(positions, actions, strict=True))])
    assert subject.fakes_due() == b""
    assert subject.complete() is True
    assert subject.complete() is False
    assert subject.fakes_due() == b"23"
    assert subject.complete() is False
    assert subject.complete() is True
    assert (recorder.done, recorder.undone) == ([0, 1, 2, 3, 4], [])


def test_an_error_undoes_the_rest_the_latest_first() -> None:
    """What was answered stays done; nothing is due any more."""
    recorder = Recorder()
    subject = group([recorder.edit(n, n, Action.FORWARD) for n in range(4)])
    subject.complete()
    subject.fail()
    assert (recorder.done, recorder.undone) == ([0], [3, 2, 1])
    assert subject.failed
    assert subject.fakes_due() == b""


@given(st.lists(st.sampled_from(list(Action))), st.integers(0, 12))
def test_each_edit_is_either_done_or_undone(actions: list[Action], completions: int) -> None:
    """Exactly one of the callbacks, exactly once, whenever the group fails."""
    recorder = Recorder()
    edits, position = [], 0
    for number, action in enumerate(actions):
        edits.append(recorder.edit(number, position, action))
        position += action is not Action.FAKE
    subject = group(edits)
    for _ in range(min(completions, position)):
        subject.fakes_due()
        subject.complete()
    subject.undo()
    assert sorted(recorder.done + recorder.undone) == list(range(len(actions)))


def test_effects_are_applied_when_their_commands_complete() -> None:
    """By command tags, those of one tag in sequence; what never completes has no effect."""
    seen: list[str] = []
    tags = [b"LOAD\0", b"PREPARE\0", b"PREPARE\0", b"DEALLOCATE\0"]
    names = ["load", "first", "second", "deallocate"]
    effects = [Effect(tag, partial(seen.append, name)) for tag, name in zip(tags, names, strict=True)]
    subject = Group(effects=effects)
    for tag in (b"SELECT 1\0", b"PREPARE\0", b"LOAD\0", b"DEALLOCATE ALL\0", b"PREPARE\0", b"PREPARE\0"):
        subject.completed(tag)
    assert seen == ["first", "load", "second"]


def test_a_group_that_ends_another_has_what_that_had() -> None:
    """When the server ignores a Sync."""
    recorder = Recorder()
    first, second = group([recorder.edit(1, 0, Action.FORWARD)]), group([recorder.edit(2, 1, Action.FORWARD)])
    second.effects = [Effect(b"PREPARE\0", lambda: None)]
    second.explained = second.unknown = True
    second.excuse = b"excuse"
    first.absorb(second)
    assert (len(first.edits), len(first.effects), first.excuse) == (2, 1, b"excuse")
    assert (first.explained, first.unknown) == (True, True)


def test_the_shared_groups_are_never_edited() -> None:
    """They stand for every plain group of every server."""
    assert {id(QUERY), id(SYNCED)} == PLAIN
    assert (QUERY.by_query, SYNCED.by_query) == (True, False)
    for plain in (QUERY, SYNCED):
        plain.undo()
        assert (plain.edits, plain.seen, plain.failed) == ([], 0, False)


@pytest.mark.parametrize(
    "tag",
    [
        Backend.DATA_ROW,
        Backend.PARAMETER_DESCRIPTION,
        Backend.READY_FOR_QUERY,
        Backend.ERROR_RESPONSE,
        Backend.COPY_DONE,
    ],
)
def test_only_the_last_reply_of_a_request_completes_it(tag: int) -> None:
    """Rows, the parameters in front of a description, and what ends a group do not count."""
    assert tag not in COMPLETIONS
