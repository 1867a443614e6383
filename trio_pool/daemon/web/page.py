"""The status page: one file of HTML, and the snapshots that it shows, once and as server-sent events."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from importlib import resources
from typing import TYPE_CHECKING

import attrs
import trio
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route

from trio_pool.daemon.web.health import FRESH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute
    from starlette.types import Receive, Scope, Send

    from trio_pool.daemon.web.snapshot import Json, Sampler


def routes(sampler: Sampler) -> Sequence[BaseRoute]:
    """`/`, `/snapshot.json` and `/events`."""

    async def show_page(request: Request) -> Response:
        return HTMLResponse(page(), headers={**FRESH, "Content-Security-Policy": policy()})

    async def show_snapshot(request: Request) -> Response:
        return JSONResponse(sampler.latest or await sampler.next(), headers=FRESH)

    return (
        Route("/", show_page),
        Route("/snapshot.json", show_snapshot),
        Route("/events", Events(sampler)),
    )


@attrs.frozen
class Events:
    """An ASGI application: the history, then each snapshot, as server-sent events until the browser goes."""

    sampler: Sampler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {"Content-Type": "text/event-stream", **FRESH}
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": encoded})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell, send)
            while (await receive())["type"] != "http.disconnect":
                pass
            nursery.cancel_scope.cancel()

    async def _tell(self, send: Send) -> None:
        sampler = self.sampler
        event = _event("history", [*sampler.history])
        if sampler.latest:
            event += _event("snapshot", sampler.latest)
        while True:
            await send({"type": "http.response.body", "body": event, "more_body": True})
            event = _event("snapshot", await sampler.next())


def _event(name: str, data: Json | Sequence[Json]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


@functools.cache
def page() -> str:
    """The file. It needs nothing else: no other file, nothing from elsewhere."""
    return resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")


@functools.cache
def policy() -> str:
    """Nothing runs and nothing is loaded but what stands in the page and the events of the same origin."""
    script, style = (_hashes(tag) for tag in ("script", "style"))
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hashes(tag: str) -> str:
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", page(), re.DOTALL)
    digests = (hashlib.sha256(text.encode()).digest() for text in found)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
