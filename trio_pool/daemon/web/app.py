"""The ASGI application: metrics, health, and the status page.

Endpoints are coroutines, without exception: Starlette would run others in threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.routing import Route

from trio_pool.daemon.web.health import healthz, readyz
from trio_pool.daemon.web.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from trio_pool.daemon.service import Service


def make_app(service: Service) -> Starlette:
    """Everything that `[http] address` serves. It holds the service only to look at it."""
    metrics = Metrics(service)

    async def show_health(request: Request) -> Response:
        return healthz()

    async def show_readiness(request: Request) -> Response:
        return await readyz(service)

    return Starlette(
        routes=[
            Route("/metrics", metrics.respond),
            Route("/healthz", show_health),
            Route("/readyz", show_readiness),
            *_page(service),
        ]
    )


def _page(service: Service) -> Sequence[BaseRoute]:
    try:
        from trio_pool.daemon.web.page import routes
    except ModuleNotFoundError as error:
        if error.name != "trio_pool.daemon.web.page":
            raise
        return ()
    return routes(service)
