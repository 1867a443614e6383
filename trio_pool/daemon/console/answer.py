"""What comes of one command, before it is written in either protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs
import trio

from trio_pool.daemon.console import actions, shows
from trio_pool.daemon.console.commands import Command, Setting, invalid, read
from trio_pool.daemon.console.failure import ConsoleError
from trio_pool.daemon.console.table import data_row
from trio_pool.daemon.gathered.sights import gathered
from trio_pool.daemon.workers.channel import WorkerError
from trio_pool.wire import messages

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trio_pool.daemon.console.show import Show, View
    from trio_pool.daemon.console.table import Column, Row

KNOWN: Final = (*(f"SHOW {name}" for name in ("HELP", *shows.SHOWS)), *actions.SPELLINGS, "SET key = value")
"""All commands as they are spelled."""
ROWS_AT_ONCE: Final = 50
"""Rows that are made before others have a turn: a few milliseconds at most."""


@attrs.frozen
class Request:
    """A command that exists: one of a table, of the help, or an action."""

    text: str
    what: Show | Command | Setting | None
    """None is SHOW HELP."""

    @property
    def columns(self) -> tuple[Column, ...] | None:
        """None if it returns no rows."""
        return None if self.what is None or isinstance(self.what, Command | Setting) else self.what.columns


@attrs.frozen
class Answer:
    """`rows` is None without a table. `notices` are whole messages, sent ahead."""

    tag: str
    rows: list[Row] | None = None
    notices: bytes = b""


def understand(text: str) -> Request | None:
    """The command of a text, None if it is empty. Raises `ConsoleError` if there is no such command."""
    found = read(text, KNOWN)
    if found is None:
        return None
    if isinstance(found, Setting):
        return Request(text, found)
    if found.name in ("SHOW", "SELECT") and not found.more:
        if found.argument.upper() == "HELP":
            return Request(text, None)
        show = shows.find(found.argument)
        if show is not None:
            return Request(text, show)
    elif actions.is_action(found):
        return Request(text, found)
    raise invalid(text, KNOWN)


async def answer(request: Request, view: View, user: str) -> Answer:
    """Do what is asked for. Raises `ConsoleError`."""
    view.service.samples.commands += 1
    match request.what:
        case None:
            return Answer("SHOW", notices=messages.notice("00000", "Console usage", detail=shows.HELP))
        case Command() as command:
            return _done(*await actions.act(view.service, command, user))
        case Setting() as setting:
            return _done(*await actions.change(view.service, setting, user, KNOWN))
        case show:
            return Answer("SHOW", await _all(show.rows(await _of_all_processes(view, show))))


async def _of_all_processes(view: View, show: Show) -> View:
    """The view with what the table needs of every process; as it is if there is but one."""
    parent = view.service.parent
    if parent is None or not show.parts:
        return view
    try:
        return attrs.evolve(view, census=await gathered(parent, show.parts))
    except WorkerError as error:
        raise ConsoleError(str(error)) from None


async def _all(rows: Iterable[Row]) -> list[Row]:
    """The data plane has a turn now and then: of clients there may be ten thousand."""
    found = []
    for row in rows:
        found.append(row)
        if len(found) % ROWS_AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
    return found


async def written(rows: Iterable[Row], described: Sequence[Column], formats: Sequence[int]) -> bytes:
    """Their messages, made in the same way."""
    parts: list[bytes] = []
    for row in rows:
        parts.append(data_row(row, described, formats))
        if len(parts) % ROWS_AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
    return b"".join(parts)


def _done(tag: str, lines: list[str]) -> Answer:
    return Answer(tag, notices=b"".join(messages.notice("00000", line) for line in lines))
