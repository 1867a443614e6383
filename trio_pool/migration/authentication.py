"""How clients prove who they are: auth_type, the HBA file, the look-up of users."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from trio_pool.config.access import AuthMethod
from trio_pool.config.model import CONSOLE_DATABASES
from trio_pool.migration.context import short
from trio_pool.migration.hba import ANY_ADDRESS, Ignored, parse_hba

if TYPE_CHECKING:
    from trio_pool.migration.context import Import, Section
    from trio_pool.migration.document import Table
    from trio_pool.migration.hba import Line, Rule

DEFAULT_QUERY = (
    "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END FROM pg_authid "
    "WHERE rolname=$1 AND rolcanlogin"
)
"""PgBouncer 1.24 and 1.25."""

_TYPES = ("any", "trust", "plain", "md5", "scram-sha-256", "cert", "hba", "ldap", "pam")
_METHODS = {
    "plain": AuthMethod.PASSWORD,
    "password": AuthMethod.PASSWORD,
    "md5": AuthMethod.MD5,
    "scram-sha-256": AuthMethod.SCRAM_SHA_256,
    "cert": AuthMethod.CERT,
    "trust": AuthMethod.TRUST,
    "reject": AuthMethod.REJECT,
}
_FUNCTION_WITHOUT_SCHEMA = re.compile(r"\bfrom\s+\"?\w+\"?\s*\(", re.IGNORECASE)


def translate_authentication(work: Import) -> None:
    """After the databases and TLS, on which it depends."""
    table = work.document.table("auth")
    looks_up = _put_query(work, table)
    kind = work.general.word("auth_type", *_TYPES) or "md5"
    if kind == "hba":
        _put_rules(work, table, looks_up)
        return
    if work.general.text("auth_hba_file"):
        table.say(f"auth_hba_file: PgBouncer does not use it, auth_type is {kind}")
    if kind == "any":
        _put_any(work, table)
    elif kind == "trust":
        _put_trust(work, table, looks_up)
    elif kind in {"ldap", "pam"}:
        entry = work.general.entry("auth_type")
        work.warn(
            table, f"auth_type = {kind}: no equivalent; until you choose a method nobody is let in", entry
        )
        table.put("method", "reject")
    elif kind == "cert" and not _verifies_clients(work):
        work.general.refuse(
            "auth_type", "cert needs certificates of clients", "set client_tls_sslmode = verify-full"
        )
    else:
        remark = "auth_type" if "auth_type" in work.general.entries else "auth_type, PgBouncer's default"
        table.put("method", _METHODS[kind].value, remark)
        if kind == "plain":
            _allow_cleartext(work, table)


def _verifies_clients(work: Import) -> bool:
    return "client_ca" in work.document.table("listen", "tls").values


def _allow_cleartext(work: Import, table: Table) -> None:
    """As PgBouncer does without asking."""
    if "allow_cleartext_without_tls" in table.values:
        return
    if work.document.table("listen", "tls").values.get("mode") != "require":
        work.warn(table, "passwords travel in clear text, also over TCP without TLS, as with PgBouncer")
        table.put("allow_cleartext_without_tls", True)


def _put_any(work: Import, table: Table) -> None:
    """Everybody is let in, but only to databases whose entry names a user."""
    named = [name for name, section in work.databases.items() if section.text("user")]
    others = [name for name in work.databases if name not in named and name != "*"]
    if "*" in named:
        table.put("method", "trust", "auth_type = any")
        if others:
            table.say("auth_type = any: PgBouncer refuses clients of databases whose entry names no user")
            _rule(work, "reject", database=others)
        return
    table.put("method", "reject", "auth_type = any: only databases whose entry names a user")
    _rule(work, "trust", database=[*named, *sorted(CONSOLE_DATABASES)])


def _put_trust(work: Import, table: Table, looks_up: bool) -> None:
    """Everybody is let in whom PgBouncer knows."""
    if looks_up:
        entry = work.general.entry("auth_type")
        work.warn(
            table,
            "auth_type = trust: PgBouncer lets in whom it knows or auth_query finds, trio-pool everybody",
            entry,
        )
        table.put("method", "trust", "auth_type")
        return
    table.put("method", "reject", "auth_type = trust: only those whom auth_file names")
    if names := list(work.userlist):
        _rule(work, "trust", user=names)


def _put_query(work: Import, table: Table) -> bool:
    """The look-up of users, if there is one."""
    found: dict[str, list[Section]] = {}
    for section in (work.general, *work.databases.values()):
        if user := section.text("auth_user"):
            found.setdefault(user, []).append(section)
    if not found:
        for name in ("auth_query", "auth_dbname"):
            if work.general.text(name):
                table.say(f"{name}: PgBouncer does not use it without auth_user")
        return False
    user = work.general.text("auth_user") or next(iter(found))
    for other in found:
        if other != user:
            owner = found[other][0]
            work.warn(
                table, f"auth_user = {other} of {owner.owner}: one user asks for all databases here, {user}"
            )
    if not work.general.text("auth_user"):
        table.say("auth_user stands in [databases]: here users are looked up for all databases")
    query = work.general.text("auth_query")
    if query and _FUNCTION_WITHOUT_SCHEMA.search(query):
        work.warn(
            table,
            "auth_query calls a function without the name of its schema, which is not found here: only "
            "pg_catalog is "
            "searched",
            work.general.entry("auth_query"),
        )
    table.put("query", query or DEFAULT_QUERY, "auth_query" if query else "auth_query, PgBouncer's default")
    table.put("query_user", user, "auth_user")
    stored = work.userlist.get(user)
    if stored is not None and stored.secret.startswith("SCRAM-SHA-256$"):
        work.warn(
            table,
            f"the password of {user} is a SCRAM secret, with which nobody can log in to PostgreSQL: add it "
            f"in clear "
            "text, as query_password_file",
            stored.place,
        )
    elif stored is not None and stored.secret:
        table.put("query_password", stored.secret, f"of {user}, from auth_file")
    _put_query_database(work, table)
    return True


def _put_query_database(work: Import, table: Table) -> None:
    names = [
        name for section in (work.general, *work.databases.values()) if (name := section.text("auth_dbname"))
    ]
    if names:
        section = work.databases.get(names[0])
        at_origin = (section.text("dbname") if section is not None else "") or names[0]
        table.put("query_database", at_origin, "auth_dbname")
        if len(set(names)) > 1:
            work.warn(table, f"auth_dbname differs between databases: one serves all here, {names[0]}")
        return
    fallback = work.databases.get("*")
    if fallback is not None and work.document.has("databases", "*") and not fallback.text("dbname"):
        work.warn(
            table,
            'auth_query: PgBouncer runs it in the database that the client asks for; with [databases."*"] '
            "one is needed "
            "here that is always there",
        )
        table.put("query_database", "postgres")


def _put_rules(work: Import, table: Table, looks_up: bool) -> None:
    general = work.general
    table.put("method", "reject", "auth_type = hba: whom no rule matches")
    entry = general.entry("auth_hba_file")
    if entry is None or not entry.value:
        work.warn(table, "auth_type = hba without auth_hba_file: nobody is let in, as with PgBouncer")
        return
    lines = parse_hba(work.files.read(entry.value, entry.place, entry.key), entry.value, work.files)
    for line in lines:
        _put_line(work, table, line, looks_up)


def _put_line(work: Import, table: Table, line: Line, looks_up: bool) -> None:
    if isinstance(line, Ignored):
        work.warn(table, f"ignored, as by PgBouncer: {line.text} ({line.why})", line.place)
        return
    method = _METHODS.get(line.method)
    why = ""
    if method is None or line.options:
        why = f"{line.method} {' '.join(line.options)}".strip() + " has no equivalent"
    elif method is AuthMethod.CERT and not _verifies_clients(work):
        why = "cert needs client_tls_sslmode = verify-full and client_tls_ca_file"
    if method is AuthMethod.PASSWORD and line.kind != "hostssl" and line.networks:
        _allow_cleartext(work, table)
    for databases, users in _who(work, line):
        if why or method is None:
            rule = _match(work, line, databases, users, "reject")
            work.warn(rule, f"{why}: until you choose a method nobody is let in by it", line.place)
        elif method is AuthMethod.TRUST and users is None and not looks_up:
            # PgBouncer trusts only users that it knows, and asks no later rule about others.
            if names := list(work.userlist):
                _match(work, line, databases, names, "trust")
            _match(work, line, databases, None, "reject").say("trust: only those whom auth_file names")
        else:
            _match(work, line, databases, users, method.value)


def _who(work: Import, rule: Rule) -> list[tuple[list[str] | None, list[str] | None]]:
    """Databases and users of a rule, None for all; one pair for each name that `sameuser` can mean."""
    users = None if rule.users.all else list(dict.fromkeys(rule.users.names))
    if rule.databases.all:
        return [(None, users)]
    found: list[tuple[list[str] | None, list[str] | None]] = []
    if rule.databases.names:
        found.append((list(dict.fromkeys(rule.databases.names)), users))
    if rule.databases.same:
        known = dict.fromkeys([*work.databases, *work.userlist, *work.users])
        found += [([name], [name]) for name in known if name != "*" and (users is None or name in users)]
    return found


def _match(
    work: Import, line: Rule, databases: list[str] | None, users: list[str] | None, method: str
) -> Table:
    address: list[str] | None = list(line.networks) or ["unix"]
    tls = {"hostssl": True, "hostnossl": False}.get(line.kind)
    if tls and line.networks == ANY_ADDRESS:  # a Unix socket has no TLS
        address = None
    return _rule(work, method, short(line.place), database=databases, user=users, address=address, tls=tls)


def _rule(work: Import, method: str, remark: str = "", **keys: object) -> Table:
    rule = work.document.add_rule()
    for key, value in keys.items():
        if value is not None and value != []:
            rule.put(key, value)
    rule.put("method", method, remark)
    return rule
