from __future__ import annotations

import copy
import math
import pickle

import attrs
import pytest

from trio_pool.config import AuthMethod, Config, Database, Origin, Secret, Timeouts, User, parse

RULES = """
[databases.app]
origin = "postgresql://db"
[auth]
method = "scram-sha-256"
rules = [
  { method = "trust", database = "app", user = "alice" },
  { method = "cert", tls = true, address = "10.0.0.0/8" },
  { method = "md5", address = "fd00::/8" },
  { method = "password", tls = false, user = "bob" },
  { method = "reject", user = ["dave", "erin"], database = ["app", "other"], address = ["12.0.0.0/8","unix"]},
]
[listen.tls]
mode = "require"
certificate = "c.crt"
client_ca = "ca.crt"
"""


@pytest.mark.parametrize(
    ("database", "user", "host", "tls", "method"),
    [
        ("app", "alice", "10.1.1.1", True, AuthMethod.TRUST),
        ("app", "alice", None, False, AuthMethod.TRUST),
        ("app", "carol", "10.1.1.1", True, AuthMethod.CERT),
        ("app", "carol", "::ffff:10.1.1.1", True, AuthMethod.CERT),
        ("app", "carol", "10.1.1.1", False, AuthMethod.SCRAM_SHA_256),
        ("app", "carol", "11.1.1.1", True, AuthMethod.SCRAM_SHA_256),
        ("app", "carol", None, True, AuthMethod.SCRAM_SHA_256),
        ("other", "alice", "fd00::1", True, AuthMethod.MD5),
        ("other", "bob", None, False, AuthMethod.PASSWORD),
        ("app", "dave", "12.1.1.1", True, AuthMethod.REJECT),
        ("other", "erin", None, False, AuthMethod.REJECT),
        ("third", "erin", None, False, AuthMethod.SCRAM_SHA_256),
        ("app", "erin", "13.1.1.1", False, AuthMethod.SCRAM_SHA_256),
    ],
)
def test_the_first_matching_rule_decides(
    database: str,
    user: str,
    host: str | None,
    tls: bool,
    method: AuthMethod,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """What a rule does not name matches everything; without a matching rule the general method holds."""
    base = tmp_path_factory.mktemp("config")
    for name in ("c.crt", "ca.crt"):
        (base / name).touch()
    assert parse(RULES, base=base).auth.method_for(database, user, host, tls) is method


def test_the_star_stands_in_for_every_other_name() -> None:
    """A name without a table gets the settings of "*", and is asked for by that name at the origin."""
    rest = Database("*", Origin((("db", 5432),)), pool_size=3)
    app = Database("app", Origin((("db", 5432),), dbname="app"))
    config = Config(databases={"*": rest, "app": app})
    assert config.database("app") is app
    assert config.database("other") == Database("other", Origin((("db", 5432),), dbname="other"), pool_size=3)


def test_the_star_can_lead_every_name_to_one_database() -> None:
    """A name in the origin of "*" is kept."""
    config = parse('[databases."*"]\norigin = "postgresql://db/app"\n')
    found = config.database("other")
    assert found is not None
    assert (found.name, found.origin.dbname) == ("other", "app")


def test_an_unknown_name_leads_nowhere() -> None:
    """Without "*" only the configured names are databases."""
    assert parse('[databases.app]\norigin = "postgresql://db"\n').database("other") is None


@pytest.mark.parametrize("name", ["trio_pool", "pgbouncer"])
def test_the_star_never_stands_in_for_the_console(name: str) -> None:
    """Somebody who asks for the console is not sent to an origin."""
    assert parse('[databases."*"]\norigin = "postgresql://db"\n').database(name) is None


TIMEOUTS = """
[timeouts]
query = "1s"
transaction = "2s"
lease_wait = "3s"
[users.alice.timeouts]
query = "4s"
transaction = "0"
[users.bob]
[databases.app]
origin = "postgresql://u@db"
[databases.app.timeouts]
query = "5s"
lease_wait = "6s"
[databases.other]
origin = "postgresql://u@db"
"""


def test_time_limits_of_a_user_come_before_those_of_a_database() -> None:
    """As ALTER ROLE comes before ALTER DATABASE, and that before postgresql.conf; `0` is a limit, too."""
    config = parse(TIMEOUTS)
    app, other = config.databases["app"], config.databases["other"]
    assert config.timeouts_for(app, "alice") == Timeouts(query=4.0, transaction=math.inf, lease_wait=6.0)
    assert config.timeouts_for(other, "alice") == Timeouts(query=4.0, transaction=math.inf, lease_wait=3.0)


@pytest.mark.parametrize("user", ["bob", "unknown"])
def test_a_user_without_time_limits_has_the_databases(user: str) -> None:
    """The very same object, so that a client costs no memory for them."""
    config = parse(TIMEOUTS)
    app = config.databases["app"]
    assert config.timeouts_for(app, user) is app.timeouts


def test_a_users_own_bound_of_leases_comes_before_the_databases() -> None:
    """`0` takes the bound off, and nothing that trio-pool does for itself is bounded."""
    users = {"alice": User("alice", max_leases=3), "bob": User("bob", max_leases=0), "carol": User("carol")}
    app = Database("app", Origin((("db", 5432),)), max_leases_per_user=5)
    bound_of = Config(users=users).lease_bounds(app)
    assert bound_of is not None
    assert {name: bound_of(name) for name in ("alice", "bob", "carol", "unknown", "")} == {
        "alice": 3,
        "bob": 0,
        "carol": 5,
        "unknown": 5,
        "": 0,
    }


def test_without_any_bound_of_leases_there_is_nothing_to_ask() -> None:
    """So that a pool counts nobody's leases for nothing."""
    users = {"bob": User("bob", max_leases=0), "carol": User("carol")}
    app = Database("app", Origin((("db", 5432),)))
    assert Config(users=users).lease_bounds(app) is None


def test_one_bounded_user_is_enough_to_count() -> None:
    """Others are then asked for and not bounded."""
    app = Database("app", Origin((("db", 5432),)))
    bound_of = Config(users={"alice": User("alice", max_leases=3)}).lease_bounds(app)
    assert bound_of is not None
    assert (bound_of("alice"), bound_of("bob")) == (3, 0)


def test_a_secret_shows_itself_only_when_asked() -> None:
    """No way of printing a configuration prints a password."""
    secret = Secret("hunter2")
    config = Config(databases={"a": Database("a", Origin((("db", 5432),), "u", secret))})
    assert secret.reveal() == "hunter2"
    for shown in (
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret!r:>10}",
        repr(attrs.asdict(config)),
        str(config),
    ):
        assert "hunter2" not in shown
        assert "***" in shown


def test_a_secret_is_a_value() -> None:
    """Secrets compare, hash, copy and travel to worker processes, and cannot be changed."""
    secret = Secret("hunter2")
    assert secret == Secret("hunter2") != Secret("other")
    assert secret != "hunter2"
    assert hash(secret) == hash(Secret("hunter2"))
    assert copy.deepcopy(secret) == secret == pickle.loads(pickle.dumps(secret))
    with pytest.raises(AttributeError):
        setattr(secret, "_text", "x")  # noqa: B010
