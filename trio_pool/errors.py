"""Exceptions by blame, SQLSTATEs, and the reasons for which connections end.

The lowest floor: every other module may import it, it imports nothing of ours.

Blame decides what happens next. A `ClientFault` ends one client, a `ServerFault` one server connection, and
neither disturbs anybody else. Both are *returned* by the pure machines where they are expected in normal
operation, and raised only where a Trio task has to unwind.
"""

from __future__ import annotations

import enum


class SqlState:
    """SQLSTATEs that trio-pool itself produces (PostgreSQL 18, appendix A)."""

    CANNOT_CONNECT = "08001"
    CONNECTION_FAILURE = "08006"
    PROTOCOL_VIOLATION = "08P01"
    FEATURE_NOT_SUPPORTED = "0A000"
    FAILED_TRANSACTION = "25P02"
    IDLE_IN_TRANSACTION_TIMEOUT = "25P03"
    TRANSACTION_TIMEOUT = "25P04"
    INVALID_AUTHORIZATION = "28000"
    INVALID_PASSWORD = "28P01"
    UNKNOWN_DATABASE = "3D000"
    TOO_MANY_CONNECTIONS = "53300"
    NOT_ACCEPTING = "55000"
    LIMIT_EXCEEDED = "54000"
    QUERY_CANCELED = "57014"
    ADMIN_SHUTDOWN = "57P01"
    IDLE_SESSION_TIMEOUT = "57P05"
    INTERNAL_ERROR = "XX000"


class Reason(enum.Enum):
    """Why a connection ended. Every disconnect has one; it reaches the log and the statistics."""

    CLIENT_TERMINATED = "client terminated"
    CLIENT_VANISHED = "client vanished"
    CLIENT_IDLE_TIMEOUT = "client idle timeout"
    CLIENT_LOGIN_TIMEOUT = "client login timeout"
    CLIENT_PROTOCOL_VIOLATION = "client protocol violation"
    CLIENT_TLS_FAILED = "client tls failed"
    CLIENT_AUTHENTICATION_FAILED = "client authentication failed"
    CLIENT_REFUSED = "client refused"
    CLIENT_KILLED = "client killed"
    DATABASE_REMOVED = "database removed"
    LISTENER_TOO_SLOW = "listener too slow"
    TOO_MANY_CLIENTS = "too many clients"
    SERVER_LOST_MID_MESSAGE = "server lost in the middle of a message"
    SERVER_LOST_WITH_SETTINGS = "server lost with settings"
    SERVER_CLOSED = "server closed the connection"
    SERVER_VANISHED = "server vanished"
    SERVER_PROTOCOL_VIOLATION = "server protocol violation"
    SERVER_NOT_RESOLVED = "server not resolved"
    SERVER_CONNECT_FAILED = "server connect failed"
    SERVER_TLS_FAILED = "server tls failed"
    SERVER_LOGIN_FAILED = "server login failed"
    SERVER_CONNECT_TIMEOUT = "server connect timeout"
    SERVER_UNSUITABLE = "server unsuitable"
    SERVER_IDLE_TIMEOUT = "server idle timeout"
    SERVER_LIFETIME = "server lifetime"
    SERVER_GAVE_WAY = "server gave way to another pool"
    SERVER_RETIRED = "server retired"
    SERVER_KILLED = "server killed"
    SERVER_NOT_CLEAN = "server not provably clean"
    SERVER_CLEANUP_TIMEOUT = "server cleanup timeout"
    STOPPING = "stopping"
    INTERNAL_ERROR = "internal error"


class TrioPoolError(Exception):
    """Base of everything that trio-pool raises on purpose."""


class ClientFault(TrioPoolError):
    """A client did what the protocol, its credentials or the limits do not allow.

    `sqlstate` and the message are what the client is told (severity FATAL); `detail` is for the log only, so
    that an unauthenticated peer learns nothing from it.
    """

    def __init__(
        self,
        message: str,
        sqlstate: str = SqlState.PROTOCOL_VIOLATION,
        *,
        reason: Reason = Reason.CLIENT_PROTOCOL_VIOLATION,
        detail: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.sqlstate = sqlstate
        self.reason = reason
        self.detail = detail


class ServerFault(TrioPoolError):
    """An origin refused us, broke the protocol, or went away.

    `sqlstate` is the server's own where it sent one. `lasting` tells that trying again soon will not help
    (wrong credentials, no such database), so that waiting clients are told at once.
    """

    def __init__(self, message: str, sqlstate: str = SqlState.CANNOT_CONNECT, *, reason: Reason) -> None:
        super().__init__(message)
        self.message = message
        self.sqlstate = sqlstate
        self.reason = reason

    @property
    def lasting(self) -> bool:
        """Credentials (class 28) and unknown databases (class 3D) do not mend themselves within a wait."""
        return self.sqlstate[:2] in ("28", "3D")


def internal_fault() -> ServerFault:
    """A bug of ours, in something that concerns one server connection."""
    return ServerFault("internal error of trio-pool", SqlState.INTERNAL_ERROR, reason=Reason.INTERNAL_ERROR)
