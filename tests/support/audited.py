"""`trio-pool`, built so that it asks PostgreSQL after every lease whether the session is what the server
machine believes, before anybody else may have it.

    python -m tests.support.audited serve --config FILE

What it finds is logged as "audit failed", one line each. Nothing that a client leaves behind may be there:
no temporary object, lock, cursor or channel; every setting is one that the machine knows and will take back,
every prepared statement one whose name it knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

import trio_pool.net.origin
from trio_pool.cli import main
from trio_pool.net.server import Server
from trio_pool.pooling.pool import ServerState
from trio_pool.protocol import settings
from trio_pool.protocol.replies import Errand
from trio_pool.wire import messages

if TYPE_CHECKING:
    from collections.abc import Iterable

log = structlog.get_logger()

FAILED = "audit failed"
_TRANSACTION = {"transaction_isolation", "transaction_read_only", "transaction_deferrable"}
_QUESTION = """
    select 'setting', name, setting from pg_catalog.pg_settings where source = 'session'
    union all select 'role', current_setting('role'), ''
    union all select 'user', session_user, ''
    union all select 'temporary', classid::regclass::text, objid::text from pg_catalog.pg_depend
        where refclassid = 'pg_namespace'::regclass and refobjid = pg_my_temp_schema()
    union all select 'lock', classid::text, objid::text from pg_catalog.pg_locks
        where locktype = 'advisory' and pid = pg_backend_pid()
    union all select 'cursor', name, statement from pg_catalog.pg_cursors where is_holdable
    union all select 'channel', channel, '' from pg_listening_channels() channel
    union all select 'prepared', name, '' from pg_catalog.pg_prepared_statements
"""


class AuditedServer(Server):
    """A server whose every way back into the pool leads through an audit."""

    audited = False

    def _recycle(self) -> None:
        session = self.session
        if self.audited or session.keeps or session.dirty or session.listening or session.forgets_sequences:
            self.audited = False
            super()._recycle()
            return
        self.audited = True
        if self.state is not ServerState.CLEANING:
            self.origin.pool.cleaning(self)
        rows: list[list[str | None]] = []
        requests = settings.run("set local search_path = pg_catalog") + settings.run(_QUESTION)
        session.own_group(
            Errand(row=lambda body: rows.append(messages.read_row(body)), done=lambda: self._judge(rows))
        )
        session.parse_unnamed(None)
        self.write(requests + messages.close_statement(b"") + messages.SYNC)
        self._start_cleaning()

    def _judge(self, rows: Iterable[list[str | None]]) -> None:
        for kind, name, value in rows:
            if not self._expected(kind or "", name or "", value or ""):
                log.error(FAILED, server=repr(self), kind=kind, name=name, value=value)

    def _expected(self, kind: str, name: str, value: str) -> bool:
        session = self.session
        match kind:
            case "setting":
                known = session.settings.get(name)
                return known == value or name in _TRANSACTION or name == "search_path"
            case "role":
                return name == session.settings.get("role", "none")
            case "user":
                login = session.defaults.get("session_authorization", name)
                return name == session.settings.get("session_authorization", login)
            case "prepared":
                ours = {statement.name.decode() for statement in session.statements.present}
                return name in ours or name.encode() in session.laid
        return False


def run() -> None:
    trio_pool.net.origin.Server = AuditedServer  # type: ignore[attr-defined]
    main(prog_name="trio-pool")


if __name__ == "__main__":
    run()
