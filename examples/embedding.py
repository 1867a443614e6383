"""A Trio program with a pooler of its own: `python embedding.py postgresql://user:password@host/database`."""

from __future__ import annotations

import sys
from typing import Any

import pg8000.native
import trio

import trio_pool


def ask(port: int, question: str) -> Any:
    """One query, by a driver that knows nothing of the pooler. It blocks, so it runs in a thread."""
    connection = pg8000.native.Connection(
        "app", host="127.0.0.1", port=port, database="db", password="secret"
    )
    with connection:
        return connection.run(question)[0][0]


async def main(origin: str) -> None:
    config = trio_pool.Config.from_dict(
        {
            "listen": {"addresses": ["127.0.0.1:0"]},
            "users": {"app": {"password": "secret"}},
            "databases": {"db": {"origin": origin, "pool_size": 2}},
        }
    )
    async with trio.open_nursery() as nursery:
        service: trio_pool.Service = await nursery.start(trio_pool.serve, config)
        port = int(service.addresses[0].rpartition(":")[2])

        answer = await trio.to_thread.run_sync(ask, port, "select 6 * 7")
        print("The answer is", answer)

        service.stop()  # drains, then the nursery ends; cancelling the nursery would stop it at once


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
