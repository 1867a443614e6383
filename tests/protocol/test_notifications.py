"""Notifications: from where a client gets each of them, once and in time."""

from __future__ import annotations

from collections import deque

import pytest

from tests.support.lease import IDLE, SELECTED, Lease, adopted, adoption, new_client, new_server
from tests.support.requests import query
from tests.support.threeways import WAYS
from trio_pool.errors import ServerFault
from trio_pool.protocol.facts import Ask
from trio_pool.protocol.settings import intern
from trio_pool.wire import messages
from trio_pool.wire.messages import command_complete, notification

MINE, OTHER = 17, 4
FROM_A, FROM_B = notification(OTHER, b"a", b"1"), notification(OTHER, b"b", b"2")
OWN_A = notification(MINE, b"a", b"own")
LISTENED = command_complete("LISTEN")
NOTIFIED = command_complete("NOTIFY")
MARKER, TOKEN = b"_pool_mark", b"4711"
MARKED = notification(MINE, MARKER, TOKEN)
ANNOUNCEMENT = query('LISTEN "_pool_mark"; NOTIFY "_pool_mark", \'4711\'') + query('UNLISTEN "_pool_mark"')


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """How bytes are cut."""
    assert isinstance(request.param, str)
    return request.param


def listener(way: str, *channels: bytes) -> Lease:
    """A client that listens to channels, which reach it from the pool's listening connection by now."""
    client = new_client()
    client.channels = frozenset(channels)
    client.echoes = deque()
    return Lease(client, new_server(process_id=MINE), way)


# -- before anything is handed over --------------------------------------------------------------------------


def test_notifications_come_from_the_server_until_the_channel_is_handed_over(way: str) -> None:
    """LISTEN is asked about, and what PostgreSQL sends passes where it stands."""
    lease = Lease(server=new_server(process_id=MINE), way=way)
    lease.asks(query("LISTEN a"))
    assert lease.answers(FROM_A + LISTENED + FROM_A + IDLE) == FROM_A + LISTENED + FROM_A + IDLE
    assert lease.server.listening
    assert lease.server.asks == Ask.CHANNELS
    lease.is_told(("channel", "a", ""))
    assert lease.inspection is not None
    assert lease.inspection.channels == {b"a"}
    assert lease.answers(FROM_A) == FROM_A
    assert lease.server.free
    assert [*lease.client.echoes] == []


def test_notifications_inside_groups_of_ours_are_not_lost(way: str) -> None:
    """Everything else there is nobody's."""
    lease = Lease(new_client(settings=intern({"application_name": "x"})), way=way)
    lease.asks(query("LISTEN a"))
    ours = adopted("x", reports=messages.parameter_status("application_name", "x"))
    assert lease.answers(FROM_A + ours[:-6] + FROM_B + ours[-6:] + LISTENED + IDLE) == (
        FROM_A + FROM_B + LISTENED + IDLE
    )
    lease.inspects()
    assert lease.answers(FROM_A) == FROM_A


# -- silenced ------------------------------------------------------------------------------------------------


def test_a_leased_server_listens_to_what_its_client_does(way: str) -> None:
    """So that PostgreSQL knows what LISTEN and UNLISTEN make of it; its notifications are the listening
    connection's to tell.
    """
    lease = listener(way, b"b", b'a "x"')
    listen = query('LISTEN "a ""x"""; LISTEN "b"')
    assert lease.asks(query("SELECT 1")) == listen + query("SELECT 1")
    heard = notification(OTHER, b'a "x"', b"") + FROM_B
    assert lease.answers(LISTENED + LISTENED + IDLE + heard + SELECTED + heard + IDLE) == SELECTED + IDLE
    assert [*lease.client.echoes] == []


def test_settings_go_first(way: str) -> None:
    """In the same write."""
    lease = listener(way, b"a")
    lease.client.settings = intern({"work_mem": "4MB"})
    assert lease.asks(query("SELECT 1")) == adoption("work_mem", "4MB") + query('LISTEN "a"') + query(
        "SELECT 1"
    )
    assert lease.answers(adopted("4MB") + LISTENED + IDLE + SELECTED + IDLE) == SELECTED + IDLE


def test_own_notifications_come_with_the_transaction_that_sent_them(way: str) -> None:
    """Ahead of its ReadyForQuery, as PostgreSQL does it; and are noted, since the listening connection will
    tell them once more.
    """
    lease = listener(way, b"a")
    lease.asks(query("NOTIFY a, 'own'"))
    assert lease.answers(LISTENED + IDLE + NOTIFIED + FROM_A + OWN_A + IDLE) == NOTIFIED + OWN_A + IDLE
    assert [*lease.client.echoes] == [OWN_A]


def test_other_channels_are_not_silenced(way: str) -> None:
    """What was listened to just now is not handed over yet."""
    lease = listener(way, b"a")
    lease.asks(query("LISTEN b"))
    assert lease.answers(LISTENED + IDLE + LISTENED + FROM_A + FROM_B + IDLE) == LISTENED + FROM_B + IDLE
    assert lease.answers(FROM_A + FROM_B) == FROM_B


def test_the_next_client_hears_nothing(way: str) -> None:
    """UNLISTEN is the last thing of a lease."""
    lease = listener(way, b"a")
    lease.asks(query("SELECT 1"))
    lease.answers(LISTENED + IDLE + SELECTED + IDLE)
    server = lease.server
    lease.ends()
    assert server.listening
    assert server.clean() == query("UNLISTEN *")
    assert lease.answers(command_complete("UNLISTEN") + IDLE) == b""
    assert server.clean() is None
    assert not server.listening
    other = Lease(new_client(), server, way)
    assert other.asks(query("SELECT 1")) == query("SELECT 1")


# -- the mark ------------------------------------------------------------------------------------------------


def test_the_mark_is_the_point_of_the_handover(way: str) -> None:
    """What comes ahead of it comes from the server, what comes behind it from the listening connection; the
    mark itself is nobody's.
    """
    lease = Lease(server=new_server(process_id=MINE), way=way)
    lease.asks(query("LISTEN a"))
    lease.answers(LISTENED + IDLE)
    lease.is_told(("channel", "a", ""))
    assert lease.server.announce(MARKER, TOKEN, frozenset({b"a"})) == ANNOUNCEMENT
    assert not lease.server.free
    replies = FROM_A + LISTENED + NOTIFIED + FROM_A + MARKED + FROM_A + IDLE
    assert lease.answers(replies) == FROM_A + FROM_A
    assert lease.answers(FROM_A + command_complete("UNLISTEN") + IDLE + FROM_A) == b""
    assert lease.server.silenced == {b"a"}
    assert lease.server.mark is None
    assert lease.server.free


def test_only_its_own_mark_counts(way: str) -> None:
    """Others of the pool are marked on the same channel: not a word of that to the client."""
    lease = Lease(server=new_server(process_id=MINE), way=way)
    lease.asks(query("LISTEN a"))
    lease.answers(LISTENED + IDLE)
    lease.is_told(("channel", "a", ""))
    lease.server.announce(MARKER, TOKEN, frozenset({b"a"}))
    elsewhere = notification(OTHER, MARKER, b"4712")
    assert lease.answers(LISTENED + NOTIFIED + elsewhere + FROM_A) == FROM_A
    assert lease.server.silenced == frozenset()
    assert lease.answers(MARKED + FROM_A + IDLE + command_complete("UNLISTEN") + IDLE) == b""
    assert lease.server.silenced == {b"a"}


def test_a_client_goes_on_while_the_mark_is_set(way: str) -> None:
    """Its replies stay in sequence."""
    lease = Lease(server=new_server(process_id=MINE), way=way)
    lease.asks(query("LISTEN a"))
    lease.answers(LISTENED + IDLE)
    lease.is_told(("channel", "a", ""))
    lease.server.announce(MARKER, TOKEN, frozenset({b"a"}))
    assert lease.asks(query("NOTIFY a, 'own'")) == query("NOTIFY a, 'own'")
    ours = LISTENED + NOTIFIED + MARKED + IDLE + command_complete("UNLISTEN") + IDLE
    assert lease.answers(ours + NOTIFIED + OWN_A + IDLE) == NOTIFIED + OWN_A + IDLE
    assert [*lease.client.echoes] == [OWN_A]


@pytest.mark.parametrize("body", [b"", b"\0\0\0\1", b"\0\0\0\1a\0", b"\0\0\0\1a\0b\0c"])
def test_a_malformed_notification_is_a_violation(body: bytes, way: str) -> None:
    """Nothing of it reaches a client."""
    lease = Lease(way=way)
    lease.asks(query("SELECT 1"))
    with pytest.raises(ServerFault, match="broke the protocol"):
        lease.answers(messages.message(ord("A"), body))
