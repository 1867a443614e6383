"""Another configuration for a running pooler, all or nothing.

`prepare` does what can fail or takes time, and changes nothing: certificates are loaded, keys derived from
passwords. `Prepared.apply` then does the rest at one moment, between two events of the data plane. What it
does to those who are connected is in applying.py.
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Final

import attrs
import trio

from trio_pool.config.durations import format_duration
from trio_pool.config.model import Database
from trio_pool.config.problems import ConfigurationError, Problem, spell_path
from trio_pool.config.secret import Secret
from trio_pool.daemon.applying import configure
from trio_pool.net import tls
from trio_pool.net.liveness import Keepalive
from trio_pool.net.lookup import access_of
from trio_pool.net.tunnel import unusable

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping

    from trio_pool.config.model import Config
    from trio_pool.config.problems import KeyPath
    from trio_pool.config.tunnel import Tunnel, TunnelDial, TunnelListen
    from trio_pool.daemon.service import Service
    from trio_pool.net.dial import OriginAccess
    from trio_pool.net.welcome import Reception

RESTARTS: Final[frozenset[KeyPath]] = frozenset(
    {("listen", "addresses"), ("listen", "workers"), ("http", "address")}
)
"""What holds until the next start."""
TUNNEL: Final[KeyPath] = ("tunnel",)
"""Of which only where it listens holds until the next start."""
LONGEST = 60
"""Characters of a value that are shown."""


@attrs.frozen
class Contexts:
    """What was made of the files that a configuration names, and of the system's options."""

    of: Mapping[str, ssl.SSLContext]
    """For the origin of each table of `[databases]`."""
    lookups: Mapping[str, OriginAccess]
    keepalive: Keepalive


@attrs.frozen
class Prepared:
    """A configuration that can be applied."""

    service: Service
    config: Config
    reception: Reception
    contexts: Contexts

    def apply(self) -> list[str]:
        """Apply it. Returns a line for each thing that has changed, or that takes a restart."""
        lines = list(describe(self.service.config, self.config, self.service.started_with))
        configure(self.service, self.config, self.reception, self.contexts)
        return lines


async def prepare(service: Service, config: Config) -> Prepared:
    """Raises `ConfigurationError`; changes nothing."""
    return await trio.to_thread.run_sync(_prepare, service, config)


def _prepare(service: Service, config: Config) -> Prepared:
    where = str(service.config_path or "configuration")
    problems: list[Problem] = []
    contexts: dict[str, ssl.SSLContext] = {}
    lookups: dict[str, OriginAccess] = {}
    made: dict[tuple[object, ...], ssl.SSLContext] = {}
    for name, database in config.databases.items():
        origin = database.origin
        files = (origin.sslmode, origin.sslrootcert, origin.sslcert, origin.sslkey)
        try:
            if files not in made:
                made[files] = tls.origin_context(origin)
            contexts[name] = made[files]
            if config.auth.query is not None:
                lookups[name] = access_of(database, config.auth, contexts[name], service.tunnels)
        except OSError as error:
            problems.append(_cannot_load(where, ("databases", name, "origin"), error))
    keepalive = Keepalive()
    reception = None
    try:
        keepalive = Keepalive.of(config.listen)
        reception = service.reception_by(config, service.reception)
    except ConfigurationError as error:
        problems += error.problems
    except (OSError, ValueError) as error:
        problems.append(_cannot_load(where, ("listen", "tls", "certificate"), error))
    problems += [_cannot_load(where, path, error) for path, error in unusable(config.tunnel)]
    if problems or reception is None:
        raise ConfigurationError(problems)
    return Prepared(service, config, reception, Contexts(contexts, lookups, keepalive))


def _cannot_load(where: str, path: KeyPath, error: Exception) -> Problem:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return Problem(
        where, None, path, f"its certificates cannot be loaded: {why}", "correct the files or their names"
    )


def describe(before: Config, after: Config, started_with: Config) -> Iterator[str]:
    """What differs, a line each. Passwords are not shown; databases and users that come or go are one line.

    What takes a restart is compared to what the process was started with, so that it is said again until that
    has been done.
    """
    old, new, running = (_flat(config) for config in (before, after, started_with))
    general = {path[1:]: (old[path], new[path]) for path in new if path[0] == "timeouts"}
    for path in [*new, *(path for path in old if path not in new)]:
        if path in RESTARTS:
            if running[path] != new[path]:
                wanted = _show(new[path])
                yield f"{spell_path(path)}: still {_show(running[path])}, takes a restart to become {wanted}"
        elif path == TUNNEL:
            yield from _tunnel_changes(before.tunnel, after.tunnel, started_with.tunnel)
        elif path not in old:
            if len(path) == 2:
                yield f"{spell_path(path)}: added"
        elif path not in new:
            if len(path) == 2:
                yield f"{spell_path(path)}: removed"
        elif len(path) > 2 and path[2] == "timeouts" and general.get(path[3:]) == (old[path], new[path]):
            pass  # it is said once
        elif old[path] != new[path]:
            yield f"{spell_path(path)}: {_change(old[path], new[path])}"


def _tunnel_changes(before: Tunnel, after: Tunnel, started_with: Tunnel) -> Iterator[str]:
    """Which edges are dialled can be changed at any time, and who may come, but not where."""
    running, wanted = (_listens_at(tunnel) for tunnel in (started_with, after))
    if running != wanted:
        yield f"tunnel.listen.address: still {_show(running)}, takes a restart to become {_show(wanted)}"
    if before.listen is not None and after.listen is not None:
        yield from _differing("tunnel.listen", before.listen, after.listen, {"address"})
    for name in [*after.dial, *(name for name in before.dial if name not in after.dial)]:
        if name not in before.dial:
            yield f"tunnel.dial.{name}: added"
        elif name not in after.dial:
            yield f"tunnel.dial.{name}: removed"
        else:
            yield from _differing(f"tunnel.dial.{name}", before.dial[name], after.dial[name], {"name"})


def _listens_at(tunnel: Tunnel) -> object:
    return tunnel.listen.address if tunnel.listen is not None else None


def _differing(
    where: str,
    before: TunnelListen | TunnelDial,
    after: TunnelListen | TunnelDial,
    aside: set[str],
) -> Iterator[str]:
    old, new = (attrs.asdict(table, recurse=False) for table in (before, after))
    for key in old:
        if key not in aside and old[key] != new[key]:
            yield f"{where}.{key}: {_change(old[key], new[key])}"


def _flat(value: object, path: KeyPath = ()) -> dict[KeyPath, object]:
    """Every value by its path; the tables of [databases] and [users] are values of their own, None."""
    if attrs.has(type(value)) and not _is_value(path):
        fields = attrs.fields(type(value))  # type: ignore[arg-type]
        parts: dict[str, object] = {field.name: getattr(value, field.name) for field in fields}
        named = len(path) == 2 and path[0] in ("databases", "users")
        flat: dict[KeyPath, object] = {path: None} if named else {}
        if named:
            del parts["name"]
        if isinstance(value, Database):
            parts["password"] = value.origin.password
            parts["origin"] = attrs.evolve(value.origin, password=None)
    elif path in {("databases",), ("users",)}:
        parts, flat = dict(value), {}  # type: ignore[call-overload]
    else:
        return {path: value}
    for name, part in parts.items():
        flat |= _flat(part, (*path, name))
    return flat


def _is_value(path: KeyPath) -> bool:
    return path in RESTARTS or path == TUNNEL or (len(path) == 3 and path[2] == "origin")


def _change(old: object, new: object) -> str:
    if isinstance(old, Secret) or isinstance(new, Secret):
        return "changed"
    return f"{_show(old)} -> {_show(new)}"


def _show(value: object) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return "0" if value == math.inf else format_duration(value)
    if isinstance(value, tuple):
        text = ", ".join(map(_show, value))
        text = f"[{text}]"
    else:
        text = str(value.value if isinstance(value, enum.Enum) else value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
