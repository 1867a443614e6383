"""The commands that do something. What they do is in `daemon/operations.py`; here is how they are called and
what is answered, in PgBouncer's words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from trio_pool.config.problems import ConfigurationError
from trio_pool.daemon.console import show_config, show_process
from trio_pool.daemon.console.commands import invalid, nearest
from trio_pool.daemon.console.failure import ConsoleError
from trio_pool.daemon.console.settings import changed, entries
from trio_pool.daemon.operations import OperationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_pool.daemon.console.commands import Command, Setting
    from trio_pool.daemon.operations import Operations, ShutdownMode
    from trio_pool.daemon.service import Service

log = structlog.get_logger()

Notices = list[str]
"""Lines that the operator is told along with the success."""

_SHUTDOWN: Final[dict[str, ShutdownMode]] = {
    "": "",
    "WAIT_FOR_SERVERS": "wait_for_servers",
    "WAIT_FOR_CLIENTS": "wait_for_clients",
}
_IGNORED: Final = {*show_process.PRETENDED, "application_name", "client_min_messages", "intervalstyle"}
"""What drivers set without being asked to, and is of no use here."""


async def _pause(operations: Operations, command: Command) -> None:
    await operations.pause(command.argument or None)


async def _resume(operations: Operations, command: Command) -> None:
    await operations.resume(command.argument or None)


async def _kill(operations: Operations, command: Command) -> None:
    await operations.kill(command.argument or None)


async def _wait_close(operations: Operations, command: Command) -> None:
    await operations.wait_close(command.argument or None)


async def _suspend(operations: Operations, command: Command) -> None:
    await operations.suspend()


async def _reconnect(operations: Operations, command: Command) -> None:
    operations.reconnect(command.argument or None)


async def _disable(operations: Operations, command: Command) -> None:
    operations.disable(_needed(command))


async def _enable(operations: Operations, command: Command) -> None:
    operations.enable(_needed(command))


async def _kill_client(operations: Operations, command: Command) -> None:
    if not command.argument.isdecimal():
        raise ConsoleError("invalid client pointer supplied")
    if not operations.kill_client(int(command.argument)):
        raise ConsoleError("client not found")


async def _reload(operations: Operations, command: Command) -> Notices:
    try:
        return await operations.reload()
    except ConfigurationError as error:
        raise ConsoleError(
            "RELOAD failed, see logs for additional details",
            sqlstate="F0000",
            detail="\n".join(map(str, error.problems)),
        ) from None


async def _shutdown(operations: Operations, command: Command) -> None:
    operations.shutdown(_SHUTDOWN[command.argument.upper()])


async def _purge(operations: Operations, command: Command) -> Notices:
    """There is no cache yet, so nothing is in it."""
    if command.more and operations.service.config.database(command.more) is None:
        raise ConsoleError(f"no such database: {command.more}")
    return ["0 entries purged"]


def _needed(command: Command) -> str:
    if not command.argument:
        raise ConsoleError("a database is required")
    return command.argument


ACTIONS: Final[dict[str, Callable[[Operations, Command], Awaitable[Notices | None]]]] = {
    "DISABLE": _disable,
    "ENABLE": _enable,
    "KILL": _kill,
    "KILL_CLIENT": _kill_client,
    "PAUSE": _pause,
    "PURGE": _purge,
    "RECONNECT": _reconnect,
    "RELOAD": _reload,
    "RESUME": _resume,
    "SHUTDOWN": _shutdown,
    "SUSPEND": _suspend,
    "WAIT_CLOSE": _wait_close,
}
_WITHOUT_ARGUMENT: Final = {"RELOAD", "SUSPEND"}
SPELLINGS: Final = (
    *(name for name in ACTIONS if name != "PURGE"),
    *(f"SHUTDOWN {mode}" for mode in _SHUTDOWN if mode),
    "PURGE CACHE",
)
"""What a slip of the pen is compared with."""


def is_action(command: Command) -> bool:
    """Whether there is such a command, with so many words."""
    name, argument = command.name, command.argument
    if name == "PURGE":
        return argument.upper() == "CACHE"
    if name not in ACTIONS or command.more or (argument and name in _WITHOUT_ARGUMENT):
        return False
    return name != "SHUTDOWN" or argument.upper() in _SHUTDOWN


async def act(service: Service, command: Command, user: str) -> tuple[str, Notices]:
    """Do it. Returns the command tag, and what else is to be said. Raises `ConsoleError`."""
    log.info("console command", user=user, command=command.name, argument=command.argument or None)
    try:
        notices = await ACTIONS[command.name](service.operations, command)
    except OperationError as error:
        raise ConsoleError(str(error)) from None
    return "PURGE CACHE" if command.name == "PURGE" else command.name, notices or []


async def change(
    service: Service, setting: Setting, user: str, known: tuple[str, ...]
) -> tuple[str, Notices]:
    """`SET key = value`, until the next reload. Returns the same."""
    if setting.key.lower() in _IGNORED:
        return "SET", ["SET ignored"]
    if not setting.key:
        raise invalid(f"SET {setting.key} = {setting.value}", known)
    found = show_config.find(service.config, setting.key, setting.value)
    if found is None:
        names = [*show_config.ALIASES, *(entry.name for entry in entries(service.config))]
        near = nearest(setting.key.lower(), names)
        raise ConsoleError("SET failed", hint=f"The nearest key is {near}." if near else None)
    entry, value = found
    log.info("console command", user=user, command="SET", key=entry.name, value=value)
    try:
        lines = await service.operations.reload(changed(service.config, entry, value))
    except ConfigurationError as error:
        raise ConsoleError("SET failed", detail="\n".join(map(str, error.problems))) from None
    except OperationError as error:
        raise ConsoleError(str(error)) from None
    return f"SET {setting.key}={setting.value}", lines
