"""Structured logs: for a person when standard error is a terminal, else one JSON object per line."""

from __future__ import annotations

import sys

import structlog


def configure_logs(*, level: str = "info") -> None:
    """Send all log events to standard error.

    Called by programs, never by the library: an embedding program has its own configuration.
    """
    terminal = sys.stderr.isatty()
    # Not the tracebacks of rich, which show local variables: those hold passwords and clients' data.
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if terminal
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if terminal else [structlog.processors.format_exc_info]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
