"""Message tags by direction, and the codes of startup and authentication.

The one module that imports `pg8000.core`. Its constants are one-byte strings whose names collide by direction
(`b"C"` is both CommandComplete and Close), so they are split here into `Frontend` (sent by clients) and
`Backend` (sent by servers) and turned into integers, which is what indexing a byte string gives. What pg8000
does not need and a pooler does is added.

Source: PostgreSQL 18, chapter "Frontend/Backend Protocol", section "Message Formats".
"""

from __future__ import annotations

from typing import Final

from pg8000 import core


class Frontend:
    """Tags of messages that clients send."""

    QUERY: Final[int] = core.QUERY[0]
    PARSE: Final[int] = core.PARSE[0]
    BIND: Final[int] = core.BIND[0]
    DESCRIBE: Final[int] = core.DESCRIBE[0]
    EXECUTE: Final[int] = core.EXECUTE[0]
    CLOSE: Final[int] = core.CLOSE[0]
    SYNC: Final[int] = core.SYNC[0]
    FLUSH: Final[int] = core.FLUSH[0]
    PASSWORD: Final[int] = core.PASSWORD[0]  # also SASLInitialResponse and SASLResponse
    TERMINATE: Final[int] = core.TERMINATE[0]
    COPY_DATA: Final[int] = core.COPY_DATA[0]
    COPY_DONE: Final[int] = core.COPY_DONE[0]
    COPY_FAIL: Final = ord("f")
    FUNCTION_CALL: Final = ord("F")


class Backend:
    """Tags of messages that servers send."""

    AUTHENTICATION: Final[int] = core.AUTHENTICATION_REQUEST[0]
    BACKEND_KEY_DATA: Final[int] = core.BACKEND_KEY_DATA[0]
    BIND_COMPLETE: Final[int] = core.BIND_COMPLETE[0]
    CLOSE_COMPLETE: Final[int] = core.CLOSE_COMPLETE[0]
    COMMAND_COMPLETE: Final[int] = core.COMMAND_COMPLETE[0]
    COPY_BOTH_RESPONSE: Final = ord("W")
    COPY_DATA: Final[int] = core.COPY_DATA[0]
    COPY_DONE: Final[int] = core.COPY_DONE[0]
    COPY_IN_RESPONSE: Final[int] = core.COPY_IN_RESPONSE[0]
    COPY_OUT_RESPONSE: Final[int] = core.COPY_OUT_RESPONSE[0]
    DATA_ROW: Final[int] = core.DATA_ROW[0]
    EMPTY_QUERY_RESPONSE: Final[int] = core.EMPTY_QUERY_RESPONSE[0]
    ERROR_RESPONSE: Final[int] = core.ERROR_RESPONSE[0]
    FUNCTION_CALL_RESPONSE: Final = ord("V")
    NEGOTIATE_PROTOCOL_VERSION: Final = ord("v")
    NO_DATA: Final[int] = core.NO_DATA[0]
    NOTICE_RESPONSE: Final[int] = core.NOTICE_RESPONSE[0]
    NOTIFICATION_RESPONSE: Final[int] = core.NOTIFICATION_RESPONSE[0]
    PARAMETER_DESCRIPTION: Final[int] = core.PARAMETER_DESCRIPTION[0]
    PARAMETER_STATUS: Final[int] = core.PARAMETER_STATUS[0]
    PARSE_COMPLETE: Final[int] = core.PARSE_COMPLETE[0]
    PORTAL_SUSPENDED: Final[int] = core.PORTAL_SUSPENDED[0]
    READY_FOR_QUERY: Final[int] = core.READY_FOR_QUERY[0]
    ROW_DESCRIPTION: Final[int] = core.ROW_DESCRIPTION[0]


class Status:
    """The transaction status byte of ReadyForQuery."""

    IDLE: Final[int] = core.IDLE[0]
    IN_TRANSACTION: Final[int] = core.IN_TRANSACTION[0]
    FAILED: Final[int] = core.IN_FAILED_TRANSACTION[0]


class Target:
    """What Describe and Close name: a prepared statement or a portal."""

    STATEMENT: Final[int] = core.STATEMENT[0]
    PORTAL: Final[int] = core.PORTAL[0]


class StartupCode:
    """The first integer of a message without a tag (section "Start-up")."""

    PROTOCOL_3_0: Final = 3 << 16
    PROTOCOL_3_2: Final = 3 << 16 | 2
    CANCEL: Final = 80877102
    SSL: Final = 80877103
    GSSENC: Final = 80877104


class AuthenticationCode:
    """The first integer of an Authentication message."""

    OK: Final = 0
    CLEARTEXT_PASSWORD: Final = 3
    MD5_PASSWORD: Final = 5
    SASL: Final = 10
    SASL_CONTINUE: Final = 11
    SASL_FINAL: Final = 12
