"""HBA files: what a client is asked for is what PgBouncer would ask it for."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.migration.imports import general

if TYPE_CHECKING:
    from trio_pool.config import Auth, AuthMethod

USERLIST = '"alice" "1"\n"bob" "2"\n'


def auth(hba: str, lines: str = "", **files: str) -> Auth:
    return general(
        f"auth_type = hba\nauth_file = users\nauth_hba_file = hba\n{lines}", users=USERLIST, hba=hba, **files
    ).config.auth


@pytest.mark.parametrize(
    ("hba", "client", "method"),
    [
        ("local all all md5", ("app", "alice", None, False), "md5"),
        ("local all all md5", ("app", "alice", "127.0.0.1", False), "reject"),
        ("host all all all md5", ("app", "alice", None, False), "reject"),
        ("host all all all md5", ("app", "alice", "::1", True), "md5"),
        ("host all all 10.0.0.0/8 md5", ("app", "alice", "10.1.2.3", False), "md5"),
        ("host all all 10.0.0.0/8 md5", ("app", "alice", "11.1.2.3", False), "reject"),
        ("host all all 10.0.0.0 255.0.0.0 md5", ("app", "alice", "10.1.2.3", False), "md5"),
        ("host all all 10.1.0.0/8 md5", ("app", "alice", "10.1.0.3", False), "reject"),
        ("hostssl all all all scram-sha-256", ("app", "alice", "10.1.2.3", True), "scram-sha-256"),
        ("hostssl all all all scram-sha-256", ("app", "alice", "10.1.2.3", False), "reject"),
        ("hostnossl all all all md5", ("app", "alice", "10.1.2.3", True), "reject"),
        ("hostnossl all all all md5", ("app", "alice", None, False), "reject"),
        ('local app,"all" alice,bob md5', ("all", "bob", None, False), "md5"),
        ('local app,"all" alice,bob md5', ("x", "bob", None, False), "reject"),
        ("local sameuser all md5", ("alice", "alice", None, False), "md5"),
        ("local sameuser all md5", ("app", "alice", None, False), "reject"),
        ("local all alice reject\nlocal all all md5", ("app", "alice", None, False), "reject"),
        ("local all @some md5", ("app", "bob", None, False), "md5"),
        ("local all @some md5", ("app", "alice", None, False), "reject"),
        ("local all all trust", ("app", "alice", None, False), "trust"),
        ("local all all trust\nlocal all all md5", ("app", "stranger", None, False), "reject"),
        # Without an equivalent: nobody is let in by it, and nobody by a later rule that it stood before.
        ("local all all peer\nlocal all all trust", ("app", "alice", None, False), "reject"),
        ("local all all cert map=m\nlocal all all trust", ("app", "alice", None, False), "reject"),
        # PgBouncer ignores lines that it cannot read.
        ("local all +group reject\nlocal all all md5", ("app", "alice", None, False), "md5"),
        ("host all all db.example md5", ("app", "alice", "10.1.2.3", False), "reject"),
        ("nonsense", ("app", "alice", None, False), "reject"),
        ("", ("app", "alice", None, False), "reject"),
    ],
)
def test_a_client_is_asked_for_the_same(
    hba: str, client: tuple[str, str, str | None, bool], method: str
) -> None:
    """The first rule of the file that matches decides, nobody is let in without one."""
    assert auth(hba, some='bob\n"carol"\n').method_for(*client) == method


def test_what_is_ignored_is_told() -> None:
    """With the line and the reason."""
    found = general("auth_type = hba\nauth_hba_file = hba", hba="\nlocal samerole all trust\n")
    assert "hba:2: ignored, as by PgBouncer: local samerole all trust (samerole is not supported)" in (
        found.translation.attention
    )


ADDRESSES = st.one_of(st.none(), st.sampled_from(["10.0.0.1", "10.1.0.1", "192.168.0.1", "fd00::1", "::1"]))
KINDS = st.sampled_from(["local", "host", "hostssl", "hostnossl"])
NAMES = st.sampled_from(["all", "app", "alice", "bob", "alice,bob", "app,all", "sameuser"])
NETWORKS = st.sampled_from(["all", "10.0.0.0/8", "10.0.0.1/32", "fd00::/8", "0.0.0.0/0", "::/0"])
METHODS = st.sampled_from(["md5", "scram-sha-256", "reject"])
LINES = st.lists(st.tuples(KINDS, NAMES, NAMES.filter(lambda name: name != "sameuser"), NETWORKS, METHODS))


@given(
    LINES,
    st.sampled_from(["app", "alice", "other"]),
    st.sampled_from(["alice", "bob"]),
    ADDRESSES,
    st.booleans(),
)
def test_any_file_means_the_same(
    lines: list[tuple[str, str, str, str, str]], database: str, user: str, host: str | None, tls: bool
) -> None:
    """PgBouncer's own matching, written down once more, agrees."""
    tls = tls and host is not None
    text = "\n".join(
        " ".join((kind, databases, users, *(() if kind == "local" else (network,)), method))
        for kind, databases, users, network, method in lines
    )
    assert auth(text).method_for(database, user, host, tls) == expected(lines, database, user, host, tls)


def expected(
    lines: list[tuple[str, str, str, str, str]], database: str, user: str, host: str | None, tls: bool
) -> AuthMethod | str:
    """`hba_eval` of PgBouncer's hba.c."""
    for kind, databases, users, network, method in lines:
        if (kind == "local") != (host is None) or (kind, tls) in {("hostssl", False), ("hostnossl", True)}:
            continue
        if (
            host is not None
            and network != "all"
            and ipaddress.ip_address(host) not in ipaddress.ip_network(network)
        ):
            continue
        of_databases, of_users = databases.split(","), users.split(",")
        if not ({"all", database} & set(of_databases) or ("sameuser" in of_databases and database == user)):
            continue
        if {"all", user} & set(of_users):
            return method
    return "reject"
