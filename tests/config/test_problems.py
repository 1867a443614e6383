"""Configurations that are refused, and what is said about them."""

from __future__ import annotations

import contextlib
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_pool.config import Config, ConfigurationError, parse, read
from trio_pool.config.problems import spell_path
from trio_pool.config.tables import TABLES, TOP_LEVEL

ORIGIN = 'origin = "postgresql://db"'
DATABASE = f"[databases.app]\n{ORIGIN}\n"
ADDRESSES = 'write "127.0.0.1:6432", "[::1]:6432" or "unix:/run/trio-pool/.s.PGSQL.6432"'


def problems(text: str, base: Path | None = None) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        parse(text, where="x.toml", environ={"EMPTY": ""}, base=base)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(
            f"{DATABASE}poolsize = 5\n",
            'x.toml:3: databases.app.poolsize: unknown key; the nearest known one is "pool_size"',
            id="unknown key",
        ),
        pytest.param(
            f'{DATABASE}[database.b]\nx = 1\n[timeouts]\nquery = "1s"\n',
            'x.toml:3: database: unknown key; the nearest known one is "databases"',
            id="unknown table",
        ),
        pytest.param(
            f"{DATABASE}[listen]\npool_size = 5\n",
            "x.toml:4: listen.pool_size: unknown key; it belongs in [users.<name>] or [databases.<name>]; "
            'here the nearest known one is "tls"',
            id="key of another table",
        ),
        pytest.param(
            f'{DATABASE}[users.a.timeouts]\nserver_idle = "1s"\n',
            "x.toml:4: users.a.timeouts.server_idle: unknown key; it belongs in [databases.<name>.timeouts] "
            'or [timeouts]; here the nearest known one is "client_idle"',
            id="time limit that concerns no client",
        ),
        pytest.param(
            f'{DATABASE}[users.a.timeouts]\nquery = "soon"\n',
            'x.toml:4: users.a.timeouts.query: "soon" is not a duration; write a number and a unit, such '
            'as "500ms", "15s", "10min", or "0" for off',
            id="time limit of a user",
        ),
        pytest.param(
            f"{DATABASE}max_servers = 2\nmin_pool_size = 3\n",
            "x.toml:3: databases.app.max_servers: 2 is less than the min_pool_size of 3; raise it, or lower "
            "min_pool_size",
            id="more kept than allowed",
        ),
        pytest.param(
            f'{DATABASE}pool_size = "20"\n',
            "x.toml:3: databases.app.pool_size: must be an integer, not a string; write an integer, from 1 "
            "to 262143, without quotes",
            id="string for an integer",
        ),
        pytest.param(
            f"{DATABASE}pool_size = true\n",
            "x.toml:3: databases.app.pool_size: must be an integer, not a boolean; write an integer, from 1 "
            "to 262143, without quotes",
            id="boolean for an integer",
        ),
        pytest.param(
            f"{DATABASE}pool_size = 0\n",
            "x.toml:3: databases.app.pool_size: 0 is out of range; write an integer, from 1 to 262143",
            id="integer too small",
        ),
        pytest.param(
            f"{DATABASE}min_pool_size = 21\n",
            "x.toml:3: databases.app.min_pool_size: 21 is more than the pool_size of 20; lower it, or raise "
            "pool_size",
            id="min_pool_size above pool_size",
        ),
        pytest.param(
            f'{DATABASE}[session]\ndeferred_begin = "yes"\n',
            "x.toml:4: session.deferred_begin: must be a boolean, not a string; write true or false, without "
            "quotes",
            id="string for a boolean",
        ),
        pytest.param(
            f"{DATABASE}[admin]\nusers = [\n'a',\n1]\n",
            "x.toml:6: admin.users[1]: must be a string, not an integer; put it in quotes",
            id="element of a wrong type",
        ),
        pytest.param(
            f"{DATABASE}[admin]\nusers = 'a'\n",
            "x.toml:4: admin.users: must be an array, not a string; put it in brackets: [...]",
            id="no array",
        ),
        pytest.param(
            f"{DATABASE}pool_mode = 'statement'\n",
            'x.toml:3: databases.app.pool_mode: "statement" is unknown; use one of "transaction", "session"; '
            'nearest is "transaction"',
            id="unknown choice",
        ),
        pytest.param(
            f"{DATABASE}[timeouts]\nquery = '10m'\n",
            'x.toml:4: timeouts.query: "10m" has the unknown unit "m"; the units are us, ms, s, min, h, d '
            "(case "
            "matters)",
            id="unknown unit",
        ),
        pytest.param(
            f"{DATABASE}[timeouts]\nquery = 10\n",
            'x.toml:4: timeouts.query: 10 has no unit; write a string with a unit, such as "10s"',
            id="duration without a unit",
        ),
        pytest.param(
            f"{DATABASE}cache.max_age = 0\n",
            "x.toml:3: databases.app.cache.max_age: 0 could mean never or for ever; write enabled = false "
            "for never, "
            'or a long time such as "365d"',
            id="no maximal age",
        ),
        pytest.param(
            f"{DATABASE}cache.max_size = '0'\n",
            "x.toml:3: databases.app.cache.max_size: 0 leaves no room; write a size of at least 1B, or "
            "enabled = false",
            id="no room",
        ),
        pytest.param(
            f"{DATABASE}[listen]\naddresses = ['127.0.0.1:6432', 'localhost']\n",
            f'x.toml:4: listen.addresses[1]: "localhost" has no port; {ADDRESSES}',
            id="address without a port",
        ),
        pytest.param(
            f"{DATABASE}[listen]\naddresses = ['127.0.0.1:65536']\n",
            f'x.toml:4: listen.addresses[0]: the port of "127.0.0.1:65536" is not a number from 0 to 65535; '
            f"{ADDRESSES}",
            id="port out of range",
        ),
        pytest.param(
            f"{DATABASE}[listen]\naddresses = []\n",
            'x.toml:4: listen.addresses: is empty; write at least one address, such as "127.0.0.1:6432"',
            id="no address",
        ),
        pytest.param(
            f"{DATABASE}[listen]\naddresses = ['a:1', 'a:1']\n",
            'x.toml:4: listen.addresses[1]: "a:1" is there twice; remove one',
            id="address twice",
        ),
        pytest.param(
            f"{DATABASE}[http]\naddress = '127.0.0.1:6432'\n",
            'x.toml:4: http.address: "127.0.0.1:6432" is an address for clients; use another port',
            id="status page among the clients",
        ),
        pytest.param(
            f"{DATABASE}[listen]\nworkers = 'many'\n",
            'x.toml:4: listen.workers: "many" is unknown; write a number without quotes, or "auto"',
            id="workers",
        ),
        pytest.param(
            f"{DATABASE}[listen.tls]\nmode = 'allow'\n",
            'x.toml:3: listen.tls.certificate: is missing; name a PEM file, TLS mode "allow" needs it',
            id="no certificate",
        ),
        pytest.param(
            f"{DATABASE}[listen.tls]\nmode = 'require'\ncertificate = 'absent.crt'\n",
            'x.toml:5: listen.tls.certificate: there is no file "/base/absent.crt"; correct the path; it is '
            "relative "
            "to this file's directory",
            id="no certificate file",
        ),
        pytest.param(
            f"{DATABASE}[auth]\nmethod = 'password'\n",
            'x.toml:4: auth.method: method "password" would send passwords in clear text over TCP; set mode '
            '= "require" in [listen.tls], use "scram-sha-256", or set allow_cleartext_without_tls = true',
            id="clear text over TCP",
        ),
        pytest.param(
            f"{DATABASE}[[auth.rules]]\ndatabase = 'app'\n",
            "x.toml:3: auth.rules[0].method: is missing; add method to this table",
            id="rule without a method",
        ),
        pytest.param(
            f"{DATABASE}[[auth.rules]]\nmethod = 'trust'\n[[auth.rules]]\nmethod = 'md5'\naddress = "
            "'10.0.0.1/8'\n",
            'x.toml:7: auth.rules[1].address: "10.0.0.1/8" is not a network; write "10.0.0.0/8"',
            id="host bits",
        ),
        pytest.param(
            f"{DATABASE}[[auth.rules]]\nmethod = 'trust'\naddress = 'localhost'\n",
            'x.toml:5: auth.rules[0].address: "localhost" is not a network; write an address or a network, '
            'such as "10.0.0.0/8" or "::1/128"',
            id="no network",
        ),
        pytest.param(
            f"{DATABASE}[auth]\nrules = 'trust'\n",
            "x.toml:4: auth.rules: must be an array of tables, not a string; write [[auth.rules]]",
            id="no rules",
        ),
        pytest.param(
            f"{DATABASE}[users.alice]\npassword_env = 'ABSENT'\n",
            "x.toml:4: users.alice.password_env: the environment variable ABSENT is not set; export it "
            "before starting trio-pool",
            id="no such variable",
        ),
        pytest.param(
            f"{DATABASE}[users.alice]\npassword_env = 'EMPTY'\n",
            "x.toml:4: users.alice.password_env: the environment variable EMPTY is empty; export it before "
            "starting trio-pool",
            id="empty variable",
        ),
        pytest.param(
            f"{DATABASE}[users.alice]\npassword_file = 'absent'\n",
            'x.toml:4: users.alice.password_file: the file "/base/absent" cannot be read: No such file or '
            "directory; "
            "correct the path or its permissions",
            id="no password file",
        ),
        pytest.param(
            f"{DATABASE}[users.alice]\npassword = 'x'\npassword_file = 'absent'\n",
            "x.toml:5: users.alice.password_file: the password is given by password already; keep one of "
            "them",
            id="two passwords",
        ),
        pytest.param(
            f"{DATABASE}[users.alice]\npassword = ''\n",
            "x.toml:4: users.alice.password: is empty or has a zero byte in it; write some text, or leave "
            "the key out",
            id="empty password",
        ),
        pytest.param(
            f"{DATABASE}[users]\nalice = 'hunter2'\n",
            "x.toml:4: users.alice: must be a table, not a string; see the reference of the configuration",
            id="no table",
        ),
        pytest.param(
            f"{DATABASE}[users]\n'' = {{}}\n",
            'x.toml:4: users."": is not a name; choose one that is not empty',
            id="no name",
        ),
        pytest.param(
            "[databases.app]\npool_size = 1\n",
            "x.toml:1: databases.app.origin: is missing; add origin to this table",
            id="no origin",
        ),
        pytest.param(
            '[databases."*"]\norigin = "postgresql://db?sslmod=x"\n',
            'x.toml:2: databases."*".origin: the origin has the unknown parameter "sslmod"; the nearest '
            'known one is "sslmode"',
            id="parameter of an origin",
        ),
        pytest.param(
            '[databases.app]\norigin = "trio-pools://edge:6432/app"\n',
            "x.toml:2: databases.app.origin: the origin is not a URL of PostgreSQL or of a trio-pool; write "
            '"postgresql://user@host:5432/database"',
            id="another scheme",
        ),
        pytest.param(
            f"{DATABASE}password = 'x'\n",
            "x.toml:2: databases.app.origin: the origin has a password and no user; name the user: "
            '"postgresql://user@host:5432/name"',
            id="password of nobody",
        ),
        pytest.param(
            '[databases.app]\norigin = "postgresql://db?sslkey=/dev/null"\n',
            "x.toml:2: databases.app.origin: the origin has an sslkey and no sslcert; name the certificate "
            "too",
            id="key of nothing",
        ),
        pytest.param(
            '[databases.app]\norigin = "postgresql://db?sslrootcert=absent.crt"\n',
            'x.toml:2: databases.app.origin: there is no file "/base/absent.crt"; correct the path; it is '
            "relative to "
            "this file's directory",
            id="no root certificate",
        ),
        pytest.param(
            f"[databases.pgbouncer]\n{ORIGIN}\n",
            'x.toml:1: databases.pgbouncer: "pgbouncer" is a name of the console; choose another name',
            id="name of the console",
        ),
        pytest.param(
            f"{DATABASE}[auth]\nrules = [{{method = 'md5', user = []}}]\n",
            "x.toml:4: auth.rules[0].user: is empty, so nothing can match it; name something, or leave the "
            "key out",
            id="a rule for nobody",
        ),
        pytest.param(
            f"{DATABASE}[auth]\nrules = [{{method = 'md5', address = ['unix', '10.0.0.1/8']}}]\n",
            'x.toml:4: auth.rules[0].address[1]: "10.0.0.1/8" is not a network; write "10.0.0.0/8"',
            id="no network among several",
        ),
        pytest.param(
            f"{DATABASE}[auth]\nquery = 'q'\n",
            "x.toml:2: databases.app.origin: the origin names no user, so auth.query cannot log in there; "
            "set query_user in [auth]",
            id="nobody to look users up",
        ),
        pytest.param(
            '[databases."*"]\norigin = "postgresql://u@db"\n[auth]\nquery = "q"\n',
            'x.toml:2: databases."*".origin: the origin names no database, so auth.query does not know where '
            "to run; set query_database in [auth]",
            id="nowhere to look users up",
        ),
        pytest.param(
            f"{DATABASE}[auth]\nquery_user = 'u'\n",
            "x.toml:4: auth.query_user: has no use without query; add query to this table, or leave it out",
            id="a user for no query",
        ),
        pytest.param(
            f"{DATABASE.replace('//db', '//u@db')}[auth]\nquery = 'q'\nquery_password = 'p'\n",
            "x.toml:3: auth: has a password for query and no user; add query_user",
            id="a password for nobody",
        ),
        pytest.param(
            f"{DATABASE}[auth]\nquery = 'q'\nquery_user = 'u'\nquery_password = 'p'\n"
            "query_password_env = 'EMPTY'\n",
            "x.toml:7: auth.query_password_env: the password is given by query_password already; keep one of "
            "them",
            id="two passwords for a query",
        ),
        pytest.param(
            f"{DATABASE}[users.a]\nmax_clients = -1\n",
            "x.toml:4: users.a.max_clients: -1 is out of range; write an integer, at least 0",
            id="fewer than no clients",
        ),
        pytest.param(
            "[timeouts]\n",
            "x.toml:1: databases: no database is configured; add [databases.app] with origin = "
            '"postgresql://user@host:5432/app"',
            id="no database",
        ),
    ],
)
def test_a_problem_has_its_line_its_key_and_a_remedy(text: str, problem: str) -> None:
    """Each kind of mistake is said once, where it is, with what to do; nothing else is said because of it."""
    assert problems(text, Path("/base")) == [problem]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"{DATABASE}pool_size = \n", 3),
        (f"{DATABASE}pool_size = 1\npool_size = 2\n", 4),
        (f"{DATABASE}[databases.app]\n", 3),
        (f'{DATABASE}x = """\n\n', 4),
        (f"{DATABASE}[listen", 3),
    ],
)
def test_what_is_not_toml_has_its_line(text: str, line: int) -> None:
    """The message is tomllib's, the place is ours."""
    (problem,) = problems(text)
    assert problem.startswith(f"x.toml:{line}: not TOML: ")
    assert problem.endswith("; correct the syntax, see https://toml.io")
    assert "at line" not in problem
    assert "at end" not in problem


def test_cert_needs_tls_and_somebody_to_trust() -> None:
    """The method "cert" without its certificates would refuse everybody."""
    assert problems(f'{DATABASE}[[auth.rules]]\nmethod = "cert"\n') == [
        'x.toml:4: auth.rules[0].method: method "cert" needs TLS; set mode = "require" and a certificate in '
        "[listen.tls]",
        'x.toml:4: auth.rules[0].method: method "cert" has no certificate authority to verify clients with; '
        "set "
        "client_ca in [listen.tls]",
    ]


def test_all_problems_are_reported_at_once_in_the_order_of_the_file() -> None:
    """One look at the errors is enough to mend the whole file."""
    text = """\
[listen]
addresses = ["nowhere", "[::1]:6432", 5]
max_clients = 0
[listen.tls]
mode = "maybe"
[auth]
method = "none"
[users.alice]
passwrd = "hunter2"
[databases.app]
origin = "mysql://u:hunter2@db"
min_pool_size = 30
timeouts = { qery = "1s" }
[timeouts]
query = "1 fortnight"
[nonsense]
"""
    keys = [problem.split(": ")[:2] for problem in problems(text)]
    assert keys == [
        ["x.toml:2", "listen.addresses[0]"],
        ["x.toml:2", "listen.addresses[2]"],
        ["x.toml:3", "listen.max_clients"],
        ["x.toml:5", "listen.tls.mode"],
        ["x.toml:7", "auth.method"],
        ["x.toml:9", "users.alice.passwrd"],
        ["x.toml:11", "databases.app.origin"],
        ["x.toml:12", "databases.app.min_pool_size"],
        ["x.toml:13", "databases.app.timeouts.qery"],
        ["x.toml:15", "timeouts.query"],
        ["x.toml:16", "nonsense"],
    ]


def test_what_follows_from_a_reported_problem_is_not_reported() -> None:
    """A wrong pool_size does not also make min_pool_size wrong."""
    assert [
        line.split(": ")[1] for line in problems(f"{DATABASE}pool_size = '50'\nmin_pool_size = 30\n")
    ] == ["databases.app.pool_size"]


def test_no_problem_quotes_a_secret() -> None:
    """Errors go to logs and terminals; passwords do not, not even misplaced or mistyped ones."""
    text = """\
[users]
a = "hunter2"
b = ["hunter2"]
[users.c]
password = ["hunter2"]
[users.d]
pasword = "hunter2"
[users.e]
password = "hunter2\\u0000"
[databases.app]
origin = "postgresql://u:hunter2@db:x/app?y=1"
password = "hunter2"
[databases.b]
origin = "postgresql://u:hun/ter2:hunter2@db"
[databases.c]
origin = "postgresql://u:p@hunter2@db"
[databases.d]
origin = ["postgresql://u:hunter2@db"]
[databases.trio_pool]
origin = "postgresql://u:hunter2@db"
min_pool_size = 50
"""
    found = problems(text)
    assert len(found) == 11
    assert "hunter2" not in "\n".join(found)


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    """There is one exception for everything that is wrong with a configuration."""
    path = tmp_path / "absent.toml"
    with pytest.raises(ConfigurationError) as caught:
        read(path)
    assert str(caught.value) == (
        f"{path}: the file cannot be read: No such file or directory; correct the path or its permissions"
    )


def test_a_file_that_is_not_utf_8_is_a_problem(tmp_path: Path) -> None:
    """TOML is UTF-8; the line of the first wrong byte is named."""
    path = tmp_path / "latin.toml"
    path.write_bytes(b"[users.alice]\n# \xe9t\xe9\n")
    with pytest.raises(ConfigurationError) as caught:
        read(path)
    assert str(caught.value) == f"{path}:2: the file is not UTF-8; save it as UTF-8"


@pytest.mark.parametrize(
    ("content", "what"), [(b"\n", "is empty or has a zero byte in it"), (b"\xff", "is not UTF-8")]
)
def test_a_password_file_without_a_password_is_a_problem(content: bytes, what: str, tmp_path: Path) -> None:
    """An empty file is no empty password."""
    (tmp_path / "secret").write_bytes(content)
    (problem,) = problems(f'{DATABASE}[users.a]\npassword_file = "secret"\n', tmp_path)
    assert problem.startswith(f'x.toml:4: users.a.password_file: the file "{tmp_path / "secret"}" {what}; ')


def test_a_directory_is_no_certificate(tmp_path: Path) -> None:
    """A directory in place of a certificate is found before the first client finds it."""
    (problem,) = problems(f'{DATABASE}[listen.tls]\nmode = "allow"\ncertificate = "."\n', tmp_path)
    assert problem.startswith("x.toml:5: listen.tls.certificate: there is no file ")


def test_from_dict_reports_problems_without_lines() -> None:
    """An embedding program gets the same checks; there is no file to point into."""
    with pytest.raises(ConfigurationError) as caught:
        Config.from_dict({"databases": {"app": {"origin": None, "pool_size": 0}}})
    assert str(caught.value) == (
        "<dict>: databases.app.origin: must be a string, not a Python NoneType; put it in quotes\n"
        "<dict>: databases.app.pool_size: 0 is out of range; write an integer, from 1 to 262143"
    )
    assert [problem.line for problem in caught.value.problems] == [None, None]


def test_the_error_can_be_pickled() -> None:
    """It may cross from a worker process to its parent."""
    with pytest.raises(ConfigurationError) as caught:
        parse("")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


NAMES = sorted({name for table in TABLES for name in table.known} | set(TOP_LEVEL) | {"app", "*", ""})
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 30)
    | st.floats()
    | st.sampled_from(["", "x", "1s", "1MB", "trust"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=30,
)


@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5))
def test_no_structure_makes_the_reader_fail_otherwise(data: dict[str, object]) -> None:
    """Whatever is written, the answer is a configuration or problems, never another exception."""
    with contextlib.suppress(ConfigurationError):
        assert isinstance(Config.from_dict(data, environ={}), Config)


@given(st.text(st.sampled_from("[]{}=.,#'\"\\\n ax1-")))
def test_no_text_makes_the_reader_fail_otherwise(text: str) -> None:
    """Whatever is written, TOML or not, there is a line to look at."""
    with pytest.raises(ConfigurationError) as caught:
        parse(text)
    lines = text.count("\n") + 1
    assert all(problem.line and problem.line <= lines for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("path", "spelled"),
    [
        (("listen", "addresses", 1), "listen.addresses[1]"),
        (("databases", "a.b", "origin"), 'databases."a.b".origin'),
        (("users", 'x"\\'), r'users."x\"\\"'),
    ],
)
def test_keys_are_spelled_as_in_the_file(path: tuple[str | int, ...], spelled: str) -> None:
    """A key from a message can be searched for."""
    assert spell_path(path) == spelled
