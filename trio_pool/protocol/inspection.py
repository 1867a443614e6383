"""Asking a server what its session holds, once a transaction is over that may have changed it.

PostgreSQL is the only one who knows: what a SET became after a rollback to a savepoint, whether a temporary
table is left, what a function did. So it is asked, behind the client's transaction and before the next
client's, by one query of ours; the texts that clients send only decide when and for which kinds (`facts`).

Sources: the views pg_settings (session-level values have the source "session"), pg_locks and pg_cursors, and
pg_depend, through which every object points to its schema. pg_settings hides parameters whose names have a
dot until an extension defines them, and who the session is: these are asked for by name.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import attrs

from trio_pool.protocol import settings as session_settings
from trio_pool.protocol.facts import Ask
from trio_pool.protocol.settings import Settings, intern
from trio_pool.wire import messages

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TEMPORARY_OBJECT = "temporary object"
ADVISORY_LOCK = "session advisory lock"
HELD_CURSOR = "cursor WITH HOLD"

_PIN_OF = {Ask.TEMPORARY: TEMPORARY_OBJECT, Ask.LOCKS: ADVISORY_LOCK, Ask.CURSORS: HELD_CURSOR}
_OF_TRANSACTIONS = frozenset({"transaction_isolation", "transaction_read_only", "transaction_deferrable"})
"""Parameters of the session's next or present transaction, which ends before anybody else has the server."""

# Values travel in hexadecimal UTF-8, since the client may have chosen any client_encoding.
_VALUE = "pg_catalog.encode(pg_catalog.convert_to({}, 'UTF8'), 'hex')"
_QUERIES = {
    Ask.SETTINGS: (
        f"SELECT 'setting', {_VALUE.format('name')}, {_VALUE.format('setting')} FROM pg_catalog.pg_settings"
        " WHERE source OPERATOR(pg_catalog.=) 'session'"
        f" UNION ALL SELECT 'setting', {_VALUE.format('name')},"
        f" {_VALUE.format('pg_catalog.current_setting(name, true)')}"
        " FROM pg_catalog.unnest(pg_catalog.string_to_array($1, E'\\n')) AS asked (name)"
        " WHERE pg_catalog.current_setting(name, true) IS NOT NULL"
    ),
    Ask.TEMPORARY: (
        "SELECT 'pin', 'TEMPORARY', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_depend"
        " WHERE refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass"
        " AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema())"
    ),
    Ask.LOCKS: (
        "SELECT 'pin', 'LOCKS', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_locks"
        " WHERE locktype OPERATOR(pg_catalog.=) 'advisory'"
        " AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())"
    ),
    Ask.CURSORS: (
        "SELECT 'pin', 'CURSORS', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable)"
    ),
    Ask.CHANNELS: (
        f"SELECT 'channel', {_VALUE.format('name')}, '' FROM pg_catalog.pg_listening_channels() AS name"
    ),
}


# Asked when everything is: SQL that is built at run time can say PREPARE and DEALLOCATE, too.
_PREPARED = (
    f"SELECT 'prepared', {_VALUE.format('name')}, {_VALUE.format('statement')}"
    " FROM pg_catalog.pg_prepared_statements WHERE from_sql"
)


@functools.cache
def _query(asks: Ask) -> str:
    queries = [query for ask, query in _QUERIES.items() if ask in asks]
    return " UNION ALL ".join([*queries, _PREPARED] if asks == Ask.ALL else queries)


def request(asks: Ask, names: Iterable[str]) -> bytes:
    """The question, ended by Sync; `names` are the parameters that have to be asked for by name."""
    by_name = [*session_settings.IDENTITY, *sorted(names)]
    parameters = ["\n".join(by_name)] if Ask.SETTINGS in asks else []
    return session_settings.run(_query(asks), parameters) + messages.close_statement(b"") + messages.SYNC


@attrs.define(eq=False)
class Inspection:
    """The answer, as its rows arrive."""

    asks: Ask
    laid: Mapping[bytes, object]
    """What stood under clients' names when the question was sent."""
    _settings: dict[str, str] = attrs.field(factory=dict)
    pins: set[str] = attrs.field(factory=set)
    """What is left that cannot be carried to another server."""
    channels: set[bytes] = attrs.field(factory=set)
    prepared: dict[bytes, bytes] = attrs.field(factory=dict)
    """Names and texts of what SQL has prepared, if `asks` is everything."""

    def row(self, body: bytes) -> None:
        """One DataRow. Raises FramingError or ValueError if it is not one of ours."""
        kind, name, value = messages.read_row(body)
        match kind:
            case "setting":
                self._settings[_decoded(name)] = _decoded(value)
            case "pin":
                self.pins.add(_PIN_OF[Ask[name or ""]])
            case "prepared":
                self.prepared[bytes.fromhex(name or "")] = bytes.fromhex(value or "")
            case _:
                self.channels.add(bytes.fromhex(name or ""))

    def settings(self, login: str | None) -> Settings:
        """What the session has set. `login` is the role that it logged in as, which is no setting."""
        nobody = {"role": "none", "session_authorization": login}
        return intern(
            {n: v for n, v in self._settings.items() if v != nobody.get(n) and n not in _OF_TRANSACTIONS}
        )

    @property
    def pins_asked(self) -> set[str]:
        """The pins that `pins` decides."""
        return {pin for ask, pin in _PIN_OF.items() if ask in self.asks}


def _decoded(value: str | None) -> str:
    return bytes.fromhex(value or "").decode(errors="surrogateescape")
