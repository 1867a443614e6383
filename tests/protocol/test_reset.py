"""RESET goes back to what the client's StartupMessage said, not to what the server's did."""

from __future__ import annotations

import pytest

from tests.support.fakepg import COPY_IN_RESPONSE
from tests.support.lease import (
    BUSY,
    ERROR,
    FAILED,
    IDLE,
    SELECTED,
    Lease,
    adopted,
    new_client,
    restored,
)
from tests.support.requests import COPY_DONE, SYNC, bind, copy_data, execute, parse, query
from tests.support.threeways import WAYS
from trio_pool.protocol.client import ClientState
from trio_pool.protocol.facts import Ask
from trio_pool.protocol.settings import intern, restoration
from trio_pool.wire import messages
from trio_pool.wire.messages import BIND_COMPLETE, PARSE_COMPLETE, command_complete

BASE = intern({"application_name": "x", "work_mem": "4MB", "my.a": "1"})
RESET = command_complete("RESET")
LOST = messages.error("08006", "lost")
RUN = parse("", "RESET application_name") + bind("") + execute()
RAN = PARSE_COMPLETE + BIND_COMPLETE + RESET
DEFAULT = messages.parameter_status("application_name", "")
X = messages.parameter_status("application_name", "x")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """How bytes are cut."""
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
def lease(way: str) -> Lease:
    """A client with settings of its StartupMessage, on a server that has them."""
    lease = Lease(new_client(settings=BASE), way=way)
    lease.asks(query("SELECT 1"))
    assert lease.answers(adopted("x", "4MB", "1", reports=X) + SELECTED + IDLE) == SELECTED + IDLE
    return lease


def only(*names: str) -> bytes:
    """The restoration of some of the settings."""
    return restoration(intern({name: BASE[name] for name in names}))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("RESET application_name", ["application_name"]),
        ("SET Work_Mem TO DEFAULT", ["work_mem"]),
        ("RESET my.a; RESET WORK_MEM", ["work_mem", "my.a"]),
        ("RESET ALL", ["application_name", "work_mem", "my.a"]),
        ("DISCARD ALL", ["application_name", "work_mem", "my.a"]),
        ("DO $$ begin reset work_mem; end $$", ["application_name", "work_mem", "my.a"]),
    ],
)
def test_what_a_text_may_reset_is_set_again_behind_it(text: str, names: list[str], lease: Lease) -> None:
    """In the same write, and the end of the text's group is held until that has happened."""
    assert lease.asks(query(text)) == query(text) + only(*names)
    tag = command_complete(text.split(" ")[0] if text != "DISCARD ALL" else text)
    assert lease.answers(tag + IDLE) == tag
    assert lease.answers(restored(*[BASE[name] for name in names])) == IDLE
    assert lease.server.must_ask
    assert lease.server.free


@pytest.mark.parametrize(
    "text", ["SET application_name = 'y'", "RESET TimeZone", "SET LOCAL work_mem = '1MB'"]
)
def test_what_resets_nothing_of_the_clients_passes_as_it_came(text: str, lease: Lease) -> None:
    """Nothing is restored."""
    assert lease.asks(query(text)) == query(text)
    assert lease.answers(command_complete("SET") + IDLE) == command_complete("SET") + IDLE


def test_a_client_without_such_settings_resets_to_the_servers(way: str) -> None:
    """Which is what it has logged in with."""
    lease = Lease(way=way)
    assert lease.asks(query("RESET ALL")) == query("RESET ALL")
    assert lease.answers(RESET + IDLE) == RESET + IDLE


def test_what_is_reported_on_the_way_is_told_as_one_difference(lease: Lease) -> None:
    """The client does not see the server's own value."""
    lease.asks(query("SET application_name = 'y'"))
    y = messages.parameter_status("application_name", "y")
    assert lease.answers(command_complete("SET") + y + IDLE) == command_complete("SET") + y + IDLE
    lease.is_told(("setting", "application_name", "y"))
    lease.asks(query("RESET application_name"))
    assert lease.answers(RESET + DEFAULT + IDLE) == RESET
    assert lease.answers(restored("x", reports=X)) == X + IDLE
    lease.asks(query("RESET application_name"))
    assert lease.answers(RESET + DEFAULT + IDLE + restored("x", reports=X)) == RESET + IDLE


def test_the_extended_protocol_resets_likewise(lease: Lease) -> None:
    """Behind the Sync of the group."""
    assert lease.asks(RUN + SYNC) == RUN + SYNC + only("application_name")
    assert lease.answers(RAN + IDLE) == RAN
    assert lease.answers(restored("x")) == IDLE


def test_a_group_that_resets_several_is_mended_once(lease: Lease) -> None:
    """At its end, however it came."""
    group = RUN + parse("", "RESET my.a") + bind("") + execute()
    assert lease.asks(group) == group
    assert lease.asks(SYNC) == SYNC + only("application_name", "my.a")
    assert lease.answers(RAN + RAN + IDLE + restored("x", "1")) == RAN + RAN + IDLE
    assert lease.asks(SYNC) == SYNC


def test_a_pipeline_behind_a_reset_gets_its_replies_in_sequence(lease: Lease) -> None:
    """In both protocols."""
    run = parse("", "SELECT 1") + bind("") + execute() + SYNC
    sent = lease.asks(query("RESET work_mem") + query("SELECT 1") + RUN + SYNC + run)
    assert sent == (
        query("RESET work_mem")
        + only("work_mem")
        + query("SELECT 1")
        + RUN
        + SYNC
        + only("application_name")
        + run
    )
    ran = PARSE_COMPLETE + BIND_COMPLETE + SELECTED + IDLE
    replies = RESET + IDLE + restored("4MB") + SELECTED + IDLE + RAN + IDLE + restored("x") + ran
    assert lease.answers(replies) == RESET + IDLE + SELECTED + IDLE + RAN + IDLE + ran


@pytest.mark.parametrize("ready", [BUSY, FAILED])
def test_in_a_transaction_it_is_restored_there(ready: bytes, lease: Lease) -> None:
    """So that a rollback takes back both; in a failed one neither happens, and nobody hears of our error."""
    lease.asks(query("BEGIN"))
    lease.answers(command_complete("BEGIN") + BUSY)
    lease.asks(query("RESET work_mem"))
    if ready == BUSY:
        assert lease.answers(RESET + BUSY) == RESET
        assert lease.answers(restored("4MB").removesuffix(IDLE) + BUSY) == BUSY
    else:
        assert lease.answers(ERROR + FAILED) == ERROR
        aborted = messages.error("25P02", "aborted")
        assert lease.answers(aborted + FAILED) == FAILED
    assert not lease.server.free


def test_a_server_lost_before_the_end_of_the_restoration(lease: Lease) -> None:
    """The reset has happened, and is answered: nothing is told twice."""
    lease.asks(query("RESET work_mem"))
    assert lease.answers(RESET + IDLE) == RESET
    lease.client.lose(LOST)
    assert lease.own_replies() == IDLE
    assert lease.client.state is ClientState.IDLE


def test_a_server_lost_before_the_reset_is_answered(lease: Lease) -> None:
    """One error and one ReadyForQuery for each request of the client's, none for ours."""
    lease.asks(query("RESET work_mem") + query("SELECT 1"))
    lease.client.lose(LOST)
    assert lease.own_replies() == (LOST + IDLE) * 2


@pytest.mark.parametrize("text", ["SELECT 1", "SET LOCAL work_mem = '1MB'"])
def test_a_query_that_ends_the_group_of_a_reset_ends_it(text: str, lease: Lease) -> None:
    """It may be skipped, so nothing of ours follows it; what was reset is mended with the next Sync."""
    assert lease.asks(RUN + query(text)) == RUN + query(text)
    assert lease.answers(RAN + SELECTED + IDLE) == RAN + SELECTED + IDLE
    assert lease.asks(SYNC) == SYNC + only("application_name")
    assert lease.answers(IDLE + restored("x")) == IDLE


def test_a_reset_behind_an_open_group_is_not_followed_by_anything_of_ours(lease: Lease) -> None:
    """The Query may be skipped to the client's Sync."""
    ahead = parse("", "ERROR") + query("RESET work_mem")
    assert lease.asks(ahead) == ahead
    assert lease.answers(ERROR) == ERROR
    assert lease.asks(SYNC) == SYNC + only("work_mem")
    assert lease.answers(IDLE + restored("4MB")) == IDLE


def test_a_reset_behind_a_copy_in_one_pipeline(lease: Lease) -> None:
    """The COPY's own Sync is ignored: the group of the RESET ends both."""
    copy = parse("", "COPY sink FROM STDIN") + bind("") + execute() + SYNC + copy_data(b"1\n") + COPY_DONE
    assert lease.asks(copy + RUN + SYNC) == copy + RUN + SYNC + only("application_name")
    copied = PARSE_COMPLETE + BIND_COMPLETE + COPY_IN_RESPONSE + command_complete("COPY 1")
    assert lease.answers(copied + RAN + IDLE) == copied + RAN
    assert lease.answers(restored("x")) == IDLE


def test_after_discard_all_the_client_has_what_it_started_with(lease: Lease) -> None:
    """And PostgreSQL is asked about it once."""
    lease.asks(query("SET TimeZone = 'UTC'"))
    lease.answers(command_complete("SET") + IDLE)
    settings = [("setting", name, value) for name, value in BASE.items()]
    lease.is_told(*settings, ("setting", "TimeZone", "UTC"))
    lease.asks(query("DISCARD ALL"))
    lease.answers(command_complete("DISCARD ALL") + DEFAULT + IDLE + restored("x", "4MB", "1", reports=X))
    assert lease.client.settings is BASE
    assert lease.server.asks == Ask.SETTINGS
    lease.is_told(*settings)
    assert lease.client.settings is BASE
    assert not lease.server.must_ask
