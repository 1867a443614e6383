"""Limits on clients of a database and of a user; rules that let somebody in or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.auth.origin import PASSWORD, ask, connect, refusal, wrong
from tests.support.pooler import Pooler
from tests.support.target import DATABASE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.auth.origin import AuthOrigin

pytestmark = pytest.mark.e2e


def test_clients_of_a_user(origin: AuthOrigin) -> None:
    """One more is refused as PostgreSQL does it; other users are not concerned; who leaves makes room."""
    extra = origin.lookup()
    extra["users"]["scram"] = {"max_clients": 2}
    with Pooler(origin.pg, tls=False, extra=extra) as pool:
        first, second = connect(pool, "scram"), connect(pool, "scram")
        with pytest.raises(psycopg.OperationalError) as caught:
            connect(pool, "scram")
        assert 'FATAL:  too many connections for role "scram"' in str(caught.value)
        refused = pool.wait_for_event("client disconnected")
        assert (refused["sqlstate"], refused["reason"]) == ("53300", "too many clients")
        with connect(pool, "lasting"):
            before = pool.mark()
            first.close()
            pool.wait_for_event("client disconnected", since=before)
            with connect(pool, "scram"):
                assert refusal(pool, "scram") == 'too many connections for role "scram"'
        second.close()


def test_clients_of_a_database(origin: AuthOrigin) -> None:
    """The same for a database, whoever its clients are; behind "*" each name counts by itself."""
    extra = origin.lookup(query_database=DATABASE)
    extra["databases"][DATABASE]["max_clients"] = 1
    url = f"postgresql://postgres@{origin.pg.host}:{origin.pg.port}?sslmode=disable"
    extra["databases"]["*"] = {"origin": url, "password": origin.pg.password, "max_clients": 1}
    with Pooler(origin.pg, tls=False, extra=extra) as pool:
        for database in (DATABASE, "postgres", "template1"):
            with connect(pool, "scram", dbname=database):
                said = refusal(pool, "lasting", dbname=database)
                assert said == f'too many connections for database "{database}"'
                assert refusal(pool, "lasting", "wrong", dbname=database) == wrong("lasting")


def test_whoever_does_not_get_in_is_not_counted(origin: AuthOrigin) -> None:
    """Neither wrong passwords nor refused settings use up a place."""
    extra = origin.lookup()
    extra["users"]["scram"] = {"max_clients": 1}
    with Pooler(origin.pg, tls=False, extra=extra) as pool:
        for _ in range(3):
            before = pool.mark()
            refusal(pool, "scram", "wrong")
            refusal(pool, "scram", options="-c nonsense=1")
            pool.wait_for_event("client disconnected", since=before)
        assert ask(pool, "scram") == "postgres"


def test_a_rule_that_rejects(origin: AuthOrigin, tmp_path: Path) -> None:
    """`reject` names what it rejects, before any password is asked for; without a match it is the method."""
    extra = origin.lookup(
        method="reject",
        rules=[
            {
                "user": ["scram", "lasting"],
                "database": [DATABASE, "x"],
                "address": ["10.0.0.0/8"],
                "method": "trust",
            },
            {"user": "lasting", "method": "reject"},
            {"address": ["::1", "127.0.0.0/8"], "user": ["scram", "lasting"], "method": "scram-sha-256"},
            {"address": "unix", "method": "trust"},
        ],
    )
    extra["listen"] = {"addresses": ["127.0.0.1:0", f"unix:{tmp_path}/.s.PGSQL.5432"]}
    with Pooler(origin.pg, tls=False, extra=extra) as pool:
        assert ask(pool, "scram") == "postgres"
        assert refusal(pool, "scram", "wrong") == wrong("scram")
        for user in ("lasting", "eternal"):
            said = refusal(pool, user, PASSWORD)
            assert said == (
                f'auth.rules rejects connection for host "127.0.0.1", user "{user}", database "{DATABASE}", '
                "no encryption"
            )
        unix = psycopg.connect(host=str(tmp_path), user="anybody", dbname=DATABASE)
        assert unix.execute("select current_user").fetchone() == ("postgres",)
        unix.close()
