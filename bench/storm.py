"""Clients that connect, ask once and go, again and again. A load: see `bench.loads`.

Threads, each with one connection at a time: they mostly wait, and blocking calls are the least work.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import attrs

from . import loads, session
from .login import HOST
from .problems import TargetError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from trio_pool.protocol.credentials import ScramKeys

    from .login import Login

QUERY = "SELECT 1"


@attrs.define(eq=False)
class Storm:
    """Until `deadline`, a monotonic time; `taken` are milliseconds of one connection from first to last."""

    login: Login
    deadline: float
    context: ssl.SSLContext | None
    keys: ScramKeys | None
    taken: list[float] = attrs.field(factory=list)
    failure: Exception | None = None

    def rage(self, source: str | None) -> None:
        """One thread's part; ends when another failed."""
        try:
            while self.failure is None and time.monotonic() < self.deadline:
                begin = time.monotonic()
                client = session.Session.connect(self.login, self.context, source, self.keys)
                try:
                    client.query(QUERY)
                    client.until(b"Z")
                finally:
                    client.close()
                self.taken.append((time.monotonic() - begin) * 1e3)
        except Exception as error:  # whatever it is: a thread that ends unnoticed would look like slowness
            self.failure = error


def rage(login: Login, seconds: float, options: Mapping[str, Any]) -> dict[str, Any]:
    """So many `threads` for so long; the first failure of one is raised."""
    context = session.tls_context(login)
    first = session.Session.connect(login, context)
    first.close()
    begin, used = time.monotonic(), time.process_time()
    storm = Storm(login, begin + seconds, context, first.keys)
    threads = [
        threading.Thread(target=storm.rage, args=(_source(login, one) if options["sources"] else None,))
        for one in range(options["threads"])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if storm.failure is not None:
        raise storm.failure
    if not storm.taken:
        raise TargetError(f"no connection was served within {seconds:g} s")
    lasted = time.monotonic() - begin
    load = (time.process_time() - used) / lasted
    return {"seconds": lasted, "taken": storm.taken, "load": load}


def _source(login: Login, thread: int) -> str | None:
    """An address for each thread: one has 28,232 ephemeral ports, each unusable for a while after its use.

    Only Linux has more than one on the loopback interface without being told.
    """
    return f"127.0.1.{1 + thread}" if login.host == HOST and sys.platform == "linux" else None


if __name__ == "__main__":
    loads.main(rage)
