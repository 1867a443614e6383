"""How commands are read."""

from __future__ import annotations

import pytest

from trio_pool.daemon.console.answer import KNOWN, understand
from trio_pool.daemon.console.commands import Command, Setting, read
from trio_pool.daemon.console.failure import ConsoleError
from trio_pool.daemon.console.shows import SHOWS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PAUSE", Command("PAUSE")),
        ("  pause\tapp ; ", Command("PAUSE", "app")),
        ('pause "my ""db"""', Command("PAUSE", 'my "db"')),
        ("Show\nPools", Command("SHOW", "Pools")),
        ("purge cache app", Command("PURGE", "cache", "app")),
        ("/* who asks */ show stats -- why", Command("SHOW", "stats")),
        ("set max_client_conn = 50", Setting("max_client_conn", "50")),
        ("SET timeouts.query TO '15s';", Setting("timeouts.query", "15s")),
        ("SET databases.app.pool_size=7", Setting("databases.app.pool_size", "7")),
        ('SET databases."my-db".pool_size=7', Setting('databases."my-db".pool_size', "7")),
        ("set session datestyle to 'it''s'", Setting("datestyle", "it's")),
        ('set admin.users = \'["a", "b"]\'', Setting("admin.users", '["a", "b"]')),
        ("", None),
        (" ; ", None),
        ("-- ping", None),
    ],
)
def test_a_text_is_read(text: str, expected: Command | Setting | None) -> None:
    """The grammar is PgBouncer's, and comments count for nothing."""
    assert read(text, KNOWN) == expected


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("SHOW POLLS", "SHOW POOLS"),
        ("show stat", "SHOW STATS"),
        ("SHOW LEASE", "SHOW LEASES"),
        ("puase app", "PAUSE"),
        ("RELOD", "RELOAD"),
        ("KILL_CLEINT 5", "KILL_CLIENT"),
        ("SHUTDOWN WAIT_FOR_SERVER", "SHUTDOWN WAIT_FOR_SERVERS"),
        ("PURGE", "PURGE CACHE"),
        ("RELOAD now", "RELOAD"),
    ],
)
def test_an_error_names_the_nearest_command(text: str, nearest: str) -> None:
    """In PgBouncer's words, with what was probably meant as the hint."""
    with pytest.raises(ConsoleError) as caught:
        understand(text)
    assert caught.value.message == f"invalid command '{text}', use SHOW HELP;"
    assert caught.value.hint == f"The nearest command is {nearest}."
    assert caught.value.sqlstate == "08P01"


@pytest.mark.parametrize("text", ["BEGIN", "begin;", "START TRANSACTION", "COMMIT", "ROLLBACK"])
def test_transactions_are_refused_as_in_pgbouncer(text: str) -> None:
    """Nothing that the console does can be rolled back; the hint says what to do."""
    with pytest.raises(ConsoleError) as caught:
        understand(text)
    assert caught.value.hint == "The console has no transactions: connect with autocommit."


@pytest.mark.parametrize("text", ["SELECT 1", "select version()", "show stats; show pools", "xyzzy", "' '"])
def test_what_is_no_command_is_refused_without_a_guess(text: str) -> None:
    """As PgBouncer does; nothing is guessed where nothing is near."""
    with pytest.raises(ConsoleError) as caught:
        understand(text)
    assert caught.value.message == f"invalid command '{text}', use SHOW HELP;"


@pytest.mark.parametrize("name", [*SHOWS, "HELP"])
def test_select_stands_for_show(name: str) -> None:
    """PgBouncer's alias."""
    show, select = understand(f"show {name}"), understand(f"select {name}")
    assert show is not None
    assert select is not None
    assert show.what is select.what
