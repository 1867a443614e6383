"""Which ReadyForQuery a server still owes, from what was sent to it (`replies` says what a group is).

COPY FROM STDIN has a trap: the server ignores a Sync that arrives while it copies, so a Sync sent right
behind Execute (libpq does that) will not be answered. `copy_began` merges its group into the next then. The
same goes for a Query sent in a group that is still open: if something in front of it failed, the Query is
skipped and answered by nothing.

Groups are numbered: `answered` is the number of the one at the head of the queue, `sending` of the one that
is being sent. The numbers tell whether a CopyDone was sent before or behind a Sync.

A deferred BEGIN travels in front of the first group of its transaction, without a ReadyForQuery of its own.
What becomes of it is nearly always the same, so nothing is allocated for it: three shared groups stand for
"behind a BEGIN", and are spelled out as edits (`opened`, `head`) only when something else comes to pass.
"""

from __future__ import annotations

from collections import deque

from trio_pool.protocol.replies import (
    BEGIN_REQUESTS,
    BEGUN_QUERY,
    BEGUN_SYNCED,
    OPENING,
    PLAIN,
    QUERY,
    SYNCED,
    Action,
    Edit,
    Errand,
    Group,
)


class ReplyQueue:
    """Groups in the order in which they will be answered, and the one that is being sent."""

    __slots__ = (
        "answered",
        "body_left",
        "copy_dones",
        "copy_in",
        "flushed",
        "groups",
        "open_count",
        "open_group",
        "opening",
        "own_answers",
        "sending",
    )

    def __init__(self) -> None:
        self.groups: deque[Group] = deque()
        self.open_count = 0
        """Requests sent since the last Sync or Query: the size of the group that is being sent."""
        self.open_group: Group | None = None
        """The group that is being sent, once it has an edit or a reply; until then `open_count` is all there
        is.
        """
        self.opening = False
        """Whether a transaction has been begun by a deferred BEGIN and no ReadyForQuery has told so yet."""
        self.flushed = 0
        """How many of the requests of the open group were followed by Flush, so that they will be answered
        before its end.
        """
        self.answered = 0
        self.own_answers = 0
        """How many of these were no client's, since whoever counts queries has set it to 0."""
        self.sending = 0
        self.copy_in = False
        """Whether the server is copying from us, i.e. would ignore a Sync."""
        self.copy_dones: list[tuple[int, int]] = []
        """Where CopyDone or CopyFail were sent: number of the group, and of its requests in front.

        A late one belongs to no COPY any more.
        """
        self.body_left = 0
        """How much of the message that is arriving is still to come."""

    @property
    def waiting(self) -> bool:
        """Whether the server owes something."""
        return bool(self.groups or self.open_count or self.open_group is not None)

    @property
    def owes(self) -> bool:
        """Whether the client waits for the server, rather than the other way round. Requests of an open group
        are answered when a Flush follows.
        """
        if any(not group.swallowed for group in self.groups):
            return True
        group = self.open_group
        return group is not None and not group.failed and group.seen < self.flushed

    @property
    def sends_group(self) -> bool:
        """Whether a group is begun and not ended."""
        return self.open_count > 0 or self.open_group is not None

    @property
    def skipping(self) -> bool:
        """Whether the group being sent has failed already: the server ignores everything up to Sync."""
        return self.open_group is not None and self.open_group.failed

    # -- what is sent ----------------------------------------------------------------------------------------

    def query(self) -> None:
        """A Query is sent. Hot path."""
        if self.open_count or self.open_group is not None:
            group = self.opened()
            if group.failed:
                return  # it will be skipped
            group.by_query, group.prefix = True, self.open_count
            group.holds_end = False  # what would complete it cannot follow: the Query may be skipped
            self._close_group(group)
        else:
            self.sending += 1
            self.groups.append(QUERY)

    def explained_query(self) -> Group:
        """A Query is sent whose text is known: its group, for effects."""
        self.query()
        if self.groups and self.groups[-1] is QUERY:
            self.groups[-1] = Group(by_query=True)
        elif self.groups and self.groups[-1] is BEGUN_QUERY:
            self.groups[-1] = self._behind_begin(by_query=True)
        group = self.groups[-1] if not self.sends_group else self.opened()
        group.explained = True
        return group

    def sync(self) -> None:
        """A Sync is sent. Hot path."""
        if self.copy_in:
            return  # ignored
        if self.open_group is not None:
            self._close_group(BEGUN_SYNCED if self.open_group is OPENING else self.open_group)
        else:
            self.open_count = 0
            self.sending += 1
            self.groups.append(SYNCED)

    @property
    def only_begun(self) -> bool:
        """Whether nothing but a deferred BEGIN has been sent of the open group."""
        group = self.open_group
        if group is None:
            return False
        return not self.open_count if group is OPENING else 0 < group.ahead == self.open_count

    @property
    def query_may_be_skipped(self) -> bool:
        """Whether a Query was sent in an open group and is not answered: if something in front of it fails,
        the server skips everything up to the client's next Sync, and a Sync of ours would end that.
        """
        for group in reversed(self.groups):
            if not group.by_query:
                return False
            if group.prefix > group.ahead:
                return True
        return False

    def own_group(self, errand: Errand | None = None, *, by_query: bool = False) -> None:
        """A whole group of ours is sent, its Sync or Query included, while no other is open."""
        self.sending += 1
        self.groups.append(Group(swallowed=True, by_query=by_query, errand=errand or Errand()))

    def end_own_group(self, errand: Errand | None = None) -> None:
        """Sync of ours ends the open group, all of which is ours."""
        group = self.opened()
        group.swallowed, group.errand = True, errand or Errand()
        self._close_group(group)

    def refuse(self, error: bytes) -> None:
        """The next request goes in the place of one that we refuse, and fails: this is its error."""
        group = self.opened()
        if not group.failed:
            group.edits.append(Edit(self.open_count, Action.REFUSE, error))

    def refuse_query(self, error: bytes) -> None:
        """A Query goes in the place of one that we refuse, and fails: this is its error."""
        group = self.explained_query()
        if not group.failed:
            group.edits.append(Edit(group.prefix, Action.REFUSE, error))

    def request(self) -> None:
        """A Parse, Bind, Describe, Execute or Close is sent whose reply is forwarded."""
        self.open_count += 1

    def edited(self, edit: Edit) -> None:
        """A request is sent, or answered in the server's place, whose reply wants an edit."""
        group = self.opened()
        edit.position = self.open_count
        if not group.failed:
            group.edits.append(edit)
        elif edit.undo is not None:
            edit.undo()  # it is skipped
        if edit.action is not Action.FAKE:
            self.open_count += 1

    def swallow(self, edit: Edit | None = None) -> None:
        """A request of ours is sent."""
        self.edited(edit or Edit(0, Action.SWALLOW))

    def fakes_now(self) -> bytes:
        """Fake replies that have nothing in front of them and therefore go out at once."""
        group = self.open_group
        if self.groups or group is None or group.failed or self.body_left:
            return b""
        fakes = group.fakes_due()
        if not self.open_count and not group.edits and not group.failed:
            self.open_group = None  # nothing of it ever went to the server
        return fakes

    def quiet_sync(self) -> None:
        """A Sync is sent where the client sent Flush: the end of the group is not the client's."""
        group = self.opened()
        group.quiet = True
        self._close_group(group)

    def flush(self) -> None:
        """A Flush is sent."""
        if self.sends_group:
            self.opened()  # so that its replies are counted
            self.flushed = self.open_count

    def copy_ended(self) -> None:
        """CopyDone or CopyFail is sent."""
        self.copy_in = False
        if self.open_count:
            self.opened()  # so that its replies are counted
        place = (self.sending, self.open_count)
        if self.copy_dones[-1:] != [place]:
            self.copy_dones = [done for done in self.copy_dones if done[0] >= self.answered]
            self.copy_dones.append(place)

    def opened(self) -> Group:
        """The group that is being sent, made if it was only a number so far."""
        if self.open_group is None:
            self.open_group = Group()
        elif self.open_group is OPENING:
            self.open_group = self._behind_begin()
            self.open_count += self.open_group.ahead
        return self.open_group

    @property
    def head(self) -> Group | None:
        """The group that is being answered, or will be next."""
        if not self.groups:
            return self.opened() if self.sends_group else None
        group = self.groups[0]
        if group is BEGUN_QUERY or group is BEGUN_SYNCED:
            group = self.groups[0] = self._behind_begin(by_query=group.by_query)
        return group

    @staticmethod
    def _behind_begin(*, by_query: bool = False) -> Group:
        """The group of a deferred BEGIN, spelled out."""
        edits = [Edit(place, Action.SWALLOW) for place in range(BEGIN_REQUESTS)]
        prefix = BEGIN_REQUESTS if by_query else 0
        return Group(by_query=by_query, edits=edits, ahead=BEGIN_REQUESTS, prefix=prefix)

    def forget_behind_head(self) -> None:
        """The server is lost: what was sent behind the first group will be asked elsewhere."""
        while len(self.groups) > 1:
            self.groups.pop().undo()

    def _close_group(self, group: Group) -> None:
        self.groups.append(group)
        self.sending += 1
        self.open_group = None
        self.open_count = self.flushed = 0

    # -- what the server ignores -----------------------------------------------------------------------------

    def copy_began(self, group: Group) -> None:
        """COPY FROM STDIN begins: the server ignores every Sync between the COPY and its CopyDone, those that
        were sent already included.
        """
        begun = (self.answered + 1, -1) if group.by_query else (self.answered, group.seen)
        done = next((place for place in self.copy_dones if place > begun), None)
        self.copy_in = done is None
        ignored = (self.sending if done is None else done[0]) - begun[0]
        if not group.by_query:
            self._merge(ignored)
            return
        for _ in range(ignored):
            self.groups[1].undo()
            del self.groups[1]
        self.answered += ignored

    def query_skipped(self) -> None:
        """What stood in front of a Query in its group has failed, so that the Query is skipped, and those
        behind it up to the next Sync.
        """
        skipped = 1
        while skipped < len(self.groups) and self.groups[skipped].by_query:
            skipped += 1
        self._merge(skipped)

    def _merge(self, count: int) -> None:
        """What was to end the first `count` groups has been ignored by the server: whatever ends the next
        one, sent or to be sent, ends them all.
        """
        if not count:
            return
        head = self.groups[0]
        if id(head) in PLAIN:
            head = Group()
        for number in range(count):
            ended = self.groups.popleft()
            if number:
                head.absorb(ended)
        self.answered += count
        before = head.seen + 1  # the last of the head's requests is being answered now
        if self.groups:
            following = self.groups[0]
            self.groups[0] = head
        else:
            following = self.opened()
            self.open_group = head
            self.open_count += before
        for edit in following.edits:
            edit.position += before
        here = self.answered
        self.copy_dones = [(at, count + before * (at == here)) for at, count in self.copy_dones]
        head.absorb(following)
        head.by_query, head.quiet = following.by_query, following.quiet
        head.holds_end = following.holds_end
        head.prefix = before + following.prefix
        if head.failed:
            head.undo()
