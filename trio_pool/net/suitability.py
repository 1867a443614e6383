"""Whether a server is of the kind that `target_session_attrs` asks for.

As in libpq (PostgreSQL 18, `PQconnectPoll`, CONNECTION_CHECK_TARGET): what decides are two parameters that
PostgreSQL 14 and later report at log-in. An older one, or a pooler that reports neither, is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_pool.config.origin import TargetSessionAttrs
from trio_pool.errors import Reason, ServerFault
from trio_pool.wire import messages
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from trio_pool.net.conversation import Conversation

IN_HOT_STANDBY = "in_hot_standby"
DEFAULT_READ_ONLY = "default_transaction_read_only"


async def misfit(
    conversation: Conversation, parameters: dict[str, str], wanted: TargetSessionAttrs
) -> str | None:
    """Why a server that has logged us in will not do; None if it does.

    `parameters` are those that it has reported. Raises `ServerFault` if it has to be asked and does not tell,
    `EndOfStream`, `FramingError`.
    """
    match wanted:
        case TargetSessionAttrs.ANY:
            return None
        case TargetSessionAttrs.READ_WRITE | TargetSessionAttrs.READ_ONLY:
            reported = [parameters.get(IN_HOT_STANDBY), parameters.get(DEFAULT_READ_ONLY)]
            read_only = await _is_on(conversation, reported, "SHOW transaction_read_only")
            fits = read_only is (wanted is TargetSessionAttrs.READ_ONLY)
            found = "is read-only" if read_only else "is not read-only"
        case _:
            reported = [parameters.get(IN_HOT_STANDBY)]
            standby = await _is_on(conversation, reported, "SELECT pg_catalog.pg_is_in_recovery()")
            fits = standby is not (wanted is TargetSessionAttrs.PRIMARY)
            found = "is a standby" if standby else "is not a standby"
    return None if fits else f"{found}, and target_session_attrs is {wanted}"


async def _is_on(conversation: Conversation, reported: list[str | None], question: str) -> bool:
    if None in reported:
        reported = [await _ask(conversation, question)]
    return any(value in ("on", "t") for value in reported)


async def _ask(conversation: Conversation, question: str) -> str | None:
    """The answer to a query that has one row with one column."""
    await conversation.send(messages.query(question))
    answer: str | None = None
    refusal = ""
    while True:
        tag, body = await conversation.message()
        match tag:
            case Backend.DATA_ROW:
                answer = messages.read_row(body)[0]
            case Backend.ERROR_RESPONSE:
                refusal = messages.read_error(body).summary
            case Backend.READY_FOR_QUERY:
                if answer is None:
                    raise ServerFault(
                        f"the server does not answer {question}: {refusal}", reason=Reason.SERVER_UNSUITABLE
                    )
                return answer
