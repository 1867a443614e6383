"""Whatever PgBouncer's configuration is, what comes out is one of ours."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.migration.bouncer import SAMPLES
from tests.migration.imports import Texts, import_
from trio_pool.config import Config
from trio_pool.migration import CannotImport, spell, translate
from trio_pool.migration.settings import DATABASES, PGBOUNCER, USERS

if TYPE_CHECKING:
    from pathlib import Path

    from trio_pool.migration import Translation
    from trio_pool.migration.settings import Setting

NUMBERS = st.sampled_from(["0", "1", "5", "17", "100", "3600", "99999999999", "0x1F", "077"])
MODES = st.sampled_from(["disable", "allow", "prefer", "require", "verify-ca", "verify-full"])
TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\r"), min_size=1, max_size=12
)
# Keys that take anything, or that PgBouncer would refuse most of.
VALUES = {
    "pool_mode": st.sampled_from(["session", "Transaction", "statement"]),
    "auth_type": st.sampled_from(
        ["any", "trust", "plain", "md5", "scram-sha-256", "cert", "hba", "ldap", "pam"]
    ),
    "auth_file": st.just("users"),
    "auth_hba_file": st.just("hba"),
    "client_tls_sslmode": MODES,
    "server_tls_sslmode": MODES,
    "load_balance_hosts": st.sampled_from(["disable", "round-robin"]),
    "target_session_attrs": st.sampled_from(["any", "primary", "standby"]),
    "listen_addr": st.sampled_from(["*", "localhost", "127.0.0.1, ::1", "", "a b"]),
    "host": st.sampled_from(["h", "h,i", "/run", "@abstract", "::1", "a/b", "h,"]),
    "admin_users": st.sampled_from(["alice", "alice, bob", ","]),
    "auth_user": st.sampled_from(["alice", "carol"]),
    "auth_dbname": st.sampled_from(["app", "other"]),
    "user": st.sampled_from(["alice", "bob", "carol"]),
}
WHATEVER = st.just("5") | TEXTS.map(str.strip)
NAMES = st.sampled_from(["app", "alice", "bob", "*", "trio_pool", "x.y"]) | TEXTS


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def values(settings: tuple[Setting, ...]) -> st.SearchStrategy[dict[str, str]]:
    """Keys with values of their kind most of the time."""
    numbers = {
        one.name for one in settings if re.search("size|conn|timeout|port$|tcp_|life|notify|stmt", one.name)
    }
    named = {one.name: VALUES.get(one.name, NUMBERS if one.name in numbers else WHATEVER) for one in settings}
    pairs = st.sampled_from(sorted(named)).flatmap(lambda name: st.tuples(st.just(name), named[name]))
    return st.lists(pairs, max_size=12).map(dict)


def strings(settings: tuple[Setting, ...]) -> st.SearchStrategy[str]:
    """Connection strings with these keys."""
    return values(settings).map(
        lambda found: " ".join(
            "{}='{}'".format(key, value.replace("'", "''")) for key, value in found.items() if value
        )
    )


SECTIONS = st.tuples(
    st.dictionaries(NAMES, strings(DATABASES), max_size=4),
    st.dictionaries(NAMES, strings(USERS), max_size=3),
    values(PGBOUNCER),
)
HBA_WORDS = [
    "local",
    "host",
    "hostssl",
    "all",
    "app",
    "alice",
    "10.0.0.0/8",
    "md5",
    "trust",
    "cert",
    "password",
    "peer",
]
HBA = st.lists(st.lists(st.sampled_from(HBA_WORDS), min_size=3, max_size=6).map(" ".join)).map("\n".join)
USERLIST = st.dictionaries(NAMES, st.sampled_from(["", "clear", "SCRAM-SHA-256$4096:AA==$BB==:CC=="]) | TEXTS)


def spelled(sections: tuple[dict[str, str], dict[str, str], dict[str, str]]) -> str:
    databases, users, general = sections
    return "\n".join(
        [
            "[databases]",
            *(f"{quoted(name)} = {value}" for name, value in databases.items()),
            "[users]",
            *(f"{quoted(name)} = {value}" for name, value in users.items()),
            "[pgbouncer]",
            *(f"{key} = {value}" for key, value in general.items()),
        ]
    )


@given(SECTIONS, HBA, USERLIST)
def test_our_reader_accepts_what_comes_out(
    sections: tuple[dict[str, str], dict[str, str], dict[str, str]], hba: str, users: dict[str, str]
) -> None:
    """Or PgBouncer's configuration was refused with its place; but for files that are not on this machine,
    which are told.
    """
    userlist = "\n".join(f"{quoted(name)} {quoted(secret)}" for name, secret in users.items())
    try:
        found = translate(spelled(sections), "p.ini", Texts({"users": userlist, "hba": hba}))
    except CannotImport as error:
        problems = error.problems
    else:
        problems = ()
        _check(found)
    assert [problem for problem in problems if not (problem.place.line and problem.remedy)] == []


def _check(found: Translation) -> None:
    toml = spell(found.document)
    assert tomllib.loads(toml) == found.document.data()
    missing = [text for text in found.attention if text.startswith("to be put right before it serves")]
    assert [text for text in missing if "there is no file" not in text and "cannot be read" not in text] == []
    if not missing:
        Config.from_dict(tomllib.loads(toml))


def test_a_name_or_value_cannot_break_out_of_the_file() -> None:
    """Quotes, backslashes, control characters, brackets."""
    name = 'a"b\\c]\t=\x01\x7f\u2028'
    found = import_(f"[databases]\n{quoted(name)} = host=h\n[pgbouncer]\nlogfile = x\x02\x7f\u2028 = 1\n")
    assert list(found.config.databases) == [name]


@pytest.mark.parametrize("sample", sorted(SAMPLES.glob("*.ini")), ids=lambda path: str(path.name))
def test_every_sample_is_accepted(sample: Path) -> None:
    """Those of PgBouncer's packages, as they are."""
    files = {"/etc/pgbouncer/userlist.txt": (SAMPLES / "userlist.txt").read_text()}
    found = translate(sample.read_text(), "p.ini", Texts(files))
    assert Config.from_dict(tomllib.loads(spell(found.document))).users.keys() == {
        "marko",
        "postgres",
        "pgbouncer",
    }
