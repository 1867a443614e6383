"""The ASGI application: metrics, health, and the status page.

Endpoints are coroutines, without exception: Starlette would run others in threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.routing import Route

from trio_pool.daemon.web import page
from trio_pool.daemon.web.health import healthz, readyz
from trio_pool.daemon.web.metrics import Metrics

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from trio_pool.daemon.web.snapshot import Sampler
    from trio_pool.daemon.web.source import Source


def make_app(source: Source, sampler: Sampler) -> Starlette:
    """Everything that `[http] address` serves."""
    metrics = Metrics(source)

    async def show_health(request: Request) -> Response:
        return healthz()

    async def show_readiness(request: Request) -> Response:
        return await readyz(source)

    return Starlette(
        routes=[
            Route("/metrics", metrics.respond),
            Route("/healthz", show_health),
            Route("/readyz", show_readiness),
            *page.routes(sampler),
        ]
    )
