from __future__ import annotations

from pathlib import Path

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_pool.config.origin import (
    LINK_TCP,
    LoadBalanceHosts,
    Origin,
    SslMode,
    SslNegotiation,
    TargetSessionAttrs,
    TcpOptions,
    parse_origin,
)
from trio_pool.config.problems import Refused
from trio_pool.config.secret import Secret

BASE = Path("/etc/trio-pool")

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
PATHS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20).map(
    lambda text: Path("/x") / text.lstrip("/")
)
DIRECTORIES = st.text(st.characters(codec="utf-8", exclude_characters="\0,"), max_size=20).map("/{}".format)
HOSTS = st.one_of(
    st.ip_addresses().map(str),
    st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z]{2,5})?", fullmatch=True),
    DIRECTORIES,
)
STRONG = (SslMode.REQUIRE, SslMode.VERIFY_CA, SslMode.VERIFY_FULL)
ORIGINS = st.builds(
    Origin,
    hosts=st.lists(st.tuples(HOSTS, st.integers(1, 65535)), min_size=1, max_size=3).map(tuple),
    user=st.none() | TEXT,
    password=st.none(),
    dbname=st.none() | TEXT,
    sslmode=st.sampled_from(SslMode),
    sslrootcert=st.none() | PATHS,
    sslcert=st.none() | PATHS,
    sslkey=st.none() | PATHS,
    target_session_attrs=st.sampled_from(TargetSessionAttrs),
    load_balance_hosts=st.sampled_from(LoadBalanceHosts),
    tcp=st.builds(
        TcpOptions,
        keepalives=st.integers(0, 1),
        keepalives_idle=st.integers(0, 32767),
        keepalives_interval=st.integers(0, 32767),
        keepalives_count=st.integers(0, 127),
        tcp_user_timeout=st.integers(0, 2**31 - 1),
    ),
    parameters=st.dictionaries(st.sampled_from(["application_name", "options"]), TEXT),
    link=st.booleans(),
    sslnegotiation=st.sampled_from(SslNegotiation),
).filter(lambda origin: origin.sslmode in STRONG or origin.sslnegotiation is SslNegotiation.POSTGRES)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("postgresql://db", Origin((("db", 5432),))),
        ("postgres://db:6000/app", Origin((("db", 6000),), dbname="app")),
        (
            "postgresql://pool_user:s3cret@db.internal:5432/app?sslmode=verify-full",
            Origin(
                (("db.internal", 5432),), "pool_user", Secret("s3cret"), "app", sslmode=SslMode.VERIFY_FULL
            ),
        ),
        (
            "trio-pool://edge@a,b:7000/app",
            Origin(
                (("a", 6432), ("b", 7000)),
                "edge",
                dbname="app",
                sslmode=SslMode.VERIFY_FULL,
                sslnegotiation=SslNegotiation.DIRECT,
                tcp=LINK_TCP,
                link=True,
            ),
        ),
        (
            "trio-pool://a/app?sslmode=disable&tcp_user_timeout=0",
            Origin(
                (("a", 6432),),
                dbname="app",
                sslmode=SslMode.DISABLE,
                tcp=attrs.evolve(LINK_TCP, tcp_user_timeout=0),
                link=True,
            ),
        ),
        ("postgresql://h1:1,h2:2,h3/app", Origin((("h1", 1), ("h2", 2), ("h3", 5432)), dbname="app")),
        (
            "postgresql://[::1]:6000,[fe80::1%25eth0]/app",
            Origin((("::1", 6000), ("fe80::1%eth0", 5432)), dbname="app"),
        ),
        ("postgresql://%2Frun%2Fpostgresql:6000/app", Origin((("/run/postgresql", 6000),), dbname="app")),
        ("postgresql:///app?host=/run/postgresql", Origin((("/run/postgresql", 5432),), dbname="app")),
        ("postgresql://:6000/app?host=/run/postgresql", Origin((("/run/postgresql", 6000),), dbname="app")),
        ("postgresql://?host=h1,h2&port=6000", Origin((("h1", 6000), ("h2", 6000)))),
        ("postgresql://?host=h1,h2&port=1,2", Origin((("h1", 1), ("h2", 2)))),
        (
            "postgresql://db?user=alice&password=x&dbname=app",
            Origin((("db", 5432),), "alice", Secret("x"), "app"),
        ),
        ("postgresql://al%40ice:p%3A%2F@db", Origin((("db", 5432),), "al@ice", Secret("p:/"))),
        ("postgresql://u:a:b@db", Origin((("db", 5432),), "u", Secret("a:b"))),
        ("postgresql://db?ssl=true", Origin((("db", 5432),), sslmode=SslMode.REQUIRE)),
        ("postgresql://db?sslrootcert=system", Origin((("db", 5432),))),
        (
            "postgresql://db?sslrootcert=ca.crt&sslcert=/x/c.crt&sslkey=c.key",
            Origin(
                (("db", 5432),), sslrootcert=BASE / "ca.crt", sslcert=Path("/x/c.crt"), sslkey=BASE / "c.key"
            ),
        ),
        (
            "postgresql://h1,h2?target_session_attrs=prefer-standby&load_balance_hosts=random",
            Origin(
                (("h1", 5432), ("h2", 5432)),
                target_session_attrs=TargetSessionAttrs.PREFER_STANDBY,
                load_balance_hosts=LoadBalanceHosts.RANDOM,
            ),
        ),
        (
            "postgresql://db?keepalives=1&keepalives_idle=60&keepalives_interval=5&keepalives_count=3"
            "&tcp_user_timeout=90000",
            Origin((("db", 5432),), tcp=TcpOptions(1, 60, 5, 3, 90000)),
        ),
        ("postgresql://db?keepalives=0", Origin((("db", 5432),), tcp=TcpOptions(keepalives=0))),
        (
            "postgresql://db?application_name=a+b&options=-c%20search_path%3Dx",
            Origin((("db", 5432),), parameters={"application_name": "a+b", "options": "-c search_path=x"}),
        ),
    ],
)
def test_a_url_means_what_libpq_takes_it_for(url: str, origin: Origin) -> None:
    """All parts of libpq's connection URIs are understood as libpq understands them."""
    assert parse_origin(url, BASE) == origin


@given(ORIGINS)
def test_every_origin_survives_being_written_and_read(origin: Origin) -> None:
    """str() and parse_origin() are inverse, the password aside."""
    assert parse_origin(str(origin), BASE) == origin


@given(ORIGINS, TEXT)
def test_the_url_of_an_origin_never_has_its_password(origin: Origin, password: str) -> None:
    """str() may be logged."""
    assert str(attrs.evolve(origin, password=Secret(password))) == str(origin)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("host=db dbname=app", "the origin is not a URL of PostgreSQL or of a trio-pool; write "),
        ("mysql://db", "the origin is not a URL of PostgreSQL or of a trio-pool; write "),
        (
            "postgresql://db?sslnegotiation=direct",
            "the origin has sslnegotiation=direct and the weak sslmode prefer; set sslmode to require, ",
        ),
        (
            "trio-pool://db?sslmode=disable&sslnegotiation=direct",
            "the origin has sslnegotiation=direct and the weak sslmode disable; set sslmode to require, ",
        ),
        ("postgresql://", "the origin names no host; write "),
        ("postgresql:///app", "the origin names no host; write "),
        ("postgresql://h1,,h2/app", "the origin names no host; write "),
        ("postgresql://db:0/app", "a port of the origin is not a number from 1 to 65535; correct it"),
        ("postgresql://db:x/app", "a port of the origin is not a number from 1 to 65535; correct it"),
        ("postgresql://db?host=a,b,c&port=1,2", "the origin has 3 hosts and 2 ports; write one port"),
        ("postgresql://::1/app", "the origin has more than one : in a host; put an IPv6 address in brackets"),
        ("postgresql://[::1/app", "the origin has an IPv6 address without its closing bracket; write "),
        ("postgresql://d b/app", "a host of the origin has a space or a / in it; write "),
        ("postgresql://db/100%", "the origin has a % that no two hexadecimal digits follow; write % as %25"),
        ("postgresql://db/%ff", "the origin is not UTF-8 after percent-decoding; "),
        ("postgresql://db/%00", "the origin has %00 in it; leave it out"),
        ("postgresql://u:p@ss@db/app", "the origin has an @ where none can stand; write @ as %40"),
        ("postgresql://db?sslmode", "a parameter of the origin has no value; write parameters as name=value"),
        ("postgresql://db?sslmode=verify_full", "the origin has an unknown sslmode; use disable, allow, "),
        (
            "postgresql://db?target_session_attrs=master",
            "the origin has an unknown target_session_attrs; use any, read-write, read-only, primary, "
            "standby, prefer-standby",
        ),
        (
            "postgresql://db?load_balance_hosts=1",
            "the origin has an unknown load_balance_hosts; use disable, ",
        ),
        (
            "postgresql://db?keepalives_idle=1min",
            "keepalives_idle of the origin is not a whole number from 0 to 32767; correct it",
        ),
        ("postgresql://db?keepalives=2", "keepalives of the origin is not a whole number from 0 to 1; "),
        (
            "postgresql://db?keepalives_count=128",
            "keepalives_count of the origin is not a whole number from ",
        ),
        ("postgresql://db?tcp_user_timeout=", "tcp_user_timeout of the origin is not a whole number from 0 "),
        (
            "postgresql://db?sslmod=x",
            'the origin has the unknown parameter "sslmod"; the nearest known one is "sslmode"',
        ),
        (
            "postgresql://db?connect_timeout=5",
            'the origin has the parameter "connect_timeout", which has no use here; ',
        ),
        (
            "postgresql://db?password=a&b=c",
            "the origin has an unknown parameter after its password; correct it",
        ),
    ],
)
def test_what_is_no_origin_is_refused_with_a_remedy(url: str, fault: str) -> None:
    """Each common mistake gets its own answer."""
    with pytest.raises(Refused) as caught:
        parse_origin(url, BASE)
    assert str(caught.value).startswith(fault)


@given(
    *[st.text("@:/?&=%#,[] x", max_size=6)] * 2,
    st.sampled_from(["u:{}@db/app?sslmode=require", "u@db/app?password={}"]),
)
@example("", "/ss", "u:{}@db/app")
@example("pa/", "", "u:{}@db/app")
@example("?sslmode=", "", "u:{}@db/app")
@example("1?", "=1", "u:{}@db/app")
def test_no_refusal_quotes_a_password(before: str, after: str, url: str) -> None:
    """A password in the clear can break a URL anywhere; no part of it gets into the message."""
    assert "hunter2" not in repr(_outcome(f"postgresql://{url.format(f'{before}hunter2{after}')}"))


@given(st.text())
def test_no_text_makes_the_parser_fail_otherwise(text: str) -> None:
    """Whatever is written, the answer is an origin with hosts, or a refusal with faults."""
    outcome = _outcome(f"postgresql://{text}")
    assert outcome.faults if isinstance(outcome, Refused) else outcome.hosts


def _outcome(url: str) -> Origin | Refused:
    try:
        return parse_origin(url, BASE)
    except Refused as refused:
        return refused
