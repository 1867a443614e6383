"""What is known of the statements and the schema of one database, and the task that asks for what is not.

Readings that are sent ahead (`queue_ahead`), kept answers and what ends them (`cached`) all rest on it.
Nobody waits for an answer: until it is there, the statement is treated as one of which nothing is known.

When somebody changes the schema through this daemon, all that was known is forgotten at once, by all pools
of the database (`Freshness.schema` tells them), and asked again. What others change is noticed by asking
again now and then.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import attrs
import structlog
import trio

from trio_pool.net.mailbox import Mailbox
from trio_pool.protocol.catalog import Catalog, Verdict
from trio_pool.protocol.reading import ZEROS, NotReading, Reading, known, reading_of
from trio_pool.protocol.skeleton import skeleton
from trio_pool.protocol.touch import Touches
from trio_pool.protocol.watch import EVERYTHING, EVERYTHING_AND_SCHEMA, NOTHING_TOUCHED
from trio_pool.protocol.writing import NOTHING_WRITTEN, Everything, known_writing, writing_of, written_by

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from trio_pool.net.origin import OriginPool
    from trio_pool.protocol.catalog import Inquiry
    from trio_pool.protocol.reading import Name
    from trio_pool.protocol.touch import TouchInquiry
    from trio_pool.protocol.writing import Target, Writing

log = structlog.get_logger()

_Subject = TypeVar("_Subject", contravariant=True)
_Inquiry = TypeVar("_Inquiry", "Inquiry", "TouchInquiry")


class _Source(Protocol[_Subject, _Inquiry]):
    """What `Catalog` and `Touches` have in common."""

    def inquiry(self, subject: _Subject, /) -> _Inquiry | None: ...
    def review(self, names: Iterable[Any] | None = None, /) -> list[_Inquiry]: ...
    def confirms(self, inquiry: _Inquiry, /) -> bool: ...
    def learn(self, inquiry: _Inquiry, /) -> None: ...


@attrs.frozen
class _Lapsed:
    """Names of which something was known, until it was forgotten."""

    names: frozenset[Name | None] = frozenset()
    targets: frozenset[Name | Target | None] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.names or self.targets)

    def __or__(self, other: _Lapsed) -> _Lapsed:
        return _Lapsed(self.names | other.names, self.targets | other.targets)


CATALOG_AGE: Final = 30.0
"""Seconds after which the catalog is asked again: what others have changed is not seen otherwise."""
NO_NAMES: Final[frozenset[Any]] = frozenset()
MOST_SEEN: Final = 1024
MOST_ROUNDS: Final = 8
"""Questions for one statement: views and functions lead to others."""


class Knowledge:
    """Of the database of one pool."""

    def __init__(self, origin: OriginPool) -> None:
        self.origin = origin
        self.catalog = Catalog()
        self._seen: set[bytes] = set()
        """Texts that came once. Most come once only, and are not worth being parsed."""
        self.touches = Touches()
        self._skeletons: dict[bytes, Writing | Everything] = {}
        self._asked: dict[Reading | Writing | Everything, None] = {}
        self._unanswered: set[Reading | Writing | Everything] = set()
        """Those about which asking has failed."""
        self._asks = Mailbox()
        self._answered = trio.Event()
        """Of the question that is asked now."""
        self._pressing = 0
        self._asking = trio.Lock()
        self._schema = -1
        """`Freshness.schema` when everything was forgotten last."""
        self._lapsed = _Lapsed()
        """What was known before that, and is not again."""
        self._forgotten = 0
        """How many times everything was forgotten."""

    def reading_of(self, text: bytes) -> Reading | NotReading | None:
        """What the text refers to; None if it has come for the first time. Hot path."""
        found = known(text)
        if found is not None:
            return found
        shape = text.translate(ZEROS)
        if shape in self._seen:
            return reading_of(text)
        if len(self._seen) >= MOST_SEEN:
            self._seen.clear()
        self._seen.add(shape)
        return None

    def verdict(self, reading: Reading) -> Verdict | None:
        """What the catalog says about it; None if that is not known yet. Hot path."""
        verdict = self.catalog.verdict(reading)
        if verdict is None and reading not in self._unanswered:
            if self.catalog.inquiry(reading) is None:
                return self.catalog.verdict(reading)
            self._asked[reading] = None
            self._asks.wake()
        return verdict

    def notice(self) -> None:
        """Forget what was known if somebody has changed the schema. Before it is used; hot path."""
        freshness = self.origin.freshness
        if freshness is not None and freshness.schema != self._schema:
            self._schema = freshness.schema
            self._forget()

    def touched(self, text: bytes) -> frozenset[int]:
        """The OIDs of the tables that a statement may change; `EVERYTHING` in doubt. Hot path."""
        self.notice()
        writing = known_writing(text)
        if writing is None:
            writing = self._writing_of(text)
        if writing is NOTHING_WRITTEN:
            return NOTHING_TOUCHED
        if isinstance(writing, Everything):
            return EVERYTHING_AND_SCHEMA if writing.ddl else EVERYTHING
        tables = self.touches.touched(writing)
        if tables is not None:
            return tables
        if writing in self._asked or writing in self._unanswered:
            return EVERYTHING
        if self.touches.inquiry(writing) is None:
            tables = self.touches.touched(writing)
            return EVERYTHING if tables is None else tables
        self._asked[writing] = None
        self._asks.wake()
        return EVERYTHING

    def _writing_of(self, text: bytes) -> Writing | Everything:
        """Of a text that is not remembered as it is. Its strings do not matter: what runs SQL given as text
        is taken for writing to everything, whatever the text is.
        """
        bare = skeleton(text)
        if bare is None:
            return writing_of(text)
        writing = self._skeletons.get(bare)
        if writing is None:
            if len(self._skeletons) >= MOST_SEEN:
                self._skeletons.clear()
            writing = self._skeletons[bare] = written_by(text)
        return writing

    def is_unanswered(self, reading: Reading) -> bool:
        """Whether the catalog could not be asked about it."""
        return reading in self._unanswered

    @property
    def asks(self) -> bool:
        """Whether something is being asked."""
        return bool(self._asked)

    def schema_changed(self) -> None:
        """Somebody may have changed it, so what was known of names may not hold, here and in other pools."""
        if self.origin.freshness is not None:
            self.origin.freshness.invalidate(EVERYTHING_AND_SCHEMA)
            self.notice()
        else:
            self._forget()

    def _forget(self) -> None:
        """And ask again for what was known, before anybody needs it."""
        self._forgotten += 1
        self._lapsed |= _Lapsed(self.catalog.names, self.touches.names)
        self.catalog.clear()
        self.touches.clear()
        self._unanswered.clear()
        self._asks.wake()

    # -- control plane ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Ask, and ask again."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._review)
            while True:
                await self._asks.wait()
                while self._asked or self._lapsed:
                    await self._ask()

    async def find_out(self, reading: Reading) -> Verdict | None:
        """What the catalog says about it; None if it cannot be asked."""
        with self._press():
            while (verdict := self.verdict(reading)) is None and not self.is_unanswered(reading):
                await self._answered.wait()
        return verdict

    async def _ask(self) -> None:
        """About all statements that are asked about by now, together, and what has been forgotten: where the
        schema changes again and again, it must be known before the next change.
        """
        asked, lapsed, forgotten = list(self._asked), self._lapsed, self._forgotten
        self._lapsed = _Lapsed()
        readings = [subject for subject in asked if isinstance(subject, Reading)]
        writings = [subject for subject in asked if not isinstance(subject, Reading)]
        unread = await self._answer(self.catalog, readings, lapsed.names)
        unwritten = await self._answer(self.touches, writings, lapsed.targets)
        self._unanswered.update(unread, unwritten)
        if self._forgotten != forgotten:
            self._lapsed |= lapsed
        for subject in asked:
            del self._asked[subject]
        answered, self._answered = self._answered, trio.Event()
        answered.set()

    async def _answer(
        self, source: _Source[_Subject, _Inquiry], subjects: Sequence[_Subject], names: frozenset[Any]
    ) -> Sequence[_Subject]:
        """Those about which the catalog could not be asked. One of them must not be the others' fault."""
        if await self._follow(source, subjects, names):
            return ()
        if len(subjects) == 1:
            return subjects
        return [subject for subject in subjects if not await self._follow(source, [subject])]

    async def _follow(
        self,
        source: _Source[_Subject, _Inquiry],
        subjects: Sequence[_Subject],
        names: frozenset[Any] = NO_NAMES,
    ) -> bool:
        """Ask for these names and for what the subjects lead to."""
        for _ in range(MOST_ROUNDS):
            inquiries = filter(None, map(source.inquiry, subjects))
            names = names.union(*(inquiry.names for inquiry in inquiries))
            for inquiry in source.review(names):
                if not await self._asks_for(inquiry):
                    return False
                source.learn(inquiry)
            if not names:
                break
            names = NO_NAMES
        return True

    async def _review(self) -> None:
        """Look whether what is known still holds."""
        while True:
            await trio.sleep(CATALOG_AGE)
            self._unanswered.clear()
            if not await self._still_holds():
                log.info("the schema has changed elsewhere", pool=str(self.origin.pool.key))
                self.origin.plans_changed()

    async def _still_holds(self) -> bool:
        return await self._confirms(self.catalog) and await self._confirms(self.touches)

    async def _confirms(self, source: _Source[_Subject, _Inquiry]) -> bool:
        for inquiry in source.review():
            if not await self._asks_for(inquiry) or not source.confirms(inquiry):
                return False
        return True

    @contextmanager
    def _press(self) -> Iterator[None]:
        """Meanwhile questions do not wait for the end of a lease, which may not come for long; not even the
        one that waits already.
        """
        self._pressing += 1
        try:
            self.origin.ask_now()
            yield
        finally:
            self._pressing -= 1

    async def _asks_for(self, inquiry: Inquiry | TouchInquiry) -> bool:
        """One question after the other."""
        async with self._asking:
            return await self.origin.asks(inquiry, at_once=self._pressing > 0)
