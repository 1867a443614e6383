"""Users: those of auth_file and of [users]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_pool.config.kinds import MOST_SERVERS
from trio_pool.migration.databases import sizes_of
from trio_pool.migration.general import put_seconds

if TYPE_CHECKING:
    from trio_pool.migration.context import Import, Section
    from trio_pool.migration.document import Table

_TIMEOUTS = (
    ("client_idle_timeout", "client_idle"),
    ("query_timeout", "query"),
    ("transaction_timeout", "transaction"),
    ("idle_transaction_timeout", "idle_in_transaction"),
)


def translate_users(work: Import) -> None:
    most = work.general.count("max_user_client_connections")
    if any(stored.secret for stored in work.userlist.values()):
        work.document.table("users").say(
            "Passwords as in auth_file. They need not stand here: password_file names a file that has one, "
            "password_env an environment variable; `import-pgbouncer --secrets` writes these."
        )
    for name in dict.fromkeys([*work.userlist, *work.users]):
        if not name:
            continue
        table = work.document.table("users", name)
        _put_password(work, table, name)
        section = work.users.get(name)
        clients = None if section is None else section.count("max_user_client_connections")
        if clients is None:
            clients = most
        if clients:
            table.put("max_clients", clients, "max_user_client_connections")
        if section is not None:
            _put_settings(work, table, name, section)
        if not table.lines:
            table.say("nothing but the name is known")
    if most and work.document.has("auth") and "query" in work.document.table("auth").values:
        work.warn(
            work.document.table("users"),
            f"max_user_client_connections = {most}: holds for the users below, not for those that "
            f"auth.query finds",
            work.general.entry("max_user_client_connections"),
        )


def _put_password(work: Import, table: Table, name: str) -> None:
    stored = work.userlist.get(name)
    if stored is None:
        return
    if stored.secret:
        table.put("password", stored.secret)
    else:
        table.say("auth_file has no password for this user")


def _put_settings(work: Import, table: Table, name: str, section: Section) -> None:
    timeouts = work.document.table("users", name, "timeouts")
    for theirs, ours in _TIMEOUTS:
        put_seconds(timeouts, ours, section, theirs, zero_is_unset=True)
    put_seconds(timeouts, "lease_wait", section, "query_wait_timeout")
    _put_pool_size(work, table, name, section)
    if (mode := section.text("pool_mode")) and not _is_named_by_all(work, name):
        work.warn(
            table,
            f"{name}: pool_mode = {mode}: a database has one mode for all users here, whom its origin does "
            f"not name; "
            "give the database a second name with the other mode",
            section.entry("pool_mode"),
        )


def _is_named_by_all(work: Import, name: str) -> bool:
    """Whether no database has a pool of this user's own."""
    return all(section.text("user") for section in work.databases.values())


def _put_pool_size(work: Import, table: Table, name: str, section: Section) -> None:
    """The size of the user's own pools, if it is another than the databases say."""
    size, bound = section.count("pool_size"), section.count("max_user_connections")
    if size is None and bound is None:
        return
    if bound is None:
        bound = work.general.count("max_user_connections") or 0
    shared = [one for one in work.databases.values() if not one.text("user")]
    if not shared:
        table.say("pool_size, max_user_connections: no database has a pool of this user's own")
        return
    given = {one.owner: sizes_of(work, one, None).size for one in shared}
    # What the databases say is bounded by the general max_user_connections already; the user's own comes
    # instead.
    unbounded = {one.owner: _size_without_bound(work, one) for one in shared}
    wanted = {
        owner: min(size if size is not None else unbounded[owner], bound or MOST_SERVERS, MOST_SERVERS)
        for owner in given
    }
    if bound and len(shared) > 1:
        table.say(
            f"max_user_connections = {bound}: bounds each pool of the user; those of several databases are "
            f"not added up"
        )
    if wanted == given:
        return
    least = min(wanted.values())
    if len(set(wanted.values())) > 1:
        work.warn(
            table,
            f"{name}: pool_size is {least} in all databases here, the least that PgBouncer allows in any",
        )
    table.put("pool_size", max(least, 1), "pool_size, max_user_connections of [users]")


def _size_without_bound(work: Import, section: Section) -> int:
    found = section.count("pool_size")
    if found is None:
        found = work.general.count("default_pool_size")
    return 20 if found is None else found
