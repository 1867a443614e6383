"""SCRAM pass-through: the client logs in at PostgreSQL as itself, and nobody between knows its password."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.auth.origin import (
    LOOKUP_PASSWORD,
    ODD_USER,
    PASSWORD,
    Table,
    ask,
    ask_asyncpg,
    ask_psql,
    connect,
    derived,
    refusal,
    wrong,
)
from tests.support.pooler import Pooler
from tests.support.target import DATABASE
from trio_pool.protocol.credentials import ScramSecret

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.auth.origin import AuthOrigin
    from tests.support.certificates import Certificates

pytestmark = pytest.mark.e2e

WHO = "select session_user || ' ' || current_user"


def configured(origin: AuthOrigin, users: Table, **auth: object) -> Table:
    """One pool for each user, and nobody is looked up."""
    extra = origin.lookup(shared=False)
    extra["auth"] = auth
    extra["users"] |= users
    return extra


@pytest.fixture(scope="module")
def own(origin: AuthOrigin) -> Iterator[Pooler]:
    """Users are looked up, and each has a pool of its own."""
    with Pooler(origin.pg, tls=False, extra=origin.lookup(shared=False)) as running:
        yield running


@pytest.mark.parametrize("user", ["scram", ODD_USER])
def test_a_looked_up_user_logs_in_as_itself(origin: AuthOrigin, own: Pooler, user: str) -> None:
    """Every driver's proof will do."""
    assert ask(own, user, sql=WHO) == f"{user} {user}"
    assert ask_asyncpg(own, user, sql=WHO) == f"{user} {user}"
    assert ask_psql(origin, own, user, sql=WHO) == f"{user} {user}"
    assert refusal(own, user, "wrong") == wrong(user)


def test_a_copied_secret(origin: AuthOrigin) -> None:
    """A secret in the configuration that is PostgreSQL's own is enough."""
    with Pooler(
        origin.pg, tls=False, extra=configured(origin, {"scram": {"password": origin.secret("scram")}})
    ) as pool:
        assert ask(pool, "scram", sql=WHO) == "scram scram"
        assert ask_asyncpg(pool, "scram", sql=WHO) == "scram scram"


@pytest.mark.parametrize(
    "secret", [derived(), derived(iterations=5000)], ids=["another salt", "other iterations"]
)
def test_another_secret_of_the_same_password(origin: AuthOrigin, secret: str) -> None:
    """The same password stored twice will not do; client and log are told what is the matter."""
    with Pooler(origin.pg, tls=False, extra=configured(origin, {"scram": {"password": secret}})) as pool:
        said = refusal(pool, "scram")
        assert said.startswith('the server has another SCRAM secret of user "scram"')
        failed = pool.wait_for_event("server connect failed")
        assert (failed["error"], failed["sqlstate"]) == (said, "28P01")


def test_a_secret_of_another_password(origin: AuthOrigin) -> None:
    """Salt and iterations that fit do not help who has the wrong keys; PostgreSQL says so."""
    real = ScramSecret.parse(origin.secret("scram"))
    assert real is not None
    secret = derived("another", real.salt, real.iterations)
    with Pooler(origin.pg, tls=False, extra=configured(origin, {"scram": {"password": secret}})) as pool:
        assert refusal(pool, "scram", "another") == wrong("scram")


def test_few_iterations(origin: AuthOrigin) -> None:
    """A secret with fewer iterations than a password would be sent for passes through."""
    secret = derived(iterations=17)
    origin.sql(f"create role few login password '{secret}'")
    with Pooler(origin.pg, tls=False, extra=origin.lookup(shared=False)) as pool:
        assert ask(pool, "few", sql=WHO) == "few few"


def test_other_kinds_of_secrets(origin: AuthOrigin) -> None:
    """An MD5 hash answers an origin that asks for MD5, a password that the client has sent answers any."""
    extra = origin.lookup(shared=False, method="md5", allow_cleartext_without_tls=True)
    extra["auth"]["rules"] = [{"user": "scram", "method": "password"}]
    with Pooler(origin.pg, tls=False, extra=extra) as pool:
        assert ask(pool, "hashed", sql=WHO) == "hashed hashed"
        assert ask(pool, "scram", sql=WHO) == "scram scram"
        assert ask(pool, "other", "another password", sql=WHO) == "other other"


def test_who_shows_nothing(origin: AuthOrigin) -> None:
    """A client that is trusted brings no proof; the pool has what another has shown, or cannot log in."""
    users = {"scram": {"password": origin.secret("scram")}}
    rules = [{"address": "127.0.0.1", "tls": False, "user": "other", "method": "trust"}]
    extra = configured(origin, users | {"other": {"password": origin.secret("other")}}, rules=rules)
    with Pooler(origin.pg, tls=False, extra=extra) as pool:
        assert "but none is configured" in refusal(pool, "other")
        assert ask(pool, "scram", sql=WHO) == "scram scram"


def test_an_origin_that_wants_the_password(origin: AuthOrigin) -> None:
    """Keys are no password: where PostgreSQL asks for one, the error says so, and nothing is sent."""
    hba = origin.pg.data_dir / "pg_hba.conf"
    before = hba.read_text()
    hba.write_text(f"host all scram all password\n{before}")
    origin.sql("select pg_reload_conf()")
    try:
        extra = configured(origin, {"scram": {"password": origin.secret("scram")}})
        with Pooler(origin.pg, tls=False, extra=extra) as pool:
            assert "only the SCRAM keys" in refusal(pool, "scram") or "in clear text" in refusal(
                pool, "scram"
            )
    finally:
        hba.write_text(before)
        origin.sql("select pg_reload_conf()")


def test_users_have_pools_of_their_own(origin: AuthOrigin) -> None:
    """Keys of one user never serve another, and `pool_size` of a user is that of its pool."""
    extra = origin.lookup(shared=False)
    extra["users"]["scram"] = {"pool_size": 1}
    extra["databases"][DATABASE] |= {"pool_size": 2, "timeouts": {"lease_wait": "100ms"}}
    with Pooler(origin.pg, tls=False, extra=extra) as pool:
        for user, size in (("scram", 1), ("lasting", 2)):
            holders = [connect(pool, user) for _ in range(size + 1)]
            for holder in holders[:size]:
                holder.execute("begin; select 0")
                assert holder.execute("select current_user").fetchone() == (user,)
            with pytest.raises(psycopg.errors.TooManyConnections):
                holders[size].execute("select 1")
            for holder in holders:
                holder.close()


def test_a_changed_password(origin: AuthOrigin) -> None:
    """The next client to log in brings the new keys, and new server connections log in by them."""
    origin.sql("create role renewed login password 'old'")
    with Pooler(origin.pg, tls=False, extra=origin.lookup(shared=False, query_cache="0")) as pool:
        assert ask(pool, "renewed", "old", sql=WHO) == "renewed renewed"
        origin.sql("alter role renewed password 'new'")
        assert refusal(pool, "renewed", "old") == wrong("renewed")
        with connect(pool, "renewed", "new") as client:
            pid = client.execute("select pg_backend_pid()").fetchone()
            assert pid is not None
            before = pool.mark()
            origin.sql(f"select pg_terminate_backend({pid[0]})")
            pool.wait_for_event("server disconnected", since=before)
            assert client.execute(WHO).fetchone() == ("renewed renewed",)


@pytest.mark.parametrize("client_binding", ["disable", "require"])
@pytest.mark.parametrize("sslmode", ["disable", "require"])
def test_channel_binding_on_either_side(
    origin: AuthOrigin, certificates: Certificates, client_binding: str, sslmode: str
) -> None:
    """A proof bound to our certificate passes on, and the next one is bound to PostgreSQL's."""
    if sslmode == "require" and origin.pg.tls is None:
        pytest.skip("this PostgreSQL is built without OpenSSL")
    extra = origin.lookup(shared=False, url=origin.url(query=f"sslmode={sslmode}"))
    options: dict[str, Any] = {"sslmode": "require", "channel_binding": client_binding}
    with Pooler(origin.pg, certificates=certificates, extra=extra) as pool:
        assert ask(pool, "scram", sql=WHO, **options) == "scram scram"
        ssl = "select ssl::text from pg_stat_ssl where pid = pg_backend_pid()"
        assert ask(pool, "scram", sql=ssl, **options) == str(sslmode == "require").lower()


def test_keys_stay_out_of_the_log(origin: AuthOrigin) -> None:
    """Neither the password nor anything that logs in is ever printed."""
    stored = ScramSecret.parse(origin.secret("scram"))
    assert stored is not None
    salted = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), stored.salt, stored.iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    secrets = [client_key, stored.server_key, stored.stored_key, salted]
    spelled = [repr(secret)[2:-1] for secret in secrets] + [secret.hex() for secret in secrets]
    spelled += [base64.b64encode(secret).decode() for secret in secrets]
    with Pooler(origin.pg, tls=False, extra=origin.lookup(shared=False)) as pool:
        ask(pool, "scram")
        refusal(pool, "scram", "wrong")
        refusal(pool, "scram", options="-c nonsense=1")
        printed = pool.log_text()
    for secret in (PASSWORD, LOOKUP_PASSWORD, *spelled):
        assert secret not in printed
