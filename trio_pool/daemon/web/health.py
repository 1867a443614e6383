"""Whether the process is alive, and whether it should get clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, PlainTextResponse

if TYPE_CHECKING:
    from starlette.responses import Response

    from trio_pool.daemon.seen import OriginSeen, ProcessSeen
    from trio_pool.daemon.web.source import Source

FRESH = {"Cache-Control": "no-store"}
"""Of every answer here: it is of now."""


def healthz() -> Response:
    """Whoever reads this has been answered by the event loop, which is all that it says."""
    return PlainTextResponse("ok\n", headers=FRESH)


async def readyz(source: Source) -> Response:
    """200 if new clients are served, else 503. The body says why not, and what is known of the origins."""
    process, origins = await source.readiness()
    obstacles = _obstacles(process, origins)
    body: dict[str, Any] = {
        "ready": not obstacles,
        "not_ready_because": obstacles,
        "databases": [_spell(origin) for origin in origins],
    }
    return JSONResponse(body, 503 if obstacles else 200, headers=FRESH)


def _obstacles(process: ProcessSeen, origins: list[OriginSeen]) -> list[str]:
    """What is in the way of every client; what is in the way of those of one database alone is not."""
    obstacles = []
    if not process.processes:
        obstacles.append("no worker serves")
    if process.stopping:
        obstacles.append("stopping")
    if process.suspended:
        obstacles.append("suspended")
    if origins and all(origin.state != "active" for origin in origins):
        states = {origin.state for origin in origins}
        obstacles.append(f"every database is {' or '.join(sorted(states))}")
    if origins and not any(origin.reachable for origin in origins):
        obstacles.append("no origin is reachable")
    return obstacles


def _spell(origin: OriginSeen) -> dict[str, Any]:
    return {
        "database": origin.database,
        "origin": origin.origin,
        "state": origin.state,
        "reachable": origin.reachable,
        "failure": origin.failure,
    }
