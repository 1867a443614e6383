"""What a client carries from server to server: its settings and its prepared statements; and how its messages
are rewritten so that the leased server has them too.

Translation is nearly always "as they came": what is rewritten are the names of prepared statements, and what
is added are the statements that the leased server lacks. Texts that may do something to the session (`facts`)
take the long way: what they need is laid out in front of them, what they may have done is asked behind them.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

from trio_pool.errors import ClientFault, SqlState
from trio_pool.protocol import lacking
from trio_pool.protocol.backend import ANYTHING, SEQUENCES
from trio_pool.protocol.facts import (
    NOTHING,
    QUIET,
    UNKNOWN,
    Ask,
    Discard,
    Facts,
    PreparedAction,
    facts_of,
    known_facts,
    minded_facts,
)
from trio_pool.protocol.pending import Pending
from trio_pool.protocol.replies import Action, Edit, Effect
from trio_pool.protocol.settings import IDENTITY, NONE, Settings, intern, passing_change
from trio_pool.protocol.statements import SqlStatement, Statement
from trio_pool.wire import messages
from trio_pool.wire.tags import Frontend, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from trio_pool.protocol.backend import Preparable
    from trio_pool.protocol.inspection import Inspection
    from trio_pool.protocol.replies import Group
    from trio_pool.protocol.server import ServerSession
    from trio_pool.protocol.statements import StatementRegistry

MAX_STATEMENT: Final = 1 << 24
"""The longest named statement: its text is kept for as long as the client lives."""
LOAD: Final = "LOAD"
_NO_ECHOES: Final[deque[bytes]] = deque(maxlen=0)
UNKNOWN_TEXT: Final = bytes(bytearray(b"a statement too long to be remembered"))  # compared by identity only


class _Sent:
    """What SQL that is not answered yet makes of a name: facts of all that it prepares, what stands there in
    the end if all succeeds; the last group and its number.
    """

    __slots__ = ("facts", "group", "number", "statement")

    def __init__(self) -> None:
        self.facts: list[Facts] = []
        self.statement: SqlStatement | None = None
        self.group: Group | None = None
        self.number = 0


class CarriedSession:
    """The part of a client's session that moves with it."""

    __slots__ = (
        "_changes",
        "_sent",
        "base",
        "binds",
        "channels",
        "echoes",
        "fault",
        "lacks",
        "max_statements",
        "mends",
        "registry",
        "rejects",
        "replies",
        "reported",
        "settings",
        "statements",
        "unnamed",
        "unnamed_facts",
    )

    def __init__(
        self,
        registry: StatementRegistry,
        settings: Settings,
        reported: Settings,
        *,
        max_statements: int,
        rejects: bool,
    ) -> None:
        self.registry = registry
        self.base = settings
        """What the client asked for at start-up, which is what RESET goes back to."""
        self.mends = NONE
        """What the group that is being sent may reset of the settings of StartupMessage."""
        self.settings = settings
        self.reported = reported
        """What the client has been told."""
        self.lacks = lacking.lacks(reported)
        """Whether its servers lack what `lacking` stands in for."""
        self.max_statements = max_statements
        self.rejects = rejects
        """Whether what would pin the client is refused instead."""
        self.channels: frozenset[bytes] = frozenset()
        """What the client listens to, as far as it was handed over to the pool's listening connection."""
        self.echoes: deque[bytes] = _NO_ECHOES
        """Notifications that the client has had from its leased server and will get once more from there."""
        self.statements: dict[bytes, Preparable] | None = None
        """What the client's names stand for; None until it has one, since most idle clients do not."""
        self._changes: Pending[bytes, Preparable | None] | None = None
        """Parse and Close that a server has not answered yet; None until there is one."""
        self._sent: dict[bytes, _Sent] = {}
        """Names that SQL which is not answered yet prepares or deallocates."""
        self.unnamed: bytes | None = None
        self.unnamed_facts: Facts = NOTHING
        self.binds = 0
        """How often it has used a named statement, for the statistics."""
        self.replies = b""
        """What is to be sent to the client on our own account, now."""
        self.fault: ClientFault | None = None

    # -- settings --------------------------------------------------------------------------------------------

    def _adopted_by(self, server: ServerSession) -> bytes:
        """What to send so that the server has the client's settings; the client is told what it reports."""
        server.told = self.reported
        server.expected = server.reported
        ahead = server.adopt(self.settings)
        if not ahead:
            self.replies += server.tell()
        if self.channels:
            ahead += server.listen_to(self.channels, self.echoes)
        return ahead

    def names_asked(self) -> Iterable[str]:
        """Parameters of the client's that PostgreSQL does not list."""
        return [name for name in self.settings if "." in name]

    def found(self, inspection: Inspection, server: ServerSession) -> None:
        """PostgreSQL has said what the session holds."""
        if Ask.SETTINGS in inspection.asks:
            self.settings = server.settings
            server.meaning_known = Ask.SETTINGS not in server.asks
            for statement in (self.statements or {}).values():
                if isinstance(statement, Statement) and statement.reading is None:
                    statement.reading = self.settings.reading
        if inspection.asks == Ask.ALL:
            self._find_prepared(inspection, server)

    def _find_prepared(self, inspection: Inspection, server: ServerSession) -> None:
        """SQL that was built at run time may have prepared something, or deallocated what was laid out. What
        was sent behind the question is not in the answer.
        """
        for name, statement in inspection.laid.items():
            gone = name not in inspection.prepared and server.laid.get(name) is statement
            if gone and isinstance(statement, SqlStatement) and statement.text:
                self._deallocated(name, server)
        for name, text in inspection.prepared.items():
            if name not in server.laid and name not in inspection.laid:
                made = facts_of(text).prepared
                inner = made[0].facts if made and made[0].facts is not None else UNKNOWN
                self._prepared_by_sql(name, SqlStatement(text, inner), server)

    def _resets(self, facts: Facts) -> Settings:
        """Which of the settings of StartupMessage a text may reset."""
        base = self.base
        if not base or Discard.ALL in facts.discards:
            return base
        if facts.resets_all or facts.begins == Ask.ALL:
            return intern({name: value for name, value in base.items() if name not in IDENTITY})
        return intern({name: value for name, value in base.items() if name.lower() in facts.resets})

    def _restored(self, server: ServerSession) -> bytes:
        """What to send behind a group whose texts may have reset something."""
        reset, self.mends = self.mends, NONE
        return server.restore(reset)

    def may_listen(self, server: ServerSession) -> None:
        """The client may have said LISTEN to this server."""
        server.listening = True
        if self.echoes is _NO_ECHOES:
            self.echoes = deque()
        server.echoes = self.echoes

    def own_words(self, body: bytes) -> bytes:
        """An ErrorResponse's body, with the client's names of statements in place of ours."""
        if self.registry.prefix in body and self.statements:
            for name, statement in self.statements.items():
                if type(statement) is Statement:
                    body = body.replace(b'"%b"' % statement.name, b'"%b"' % name)
        return body

    # -- texts that may do something to the session ----------------------------------------------------------

    def _minded_query(self, text: bytes | None, message: bytes, server: ServerSession) -> bytes | None:
        """A Query that is not plain; None for the text if it is too long to be known."""
        if self.lacks and text is not None and (instead := lacking.stand_in(text)) is not None:
            text, message = instead, messages.message(Frontend.QUERY, instead + b"\0")
        facts = UNKNOWN if text is None else minded_facts(text)
        if self._refuses(facts, server):
            server.refuse_query(_refusal(self._feature(facts)))
            return messages.message(Frontend.QUERY, b'EXECUTE "%b"\0' % self.registry.nobody)

        def excuse(error: bytes) -> None:
            if facts.prepared:  # else nobody knows whether the text needs it
                group.excuse = error

        ahead = server.begin_apart()
        if facts.lists_prepared:
            ahead += server.lay_out_exactly(self.statements or {})
        ahead += server.lay_out(self._names_in(facts, server, text), excuse, for_query=True)
        group = server.explained_query()
        self._expect(facts, server, group, text)
        if self.base:
            self.mends = self.mends.but(self._resets(facts))
        if self.mends and text is not None and not (server.sends_group or server.query_may_be_skipped):
            group.holds_end = True
            return ahead + message + self._restored(server)
        return ahead + message

    def _minded_bind(self, facts: Facts, message: bytes, server: ServerSession) -> bytes | None:
        """What must stand in front of a Bind whose statement may do something to the session, or None if the
        Bind was replaced by one that fails.
        """
        if self._refuses(facts, server):
            server.refuse(_refusal(self._feature(facts)))
            return None
        ahead = b""
        if facts.lists_prepared:
            ahead = server.lay_out_exactly(self.statements or {})

        def excuse(error: bytes) -> None:
            if facts.prepared:
                group.excuse = error

        ahead += server.lay_out(self._names_in(facts, server), excuse)
        group = server.opened()
        if self.base:
            self.mends = self.mends.but(self._resets(facts))
            group.holds_end = bool(self.mends)
        if facts.setting_parameters:
            values = messages.read_bound_values(message[5:])
            named = [values[n - 1] for n in facts.setting_parameters if n <= len(values)]
            server.asks_for.update(
                name.decode(errors="surrogateescape").lower() for name in named if name and b"." in name
            )
        self._expect(facts, server, group)
        return ahead

    def _refuses(self, facts: Facts, server: ServerSession) -> bool:
        self._forget_answered(server)
        return self.rejects and server.status != Status.FAILED and self._feature(facts) is not None

    def _feature(self, facts: Facts) -> str | None:
        """What would pin in a text, or in what it executes by name."""
        return next((run.pins for run in (facts, *self._executed(facts)) if run.pins is not None), None)

    def _executed(self, facts: Facts) -> list[Facts]:
        """What may run when a text says EXECUTE: what the names stand for, or will when what was sent is
        answered.
        """
        found: list[Facts] = []
        seen: set[bytes] = set()
        pending = [facts]
        while pending:
            made: dict[bytes, list[Facts]] = {}
            for used in pending.pop().prepared:
                if used.name is None:
                    continue
                if used.action is PreparedAction.PREPARE:
                    made.setdefault(used.name, []).append(used.facts or NOTHING)
                elif used.action is PreparedAction.EXECUTE and used.name not in seen:
                    seen.add(used.name)
                    known = (self.statements or {}).get(used.name)
                    run = [] if known is None else [known.facts]
                    run += self._sent[used.name].facts if used.name in self._sent else []
                    run += made.get(used.name, [])
                    found += run
                    pending += run
        return found

    def _laid_out(self, facts: Facts, server: ServerSession) -> bytes:
        """What a Parse or Describe of such a text needs in front of it."""
        return self._laid_ahead(self._names_in(facts, server), server) if facts.prepared else b""

    def _laid_name(self, name: bytes, server: ServerSession) -> bytes:
        """What a Bind or Describe of a name needs in front of it that is no statement of the protocol."""
        self._forget_answered(server)
        wanted = self._settled({name: (self.statements or {}).get(name)}, server)
        return self._laid_ahead(wanted, server)

    def _laid_ahead(self, wanted: Mapping[bytes, Preparable | None], server: ServerSession) -> bytes:
        """What to send ahead of a request; if it cannot be laid out, that is why the request fails."""

        def excuse(error: bytes) -> None:
            group.excuse = error

        ahead = server.lay_out(wanted, excuse)
        if ahead:
            group = server.opened()
        return ahead

    def _names_in(
        self, facts: Facts, server: ServerSession, text: bytes | None = None
    ) -> dict[bytes, Preparable | None]:
        """The names that a text uses, with what they stand for in the client's session. A text that may run
        others may use any; one that cannot be read, those that occur in it.
        """
        self._forget_answered(server)
        names = self.statements or {}
        wanted: dict[bytes, Preparable | None] = {}
        if Ask.CHANNELS in facts.begins and not facts.listens:
            wanted.update(dict.fromkeys(server.names_laid))
            wanted.update({name: made for name, made in names.items() if isinstance(made, SqlStatement)})
            if facts.unknown and text is not None:
                folded = text.lower()
                wanted.update({name: made for name, made in names.items() if name in text or name in folded})
        used_by_name: dict[bytes, Preparable | None] = {}
        pending = [facts]
        while pending:
            for used in pending.pop().prepared:
                if used.name is None:
                    continue
                made = names.get(used.name)
                if made is None or used.action is not PreparedAction.EXECUTE:
                    used_by_name.setdefault(used.name, None if made is None else ANYTHING)
                elif used_by_name.get(used.name) is not made:
                    used_by_name[used.name] = made
                    pending.append(made.facts)
        wanted.update(reversed(used_by_name.items()))  # what a statement executes itself goes first
        return self._settled(wanted, server)

    def _settled(
        self, wanted: dict[bytes, Preparable | None], server: ServerSession
    ) -> dict[bytes, Preparable | None]:
        """Without what SQL ahead decides; with what it will, if it has to be assumed."""
        if not self._sent:
            return wanted
        settled = {name: made for name, made in wanted.items() if name not in self._sent}
        for name in wanted.keys() & self._sent.keys():
            if not server.is_sure(name):  # it may stand for another client's
                settled[name] = self._sent[name].statement
        return settled

    def _forget_answered(self, server: ServerSession) -> None:
        if self._sent:
            self._sent = {
                name: sent
                for name, sent in self._sent.items()
                if sent.number >= server.answered and not (sent.group is not None and sent.group.failed)
            }

    def _sends(
        self,
        names: Iterable[bytes],
        server: ServerSession,
        group: Group,
        statement: SqlStatement | None = None,
    ) -> None:
        """A group prepares or (None) deallocates names."""
        number = server.sending if group is server.open_group else server.sending - 1
        for name in names:
            sent = self._sent.setdefault(name, _Sent())
            sent.statement = statement
            sent.group, sent.number = group, number
            if statement is not None:
                sent.facts.append(statement.facts)

    def _expect(self, facts: Facts, server: ServerSession, group: Group, text: bytes | None = None) -> None:
        """Note what is to be asked and what to count when a text with these facts has run."""
        if group.failed:
            return  # it is skipped
        for run in self._executed(facts):
            self._suspect(run, server, group)
            if any(used.action is not PreparedAction.EXECUTE for used in run.prepared):
                group.unknown = True  # the protocol can prepare a PREPARE
                server.asks |= Ask.ALL
        self._suspect(facts, server, group)
        for used in facts.prepared:
            if used.action is PreparedAction.PREPARE and used.name is not None:
                self._check_room()
                inner = used.facts or NOTHING
                alone = text is not None and text.strip(b"; \n\r\t\f\v") == used.text.strip()
                statement = SqlStatement(text if alone and text is not None else used.text, inner)
                effect = partial(self._prepared_by_sql, used.name, statement, server)
                group.effects.append(Effect(b"PREPARE\0", effect))
                if used.name in self._sent or used.name not in (self.statements or {}):  # else it fails
                    self._sends([used.name], server, group, statement)
            elif used.action is PreparedAction.DEALLOCATE:
                tag = b"DEALLOCATE ALL\0" if used.name is None else b"DEALLOCATE\0"
                group.effects.append(Effect(tag, partial(self._deallocated, used.name, server)))
                self._sends((self.statements or {}) if used.name is None else [used.name], server, group)

    def _suspect(self, facts: Facts, server: ServerSession, group: Group) -> None:
        """Note what running something with these facts may do to the session."""
        group.explained = True
        group.unknown = group.unknown or facts.unknown
        if facts is QUIET or facts.settings:
            server.meaning_known = False
        if facts.begins:
            server.asks |= facts.begins
        if facts.ends and (server.pins or server.listening):
            server.asks |= facts.ends
        if Ask.CHANNELS in facts.begins:
            self.may_listen(server)
        kept = facts.keeps
        if LOAD in kept:
            kept -= {LOAD}
            group.effects.append(Effect(b"LOAD\0", partial(server.keep, [LOAD])))
        if kept:
            server.keep(kept)
        for name in facts.settings:
            if "." in name:
                server.asks_for.add(name)
        if facts.moves_sequences and not self.rejects:
            server.pins[SEQUENCES] = None
        if facts.reads_sequences:
            self.registry.on_sequences_read()
        if Discard.SEQUENCES in facts.discards:
            group.effects.append(Effect(b"DISCARD SEQUENCES\0", partial(server.pins.pop, SEQUENCES, None)))
        if Discard.ALL in facts.discards:
            group.effects.append(Effect(b"DISCARD ALL\0", partial(self._discarded, server)))
            self._sends(self.statements or {}, server, group)

    def _prepared_by_sql(self, name: bytes, statement: SqlStatement, server: ServerSession) -> None:
        self._remember(name, statement)
        server.prepared_by_sql(name, statement)

    def _deallocated(self, name: bytes | None, server: ServerSession) -> None:
        server.deallocated(name)
        if name is not None:
            self._remember(name, None)
        elif self.statements is not None:
            for gone in [*self.statements]:
                self._remember(gone, None)
            if self._changes is not None:
                self._changes.rebase(None)

    def _discarded(self, server: ServerSession) -> None:
        self._deallocated(None, server)
        listening = server.listening
        server.discarded()
        server.asks |= Ask.SETTINGS
        if listening:
            server.asks |= Ask.CHANNELS
        self.settings = self.base

    # -- the protocol's prepared statements ------------------------------------------------------------------

    def _bind(self, data: bytes, at: int, end: int, server: ServerSession) -> bytes | None:
        """A Bind with its statement renamed, behind the statement itself if the server lacks it.

        The message may be incomplete.
        """
        portal_end = data.find(b"\0", at + 5, end)
        name_end = data.find(b"\0", portal_end + 1, end)
        if portal_end < 0 or name_end < 0:
            return None  # malformed: the server says so
        name = data[portal_end + 1 : name_end]
        if not name:
            return self._bind_unnamed(data, at, end, server)
        self.binds += 1
        statement = self.statements.get(name) if self.statements is not None else None
        if type(statement) is not Statement:
            ahead = self._laid_name(name, server)  # no such statement: the server says so
            if statement is not None and statement.facts is not NOTHING:
                minded = self._minded_bind(statement.facts, data[at:end], server)
                return self._unbindable if minded is None else ahead + minded + data[at:end]
            return ahead + data[at:end] if ahead else None
        ahead = b""
        if statement.facts is not NOTHING:
            minded = self._minded_bind(statement.facts, data[at:end], server)
            if minded is None:
                return self._unbindable
            if statement.facts.lists_prepared:
                return minded + data[at:end]  # it stands under its own name there
            ahead = minded
        body_size = end - at - 1 - len(name) + len(statement.name)
        renamed = b"B%b%b%b%b" % (
            body_size.to_bytes(4, "big"),
            data[at + 5 : portal_end + 1],
            statement.name,
            data[name_end:end],
        )
        if not server.has_statement(statement):
            ahead += self._prepared(statement, server)
        return ahead + renamed if ahead else renamed

    def _bind_unnamed(self, data: bytes, at: int, end: int, server: ServerSession) -> bytes | None:
        """A Bind of the unnamed statement, behind what must stand in front of it; None if nothing.

        The message may be incomplete.
        """
        ahead = b""
        if self.unnamed_facts is not NOTHING:
            minded = self._minded_bind(self.unnamed_facts, data[at:end], server)
            if minded is None:
                return self._unbindable
            ahead = minded
        if not server.has_unnamed(self.unnamed):
            ahead += self._with_unnamed(server)
        return ahead + data[at:end] if ahead else None

    def _with_unnamed(self, server: ServerSession) -> bytes:
        if self.unnamed is UNKNOWN_TEXT:
            self.unnamed = None
        edit = Edit(0, Action.SWALLOW)
        if self.unnamed is not None:
            self._supposes(self.unnamed, edit)
        return server.prepare_unnamed(self.unnamed, edit)

    @property
    def _unbindable(self) -> bytes:
        """A Bind that fails: nothing has this name."""
        return messages.bind(self.registry.nobody, ())

    def _describe(self, message: bytes, server: ServerSession) -> bytes | None:
        name = message[6:-1]
        if not name:
            ahead = self._laid_out(self.unnamed_facts, server)
            if not server.has_unnamed(self.unnamed):
                ahead += self._with_unnamed(server)
            if self.registry.descriptions.kept and self.unnamed is not None:
                self._learn(self.unnamed + self.settings.meaning, self.unnamed_facts, server)
            return ahead + message if ahead else None
        statement = self.statements.get(name) if self.statements is not None else None
        if type(statement) is not Statement:
            ahead = self._laid_name(name, server)
            return ahead + message if ahead else None
        renamed = messages.message(Frontend.DESCRIBE, b"S%b\0" % statement.name)
        if server.has_statement(statement):
            ahead = self._laid_out(statement.facts, server)
        else:
            ahead = self._prepared(statement, server)
        if self.registry.descriptions.kept:
            content = self.registry.content_of(statement, self.settings)
            if content is not None:
                self._learn(content, statement.facts, server)
        return ahead + renamed

    def _learn(self, content: bytes, facts: Facts, server: ServerSession) -> None:
        """A Describe is sent: remember the answer, unless it is this session's alone, or soon out of date."""
        group = server.opened()
        if facts.prepared or group.failed or self._differs(server):
            return
        changes = self.registry.changes

        def learnt() -> None:
            if group.described and self.registry.changes == changes and not self._differs(server):
                self.registry.descriptions.keep(content, group.described)

        group.describes = True
        group.edits.append(Edit(server.open_count, Action.FORWARD, done=learnt))

    @staticmethod
    def _differs(server: ServerSession) -> bool:
        """Whether a text may mean something else in this session than in another with the same settings, as
        far as the answer is known: a temporary table, a change that is not committed.
        """
        known = server.meaning_known and not (server.asks or server.inspecting)
        return not known or bool(server.pins) or server.schema_changed

    def _prepared(self, statement: Statement, server: ServerSession) -> bytes:
        ahead = self._laid_out(statement.facts, server)
        reading = self.settings.reading
        back: list[str] = []
        if statement.reading is not None and statement.reading is not reading:
            there, back = passing_change(reading, statement.reading)
            ahead += b"".join(map(server.swallow_run, there))
        requests, edit = server.prepare(statement)
        self.registry.server_parses += 1
        self._supposes(statement.rest, edit)
        server.edited(edit)
        return ahead + requests + b"".join(map(server.swallow_run, back))

    def _supposes(self, rest: bytes, edit: Edit) -> None:
        """A Parse that the client has been answered already is sent with this edit. If the server does not
        take it, what was known of the statement does not hold.
        """
        descriptions = self.registry.descriptions
        if not descriptions.kept:
            return
        content, undo = rest + self.settings.meaning, edit.undo

        def undone() -> None:
            descriptions.drop(content)
            if undo is not None:
                undo()

        edit.undo = undone

    def _parse(self, message: bytes, server: ServerSession) -> bytes | None:
        """Parse: unnamed ones pass; named ones become statements by content, and go to the server only if it
        lacks them.
        """
        name, separator, rest = message[5:].partition(b"\0")
        if self.lacks:
            text, _, types = rest.partition(b"\0")
            instead = lacking.stand_in(text)
            if instead is not None:
                rest = b"%b\0%b" % (instead, types)
                message = messages.parse(name, rest)
        if not name or not separator:
            self._parse_unnamed(rest)
            ahead = b""
            if self.unnamed_facts is not NOTHING:
                ahead = self._laid_out(self.unnamed_facts, server)
            server.parse_unnamed(self.unnamed)
            server.open_count += 1
            return ahead + message if ahead else None
        names = self.statements
        if names is None:
            names = self.statements = {}
        if name in names:
            requests = server.take_name(name)
            server.request()
            return requests + messages.parse(name, rest)
        if not self._check_room():
            return b""
        self.registry.client_parses += 1
        statement = self._statement(rest, server)
        if server.has_statement(statement):
            if not server.may_have_failed:
                self._change(name, statement, Edit(0, Action.FAKE, messages.PARSE_COMPLETE), server)
                return b""
            self._change(name, statement, Edit(0, Action.FORWARD), server)
            server.parse_unnamed(UNKNOWN_TEXT)
            return messages.parse(b"", rest)  # PostgreSQL has to say whether it would take it
        ahead = self._laid_out(statement.facts, server)
        requests, edit = server.prepare(statement)
        self.registry.server_parses += 1
        edit.action = Action.FORWARD
        self._change(name, statement, edit, server)
        return ahead + requests

    def _check_room(self) -> bool:
        """Whether the client may have one more prepared statement; otherwise `fault` is set."""
        if len(self.statements or {}) < self.max_statements:
            return True
        why = f"too many prepared statements: a client may have {self.max_statements}"
        self._fail(ClientFault(why, SqlState.LIMIT_EXCEEDED))
        return False

    def _statement(self, rest: bytes, server: ServerSession) -> Statement:
        """The statement with this content, under the settings that change what a text means. While these are
        not known, or if it depends on the names of this client alone, nobody shares it.
        """
        if not server.meaning_known:
            return self.registry.make(rest)
        statement = self.registry.get(rest, self.settings)
        return self.registry.make(rest, self.settings.reading) if statement.facts.prepared else statement

    def _parse_unnamed(self, rest: bytes) -> None:
        """Hot path: a driver that never names its statements parses before every execution."""
        if rest == self.unnamed:
            return
        self.unnamed = rest
        text = rest[: rest.find(b"\0")]
        self.unnamed_facts = known_facts(text)

    def _pass_unnamed_parse(self, server: ServerSession) -> None:
        self.unnamed = UNKNOWN_TEXT
        self.unnamed_facts = UNKNOWN
        server.parse_unnamed(UNKNOWN_TEXT)
        server.request()

    def _close(self, name: bytes, server: ServerSession) -> bytes:
        """Close of a statement: the server may keep it for others, so the reply is ours."""
        edit = Edit(0, Action.FAKE, messages.CLOSE_COMPLETE)
        if name:
            self._change(name, None, edit, server)
        else:
            if not server.skipping:
                self.unnamed = None
            server.edited(edit)
            self.replies += server.fakes_now()
        return b""

    def _change(self, name: bytes, statement: Statement | None, edit: Edit, server: ServerSession) -> None:
        """A Parse or Close of a name, whose reply has this edit, is under way."""
        before = None if self.statements is None else self.statements.get(name)
        if self._changes is None:
            self._changes = Pending(self._remember)
        self._changes.begin(name, before, statement, edit)
        server.edited(edit)
        self.replies += server.fakes_now()

    # -- names -----------------------------------------------------------------------------------------------

    def _text_of(self, name: bytes) -> bytes | None:
        """The text of one of the client's statements."""
        if not name:
            return None if self.unnamed is None else self.unnamed.partition(b"\0")[0]
        statement = None if self.statements is None else self.statements.get(name)
        return statement.rest.partition(b"\0")[0] if isinstance(statement, Statement) else None

    def _forget(self, name: bytes) -> None:
        if not name:
            self.unnamed = None
        elif self.statements is not None:
            self._remember(name, None)

    def _remember(self, name: bytes, statement: Preparable | None) -> None:
        if self.statements is None:
            self.statements = {}
        if statement is None:
            self.statements.pop(name, None)
        else:
            self.statements[name] = statement

    def _fail(self, fault: ClientFault) -> None:
        self.fault = fault


def _refusal(feature: str | None) -> bytes:
    return messages.error(
        SqlState.FEATURE_NOT_SUPPORTED,
        f"{feature} cannot be used through this connection pool",
        detail="It would tie the client to one server connection, and the pool is configured with "
        'unpoolable = "reject".',
        hint="Connect to PostgreSQL directly, or use a pool in session mode.",
    )
