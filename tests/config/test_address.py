from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_pool.config.address import Address, TcpAddress, UnixAddress, parse_address, parse_tcp_address
from trio_pool.config.problems import Refused

if TYPE_CHECKING:
    import ipaddress

HOSTS = st.one_of(
    st.ip_addresses().map(str),
    st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z]{2,5})?", fullmatch=True),
)
TCP = st.builds(TcpAddress, HOSTS, st.integers(0, 65535))
UNIX = st.builds(
    UnixAddress, st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=90).map("/{}".format)
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:6432", TcpAddress("127.0.0.1", 6432)),
        ("localhost:0", TcpAddress("localhost", 0)),
        ("[::1]:6432", TcpAddress("::1", 6432)),
        ("[fe80::1%eth0]:6432", TcpAddress("fe80::1%eth0", 6432)),
        ("unix:/run/x/.s.PGSQL.6432", UnixAddress("/run/x/.s.PGSQL.6432")),
    ],
)
def test_address_is_read_and_spelled_back(text: str, address: Address) -> None:
    """Each of the documented spellings means what it says, and str() gives it back."""
    assert parse_address(text) == address
    assert str(address) == text


@given(TCP | UNIX)
def test_every_address_survives_being_written_and_read(address: Address) -> None:
    """str() and parse_address() are inverse."""
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("127.0.0.1", '"127.0.0.1" has no port; write "127.0.0.1:6432", '),
        (":6432", '":6432" has no host; write "0.0.0.0:6432" or "[::]:6432" for every interface'),
        ("*:6432", '"*:6432" has no host; write "0.0.0.0:6432" or "[::]:6432" for every interface'),
        ("::1:6432", '"::1:6432" has an IPv6 address without brackets; write "[::1]:6432"'),
        ("[::1:6432", '"[::1:6432" has an IPv6 address without brackets; write '),
        ("[::x]:6432", '"[::x]:6432" has no valid IPv6 address between its brackets; write '),
        ("host:65536", 'the port of "host:65536" is not a number from 0 to 65535; write '),
        ("host:x", 'the port of "host:x" is not a number from 0 to 65535; write '),
        ("a b:1", '"a b:1" has no valid host; write '),
        ("unix:run/x", '"unix:run/x" has no absolute path; write '),
        ("unix:/" + "x" * 110, "the path of a Unix socket is longer than 103 bytes; choose "),
    ],
)
def test_what_is_no_address_is_refused_with_a_remedy(text: str, fault: str) -> None:
    """Each common mistake gets its own answer."""
    with pytest.raises(Refused) as caught:
        parse_address(text)
    assert str(caught.value).startswith(fault)


def test_where_only_tcp_will_do_a_unix_socket_is_refused() -> None:
    """The status page has a TCP address."""
    with pytest.raises(Refused):
        parse_tcp_address("unix:/run/x")


@given(ipv6=st.ip_addresses(v=6))
def test_ipv6_stands_in_brackets(ipv6: ipaddress.IPv6Address) -> None:
    """A port can always be told from the address."""
    assert str(TcpAddress(str(ipv6), 1)) == f"[{ipv6}]:1"
