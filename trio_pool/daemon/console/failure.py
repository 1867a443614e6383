"""What is wrong with a command."""

from __future__ import annotations

from trio_pool.errors import SqlState


class ConsoleError(Exception):
    """A command that is not done; the connection stays. PgBouncer has one SQLSTATE for all of them."""

    def __init__(
        self,
        message: str,
        *,
        sqlstate: str = SqlState.PROTOCOL_VIOLATION,
        detail: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.sqlstate = sqlstate
        self.detail = detail
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        return _made, (self.message, self.sqlstate, self.detail, self.hint)


def _made(message: str, sqlstate: str, detail: str | None, hint: str | None) -> ConsoleError:
    return ConsoleError(message, sqlstate=sqlstate, detail=detail, hint=hint)
