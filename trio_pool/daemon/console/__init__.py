"""The administration console: PgBouncer's commands over the ordinary listener, and some of our own.

It reads what is to be seen from the census, and leaves what is to be done to the operations; it knows nothing
of the data plane. `docs/console.md` is its reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_pool.daemon.census import Census
from trio_pool.daemon.console.session import ConsoleSession
from trio_pool.daemon.console.show import View

if TYPE_CHECKING:
    from trio_pool.daemon.service import Service
    from trio_pool.net.conversation import Conversation
    from trio_pool.wire.startup import StartupMessage

__all__ = ["serve"]


async def serve(conversation: Conversation, service: Service, user: str, startup: StartupMessage) -> None:
    """The life of a client of the console, from AuthenticationOk on. Raises `EndOfStream`."""
    console = service.clients.consoles[conversation]
    await ConsoleSession(conversation, View(service, Census(service)), user, console).run()
