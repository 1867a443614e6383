"""The commands that do something. What they do is in `daemon/operations.py`; here is how they are called and
what is answered, in PgBouncer's words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from trio_pool.config.problems import ConfigurationError
from trio_pool.daemon.console import show_config, show_process
from trio_pool.daemon.console.commands import Command, invalid, nearest
from trio_pool.daemon.console.failure import ConsoleError
from trio_pool.daemon.console.outcome import Outcome
from trio_pool.daemon.console.settings import changed, entries
from trio_pool.daemon.gathered.parts import ACT
from trio_pool.daemon.operations import OperationError
from trio_pool.daemon.purging import PurgeError, purge, read_purge
from trio_pool.daemon.workers.channel import WorkerError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_pool.config.model import Config
    from trio_pool.daemon.console.commands import Setting
    from trio_pool.daemon.console.outcome import Notices
    from trio_pool.daemon.console.settings import Entry
    from trio_pool.daemon.operations import Operations, ShutdownMode
    from trio_pool.daemon.service import Service

log = structlog.get_logger()

SHUTDOWN_MODES: Final[dict[str, ShutdownMode]] = {
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
        return await _apply(operations.service, None)
    except Refusal as refusal:
        raise ConsoleError(
            "RELOAD failed, see logs for additional details", sqlstate="F0000", detail=str(refusal)
        ) from None


async def _shutdown(operations: Operations, command: Command) -> None:
    mode = SHUTDOWN_MODES[command.argument.upper()]
    parent = operations.service.parent
    if parent is None:
        operations.shutdown(mode)
    else:
        parent.tell("shutdown", mode)  # the operator has the answer before the worker hears of it


class Refusal(Exception):
    """What is wrong with a configuration, a line for each."""


async def _apply(service: Service, config: Config | None) -> Notices:
    """Reload, in all processes: this configuration, or the file as it is now. Raises `Refusal`."""
    try:
        if service.parent is None:
            return await service.operations.reload(config)
        lines: Notices = await service.parent.call("reload", config)
        return lines
    except ConfigurationError as error:
        raise Refusal("\n".join(map(str, error.problems))) from None
    except WorkerError as error:
        if error.kind != ConfigurationError.__name__:
            raise
        raise Refusal(str(error)) from None


async def _purge(operations: Operations, command: Command) -> Notices:
    try:
        count = await purge(operations.service, read_purge(command.more))
    except PurgeError as error:
        raise ConsoleError(str(error)) from None
    return [f"{count} entries purged"]


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
_BY_THE_PARENT: Final = ("RELOAD", "SET", "SHUTDOWN")
"""What the parent does, where there is one, and not each worker by itself."""
_WITHOUT_ARGUMENT: Final = {"RELOAD", "SUSPEND"}
SPELLINGS: Final = (
    *(name for name in ACTIONS if name != "PURGE"),
    *(f"SHUTDOWN {mode}" for mode in SHUTDOWN_MODES if mode),
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
    return name != "SHUTDOWN" or argument.upper() in SHUTDOWN_MODES


async def act(service: Service, command: Command, user: str) -> tuple[str, Notices]:
    """Do it, in all processes. Returns the tag, and what else is to be said. Raises `ConsoleError`."""
    log.info("console command", user=user, command=command.name, argument=command.argument or None)
    return await _everywhere(service, command.name, command.argument, command.more)


async def change(
    service: Service, setting: Setting, user: str, known: tuple[str, ...]
) -> tuple[str, Notices]:
    """`SET key = value`, until the next reload. Returns the same."""
    if setting.key.lower() in _IGNORED:
        return "SET", ["SET ignored"]
    if not setting.key:
        raise invalid(f"SET {setting.key} = {setting.value}", known)
    entry, value = _find(service, setting.key, setting.value)
    log.info("console command", user=user, command="SET", key=entry.name, value=value)
    _, lines = await _everywhere(service, "SET", entry.name, value)
    return f"SET {setting.key}={setting.value}", lines


async def _everywhere(service: Service, name: str, argument: str, more: str) -> tuple[str, Notices]:
    if service.parent is None or name in _BY_THE_PARENT:
        return (await perform(service, name, argument, more)).unless_failed()
    try:
        outcome: Outcome = await service.parent.call(ACT, name, argument, more)
    except WorkerError as error:
        raise ConsoleError(str(error)) from None
    return outcome.unless_failed()


async def perform(service: Service, name: str, argument: str, more: str) -> Outcome:
    """Do it in this process alone, unless it is the parent's to do."""
    try:
        if name == "SET":
            return Outcome(name, await _set(service, argument, more))
        notices = await ACTIONS[name](service.operations, Command(name, argument, more))
    except (OperationError, WorkerError) as error:
        return Outcome(name, [], ConsoleError(str(error)))
    except ConsoleError as failure:
        return Outcome(name, [], failure)
    return Outcome("PURGE CACHE" if name == "PURGE" else name, notices or [])


async def _set(service: Service, key: str, text: str) -> Notices:
    entry, value = _find(service, key, text)
    try:
        return await _apply(service, changed(service.config, entry, value))
    except Refusal as refusal:
        raise ConsoleError("SET failed", detail=str(refusal)) from None


def _find(service: Service, key: str, value: str) -> tuple[Entry, str]:
    found = show_config.find(service.config, key, value)
    if found is None:
        names = [*show_config.ALIASES, *(entry.name for entry in entries(service.config))]
        near = nearest(key.lower(), names)
        raise ConsoleError("SET failed", hint=f"The nearest key is {near}." if near else None)
    return found
