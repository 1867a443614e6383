"""The configuration: model, TOML reader, reference.

``Config`` is what the rest of the program sees. It is made by ``read`` and ``parse`` from TOML, by
``Config.from_dict`` from Python values, or piece by piece from the model's classes, which then check nothing.
"""

from __future__ import annotations

from trio_pool.config.access import Auth, AuthMethod, Listen, ListenTLS, Rule, TlsMode, User
from trio_pool.config.address import Address, TcpAddress, UnixAddress, parse_address
from trio_pool.config.durations import OFF, format_duration, format_size, parse_duration, parse_size
from trio_pool.config.model import (
    CONSOLE_DATABASES,
    Admin,
    Cache,
    Config,
    Database,
    Http,
    Invalidation,
    PoolMode,
    Session,
    Unpoolable,
    WhenStale,
)
from trio_pool.config.origin import Origin, SslMode, parse_origin
from trio_pool.config.problems import ConfigurationError, Fault, Problem, Refused
from trio_pool.config.reader import parse, read
from trio_pool.config.secret import Secret
from trio_pool.config.timeouts import ClientTimeouts, Timeouts

__all__ = [
    "CONSOLE_DATABASES",
    "OFF",
    "Address",
    "Admin",
    "Auth",
    "AuthMethod",
    "Cache",
    "ClientTimeouts",
    "Config",
    "ConfigurationError",
    "Database",
    "Fault",
    "Http",
    "Invalidation",
    "Listen",
    "ListenTLS",
    "Origin",
    "PoolMode",
    "Problem",
    "Refused",
    "Rule",
    "Secret",
    "Session",
    "SslMode",
    "TcpAddress",
    "Timeouts",
    "TlsMode",
    "UnixAddress",
    "Unpoolable",
    "User",
    "WhenStale",
    "format_duration",
    "format_size",
    "parse",
    "parse_address",
    "parse_duration",
    "parse_origin",
    "parse_size",
    "read",
]
