"""Makes a ``Config`` from a TOML file, from text, or from Python values, and finds all problems at once.

Each table is read by itself: a key that is refused is reported and left at its default, so that reading goes
on to the end. What then contradicts each other is found by ``checks`` on the whole model; a finding that
rests on a refused key is dropped. Only when all is read is there an error or a configuration.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import attrs

from trio_pool.config import tables
from trio_pool.config.access import Auth, Listen, ListenTLS, Rule, User
from trio_pool.config.checks import find_faults
from trio_pool.config.kinds import is_near, nearest, wrong_type
from trio_pool.config.lines import find_lines, line_of
from trio_pool.config.model import Admin, Cache, Config, Database, Http, Session
from trio_pool.config.origin import Origin
from trio_pool.config.problems import ConfigurationError, Fault, KeyPath, Problem, Refused
from trio_pool.config.secret import Secret
from trio_pool.config.timeouts import ClientTimeouts, Timeouts
from trio_pool.config.tunnel import Tunnel, TunnelDial, TunnelListen

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_pool.config.tables import Table

_Entry = TypeVar("_Entry")

# Stands in for an origin that was refused, so that the rest of its database is still read and checked.
_NO_ORIGIN = Origin(hosts=())


def read(path: str | os.PathLike[str]) -> Config:
    """The configuration in a TOML file. Raises ``ConfigurationError``, also if the file cannot be read."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        _fail(str(path), None, f"the file cannot be read: {reason}", "correct the path or its permissions")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        _fail(str(path), line, "the file is not UTF-8", "save it as UTF-8")
    return parse(text, where=str(path), base=path.parent)


def parse(
    text: str,
    *,
    where: str = "<string>",
    environ: Mapping[str, str] = os.environ,
    base: Path | None = None,
) -> Config:
    """The configuration in a TOML text, whose name in problems is ``where``. Raises ``ConfigurationError``.

    ``environ`` is where ``password_env`` looks, ``base`` what files are relative to (default: the working
    directory).
    """
    try:
        data = tomllib.loads(text)
    except ValueError as error:
        message, line = _place_syntax_error(str(error), text)
        _fail(where, line, f"not TOML: {message}", "correct the syntax, see https://toml.io")
    reading = _Reading(where, find_lines(text), environ, base or Path())
    return reading.config(data)


def from_dict(
    data: Mapping[str, object], *, environ: Mapping[str, str] | None = None, base: Path | None = None
) -> Config:
    """What ``Config.from_dict`` does; problems have no line."""
    reading = _Reading("<dict>", None, os.environ if environ is None else environ, base or Path())
    return reading.config(data)


def _fail(where: str, line: int | None, what: str, remedy: str) -> NoReturn:
    raise ConfigurationError([Problem(where, line, (), what, remedy)]) from None


def _place_syntax_error(message: str, text: str) -> tuple[str, int]:
    """``tomllib`` has the place only in its message, up to Python 3.13."""
    found = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)", message)
    if found is None:
        return message, 1
    line = int(found[1]) if found[1] else len(text.splitlines()) or 1
    return message[: found.start()], line


@attrs.define(eq=False)
class _Reading:
    """One pass over one document. Methods are named after the tables that they read."""

    where: str
    lines: dict[KeyPath, int] | None
    environ: Mapping[str, str]
    base: Path
    problems: list[Problem] = attrs.field(factory=list)

    def config(self, data: Mapping[str, object]) -> Config:
        self._report_unknown(data, (), tables.TOP_LEVEL)
        timeouts = Timeouts(**self._keys(tables.TIMEOUTS, data, ("timeouts",)))
        config = Config(
            listen=self._listen(data),
            auth=self._auth(data),
            users=self._named(data, "users", self._user),
            databases=self._named(
                data, "databases", lambda name, at, value: self._database(name, at, value, timeouts)
            ),
            timeouts=timeouts,
            session=Session(**self._keys(tables.SESSION, data, ("session",))),
            admin=Admin(**self._keys(tables.ADMIN, data, ("admin",))),
            http=Http(**self._keys(tables.HTTP, data, ("http",))),
            tunnel=self._tunnel(data),
        )
        for fault in [fault for fault in find_faults(config) if self._is_well_founded(fault)]:
            self._report((), fault)
        if self.problems:
            raise ConfigurationError(sorted(self.problems, key=lambda problem: problem.line or 0))
        return config

    def _listen(self, data: Mapping[str, object]) -> Listen:
        table = self._table(data, ("listen",))
        tls = ListenTLS(**self._keys(tables.LISTEN_TLS, table, ("listen", "tls")))
        return Listen(**self._keys(tables.LISTEN, data, ("listen",)), tls=tls)

    def _auth(self, data: Mapping[str, object]) -> Auth:
        table = self._table(data, ("auth",))
        rules: list[Rule] = []
        given = table.get("rules", [])
        if isinstance(given, list | tuple):
            for index in range(len(given)):
                values = self._keys(tables.RULE, given, ("auth", "rules", index))
                # A refused method keeps the rule's place, so that other problems still name the right rule.
                rules.append(Rule(**{"method": Auth().method} | values))
        else:
            self._report_refused(
                ("auth", "rules"), wrong_type(given, "an array of tables", "write [[auth.rules]]")
            )
        values = self._keys(tables.AUTH, data, ("auth",))
        password = self._password(values, ("auth",), tables.QueryPasswordSource)
        return Auth(**values, query_password=password, rules=tuple(rules))

    def _user(self, name: str, at: KeyPath, users: Mapping[str, object]) -> User:
        table = self._table(users, at)
        values = self._keys(tables.USER, users, at)
        timeouts = ClientTimeouts(**self._keys(tables.USER_TIMEOUTS, table, (*at, "timeouts")))
        return User(name, self._password(values, at), **values, timeouts=timeouts)

    def _database(
        self, name: str, at: KeyPath, databases: Mapping[str, object], general: Timeouts
    ) -> Database:
        values = self._keys(tables.DATABASE, databases, at)
        password = self._password(values, at)
        origin: Origin = values.pop("origin", _NO_ORIGIN)
        if password is not None:
            origin = attrs.evolve(origin, password=password)
        if origin.dbname is None and name != "*":
            origin = attrs.evolve(origin, dbname=name)
        table = self._table(databases, at)
        return Database(
            name,
            origin,
            **values,
            timeouts=attrs.evolve(general, **self._keys(tables.DATABASE_TIMEOUTS, table, (*at, "timeouts"))),
            cache=self._cache(table, (*at, "cache")),
        )

    def _cache(self, database: Mapping[str, object], at: KeyPath) -> Cache:
        values = self._keys(tables.CACHE, database, at)
        password = self._password(values, at, tables.ReplicationPasswordSource)
        return Cache(**values, replication_password=password)

    def _tunnel(self, data: Mapping[str, object]) -> Tunnel:
        table = self._table(data, ("tunnel",))
        self._report_unknown(table, ("tunnel",), ("listen", "dial"))
        listen = None
        if "listen" in table:
            listen = self._complete(TunnelListen, tables.TUNNEL_LISTEN, table, ("tunnel", "listen"))
        dial = {}
        dialled = self._table(table, ("tunnel", "dial"))
        for name in dialled:
            edges = self._complete(
                TunnelDial, tables.TUNNEL_DIAL, dialled, ("tunnel", "dial", name), name=name
            )
            if edges is not None:
                dial[name] = edges
        return Tunnel(listen, dial)

    def _complete(
        self,
        model: Callable[..., _Entry],
        table: Table,
        around: Mapping[str, object],
        at: KeyPath,
        **more: object,
    ) -> _Entry | None:
        """The model of a table; None if something required was missing or refused, which is reported."""
        values = self._keys(table, around, at)
        required = {name for name, (_, field) in table.keys.items() if field.default is attrs.NOTHING}
        return model(**values, **more) if required <= values.keys() else None

    def _named(
        self,
        data: Mapping[str, object],
        header: str,
        entry: Callable[[str, KeyPath, Mapping[str, object]], _Entry],
    ) -> dict[str, _Entry]:
        """The tables below [users] or [databases], by name."""
        named = self._table(data, (header,))
        for name in named:
            if not isinstance(name, str) or not name or "\0" in name:
                self._report((header, str(name)), Fault("is not a name", "choose one that is not empty"))
        return {name: entry(name, (header, name), named) for name in named}

    def _password(
        self,
        values: dict[str, Any],
        at: KeyPath,
        source: type[attrs.AttrsInstance] = tables.PasswordSource,
    ) -> Secret | None:
        """Takes the keys of the password out of ``values`` and follows them."""
        given = {name: values.pop(name) for name in attrs.fields_dict(source) if name in values}
        for surplus in list(given)[1:]:
            first = next(iter(given))
            self._report(
                (*at, surplus), Fault(f"the password is given by {first} already", "keep one of them")
            )
        try:
            match next(iter(given.values()), None):
                case Secret() as secret:
                    return secret
                case str() as variable:
                    return self._from_environment(variable)
                case Path() as path:
                    return self._from_file(path)
        except Refused as refused:
            self._report_refused((*at, next(iter(given))), refused)
        return None

    def _from_environment(self, variable: str) -> Secret:
        if not (value := self.environ.get(variable)):
            state = "is not set" if value is None else "is empty"
            raise Refused(
                Fault(f"the environment variable {variable} {state}", "export it before starting trio-pool")
            )
        return Secret(value)

    def _from_file(self, path: Path) -> Secret:
        try:
            text = path.read_text("utf-8").removesuffix("\n").removesuffix("\r")
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise Refused(
                Fault(f'the file "{path}" cannot be read: {reason}', "correct the path or its permissions")
            ) from None
        except UnicodeDecodeError:
            raise Refused(
                Fault(f'the file "{path}" is not UTF-8', "write the password as UTF-8 text")
            ) from None
        if not text or "\0" in text:
            raise Refused(
                Fault(f'the file "{path}" is empty or has a zero byte in it', "write the password into it")
            )
        return Secret(text)

    def _keys(self, table: Table, around: Mapping[str, object] | Any, at: KeyPath) -> dict[str, Any]:
        """The accepted values of the table at the last step of ``at``; what is refused is reported."""
        given = self._table(around, at)
        self._report_unknown(given, at, table.known)
        values: dict[str, Any] = {}
        for name, (key, field) in table.keys.items():
            if name in given:
                try:
                    values[name] = key.kind.read(given[name], self.base)
                except Refused as refused:
                    self._report_refused((*at, name), refused)
            elif field.default is attrs.NOTHING and not self._is_refused(at):
                self._report((*at, name), Fault("is missing", f"add {name} to this table"))
        return values

    def _table(self, around: Any, at: KeyPath) -> Mapping[str, object]:
        """The table at the last step of ``at``; empty if it is absent or no table, which is reported once."""
        step = at[-1]
        given = around[step] if isinstance(step, int) else around.get(step, {})
        if isinstance(given, Mapping):
            return given
        if not self._is_refused(at):
            self._report_refused(at, wrong_type(given, "a table", "see the reference of the configuration"))
        return {}

    def _report_unknown(self, given: Mapping[str, object], at: KeyPath, known: tuple[str, ...]) -> None:
        for name in given:
            if name in known:
                continue
            homes = [f"[{home}]" for home in tables.homes_of(str(name))]
            remedy = f'the nearest known one is "{nearest(str(name), known)}"'
            if homes and not is_near(str(name), known):
                remedy = f"it belongs in {' or '.join(homes)}; here {remedy}"
            self._report((*at, str(name)), Fault("unknown key", remedy))

    def _is_refused(self, path: KeyPath) -> bool:
        """Whether a problem stands there or at a table around it."""
        return any(path[: len(problem.path)] == problem.path for problem in self.problems)

    def _is_well_founded(self, fault: Fault) -> bool:
        """Whether what the fault was found from was accepted, so that it is news."""
        inside = any(
            problem.path[: len(path)] == path for problem in self.problems for path in fault.looks_at
        )
        return not inside and not any(self._is_refused(path) for path in (fault.at, *fault.looks_at))

    def _report_refused(self, at: KeyPath, refused: Refused) -> None:
        for fault in refused.faults:
            self._report(at, fault)

    def _report(self, at: KeyPath, fault: Fault) -> None:
        path = at + fault.at
        line = None if self.lines is None else line_of(path, self.lines)
        self.problems.append(Problem(self.where, line, path, fault.what, fault.remedy))
