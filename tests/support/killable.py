"""Clients to be killed: each brings itself into a state, says so, and stays there until SIGKILL.

Run as a program, with host and port as arguments and one state per line on standard input. Each line makes
one process of its own (forked: a new interpreter for each would take the time of ten kills), which prints
"PID STATE" once it is there. What a victim cannot do is printed as "PID STATE: why", so that no state is left
out silently. Besides SIGKILL, SIGUSR1 makes a victim close its connection, SIGUSR2 makes it reset it.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import ssl
import struct
import sys
from typing import Final, NoReturn

from tests.support import requests
from tests.support.target import DATABASE, PASSWORD, USER
from trio_pool.protocol.login import Login
from trio_pool.wire import messages
from trio_pool.wire.tags import AuthenticationCode, Backend

MARKER: Final = "a victim's"
"""In the text of everything that runs long."""
LONG: Final = f"select pg_sleep(300) /* {MARKER} */"
FIRST: Final = "select repeat('x', 100) from generate_series(1, 300)"
"""More than PostgreSQL buffers, so that rows of it arrive while the next statement runs."""
MUCH: Final = f"select repeat('x', 1000), generate_series(1, 100000000) /* {MARKER} */"
"""In the list of columns the series is not stored before its first row is sent."""
MEGABYTE: Final = 1 << 20
TABLE: Final = "storm"
"""Of one column, text."""
LOCK: Final = 4711
LARGE: Final = messages.query("select 1 /* " + "x" * (1 << 16) + " */")
"""More than fits a read."""
ENDS: Final = frozenset({signal.SIGUSR1, signal.SIGUSR2})
"""Signals after which a victim closes its connection, or resets it."""
LONGEST: Final = 60
"""Seconds after which a victim that was forgotten ends by itself."""


def unverified() -> ssl.SSLContext:
    """TLS with whomever. Not the default context: that reads all certificates of the system each time."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Victim:
    """One client on a blocking socket."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.sock: socket.socket = socket.create_connection(address, 30)
        self._unread = b""

    def encrypt(self) -> None:
        self.sock.sendall(messages.SSL_REQUEST)
        assert self.sock.recv(1) == b"S"
        self.sock = unverified().wrap_socket(self.sock)

    def log_in(self, until: int | None = None) -> None:
        """Log in; stop when asked for this authentication (`AuthenticationCode`)."""
        login = Login(
            {"user": USER, "database": DATABASE},
            PASSWORD,
            tls=isinstance(self.sock, ssl.SSLSocket),
            channel_binding=None,
            allow_cleartext=False,
            client_nonce=f"victim{os.getpid()}",
        )
        self.sock.sendall(login.begin())
        while not login.done:
            tag, body = self.receive()
            if tag == Backend.AUTHENTICATION and struct.unpack_from("!I", body)[0] == until:
                return
            self.sock.sendall(login.receive(tag, body))

    def receive(self) -> tuple[int, bytes]:
        while len(self._unread) < 5 or len(self._unread) <= int.from_bytes(self._unread[1:5], "big"):
            self._receive_some()
        end = 1 + int.from_bytes(self._unread[1:5], "big")
        message = self._unread[0], self._unread[5:end]
        self._unread = self._unread[end:]
        return message

    def _receive_some(self) -> None:
        chunk = self.sock.recv(1 << 16)
        if not chunk:
            raise EOFError("the pooler closed the connection")
        self._unread += chunk

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def until(self, wanted: int, *, errors: bool = False) -> None:
        """Read up to the first message with this tag. Raises RuntimeError at an error, unless it may come."""
        while True:
            tag, body = self.receive()
            if tag == wanted:
                return
            if tag == Backend.ERROR_RESPONSE and not errors:
                raise RuntimeError(messages.read_error(body).summary)

    def leave(self, *, reset: bool) -> NoReturn:
        """End without a word."""
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.sock.detach())  # not TLS's farewell
        os._exit(0)

    def run(self, sql: str) -> None:
        self.send(messages.query(sql))
        self.until(Backend.READY_FOR_QUERY)


# -- states of one that has logged in ------------------------------------------------------------------------


def idle(victim: Victim) -> None:
    victim.run("select 1")


def waiting(victim: Victim) -> None:
    """Only if no server is free."""
    victim.send(messages.query("select 1"))


def in_transaction(victim: Victim) -> None:
    victim.run("begin")
    victim.run(f"insert into {TABLE} values ('never')")


def in_failed_transaction(victim: Victim) -> None:
    victim.run("begin")
    victim.send(messages.query("select 1/0"))
    victim.until(Backend.ERROR_RESPONSE)


def in_query(victim: Victim) -> None:
    victim.send(messages.query(f"{FIRST}; {LONG}"))
    victim.until(Backend.DATA_ROW)


def in_query_of_transaction(victim: Victim) -> None:
    in_transaction(victim)
    in_query(victim)


def in_query_with_more(victim: Victim) -> None:
    """Statements wait behind the one that runs."""
    in_query(victim)
    for _ in range(20):
        victim.send(messages.query(LONG))


def in_query_with_flood(victim: Victim) -> None:
    """The same, megabytes of them."""
    in_query(victim)
    victim.send(LARGE * 64)


def waiting_with_more(victim: Victim) -> None:
    """Statements wait behind one that waits for a server (if none is free): more than the pooler reads, and
    less than the sockets hold, where the end would stand behind what does not fit.
    """
    victim.send(LARGE * 5 + LARGE[: 1 << 15])


def ahead_of_rows(victim: Victim) -> None:
    """In a second there will be more to read than the sockets hold."""
    victim.send(messages.query(f"{FIRST}; select pg_sleep(1) /* {MARKER} */; {MUCH}"))
    victim.until(Backend.DATA_ROW)


def in_procedure(victim: Victim) -> None:
    """A command of which nobody knows what it leaves in the session."""
    sql = f"do $$ begin raise notice 'running'; perform pg_sleep(300) /* {MARKER} */; end $$"
    victim.send(messages.query(sql))
    victim.until(Backend.NOTICE_RESPONSE)


def in_lock(victim: Victim) -> None:
    """One of two who want the same lock; who waits for it, waits behind a first answer."""
    victim.send(
        messages.query(f"{FIRST}; select pg_advisory_xact_lock({LOCK}), pg_sleep(300) /* {MARKER} */")
    )
    victim.until(Backend.DATA_ROW)


def in_copy_in(victim: Victim) -> None:
    victim.send(messages.query(f"copy {TABLE} from stdin"))
    victim.until(Backend.COPY_IN_RESPONSE)
    victim.send(requests.copy_data(b"never\n") * random.randrange(100))


def in_extended_copy_in(victim: Victim) -> None:
    request = requests.parse("", f"copy {TABLE} from stdin") + requests.bind("") + requests.execute()
    victim.send(request + random.choice((requests.SYNC, requests.FLUSH)))
    victim.until(Backend.COPY_IN_RESPONSE)
    victim.send(requests.copy_data(b"never\n"))


def in_half_copy_data(victim: Victim) -> None:
    in_copy_in(victim)
    victim.send(requests.copy_data(b"never\n" * MEGABYTE)[:MEGABYTE])


def in_copy_out(victim: Victim) -> None:
    victim.send(messages.query(f"copy ({MUCH}) to stdout"))
    victim.until(Backend.COPY_DATA)


def in_unread_rows(victim: Victim) -> None:
    victim.send(messages.query(MUCH))
    victim.until(Backend.DATA_ROW)


def in_pipeline(victim: Victim) -> None:
    """Several groups that run long, one behind the other; the statements have names."""
    for sql in (FIRST, LONG, LONG, LONG):
        name = str(random.randrange(1000))
        victim.send(requests.parse(name, sql) + requests.bind(name) + requests.execute() + requests.SYNC)
    victim.until(Backend.DATA_ROW)


def in_group(victim: Victim) -> None:
    """An extended-protocol group that no Sync has ended."""
    victim.send(requests.parse("", "select 1") + requests.bind("") + requests.execute() + requests.FLUSH)
    victim.until(Backend.COMMAND_COMPLETE)


def in_suspended_portal(victim: Victim) -> None:
    sql = "select generate_series(1, 100)"
    victim.send(requests.parse("", sql) + requests.bind("") + requests.execute(limit=3) + requests.FLUSH)
    victim.until(Backend.PORTAL_SUSPENDED)


def in_half_query(victim: Victim) -> None:
    victim.send(messages.query("select 'half a query'")[: random.randrange(1, 20)])


def in_half_query_of_transaction(victim: Victim) -> None:
    in_transaction(victim)
    in_half_query(victim)


def in_half_megabyte(victim: Victim) -> None:
    victim.send(messages.query("-" * MEGABYTE + "\n")[: MEGABYTE // 2])


def in_half_bind_behind_query(victim: Victim) -> None:
    """PostgreSQL runs a statement while the pooler is in the middle of the next message."""
    victim.send(messages.query(f"{FIRST}; {LONG}"))
    victim.send((requests.parse("", "select $1::text") + requests.bind("", "x" * MEGABYTE))[: MEGABYTE // 2])
    victim.until(Backend.DATA_ROW)


def with_session_state(victim: Victim) -> None:
    victim.run("listen storm; prepare storm as select 1; set work_mem = '5MB'")
    victim.run("create temporary table t (a int); declare c cursor with hold for select 1")


# -- states of one that has not ------------------------------------------------------------------------------


def connected(victim: Victim) -> None:
    pass


def in_half_startup(victim: Victim) -> None:
    startup = messages.startup({"user": USER, "database": DATABASE})
    victim.send(startup[: random.randrange(1, len(startup))])


def behind_ssl_request(victim: Victim) -> None:
    victim.send(messages.SSL_REQUEST)
    assert victim.sock.recv(1) == b"S"


def in_tls_handshake(victim: Victim) -> None:
    behind_ssl_request(victim)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = unverified().wrap_bio(incoming, outgoing, server_hostname="localhost")
    try:
        hello.do_handshake()
    except ssl.SSLWantReadError:
        victim.send(outgoing.read()[: random.choice((3, 50, 100_000))])


def behind_startup(victim: Victim) -> None:
    victim.log_in(until=AuthenticationCode.SASL)


def in_scram(victim: Victim) -> None:
    victim.log_in(until=AuthenticationCode.SASL_CONTINUE)


def behind_cancel_request(victim: Victim) -> None:
    victim.send(messages.cancel_request(random.randrange(1 << 31), b"4711"))


State = "Callable[[Victim], None]"
LOGGED_IN: Final = {
    state.__name__: state
    for state in (
        ahead_of_rows,
        idle,
        in_copy_in,
        in_copy_out,
        in_extended_copy_in,
        in_failed_transaction,
        in_group,
        in_half_bind_behind_query,
        in_half_copy_data,
        in_half_megabyte,
        in_half_query,
        in_half_query_of_transaction,
        in_lock,
        in_pipeline,
        in_procedure,
        in_query,
        in_query_of_transaction,
        in_query_with_flood,
        in_query_with_more,
        in_suspended_portal,
        in_transaction,
        in_unread_rows,
        waiting,
        waiting_with_more,
        with_session_state,
    )
}
IN_LOGIN: Final = {
    state.__name__: state
    for state in (
        behind_cancel_request,
        behind_ssl_request,
        behind_startup,
        connected,
        in_half_startup,
        in_scram,
        in_tls_handshake,
    )
}
STATES: Final = (*LOGGED_IN, *IN_LOGIN)
RESTLESS: Final = "restless"
"""Not a state: one thing after the other, without end."""


def restless(victim: Victim) -> NoReturn:
    """Everything that it runs has its process id in its text."""
    mark = mark_of(os.getpid())

    def sleep() -> bytes:
        return messages.query(f"select pg_sleep({random.random() * 0.03:f}) {mark}")

    def extended() -> bytes:
        statement = random.choice(("", "a", "b"))
        sql = f"select repeat('x', 1000) from generate_series(1, {random.randrange(3000)}) {mark}"
        close = requests.close(statement) if statement else b""
        return close + requests.parse(statement, sql) + requests.bind(statement) + requests.execute()

    def run(request: bytes) -> None:
        victim.send(request)
        victim.until(Backend.READY_FOR_QUERY)

    while True:
        match random.randrange(5):
            case 0:
                run(sleep())
            case 1:
                run(extended() + requests.SYNC)
            case 2:
                run(messages.query("begin"))
                run(messages.query(f"insert into {TABLE} values ('never') {mark}"))
                run(sleep())
                run(messages.query("rollback"))
            case 3:
                victim.send(messages.query(f"copy {TABLE} from stdin {mark}"))
                victim.until(Backend.COPY_IN_RESPONSE)
                victim.send(requests.copy_data(b"never\n") * random.randrange(3000))
                victim.send(requests.copy_fail("enough"))
                victim.until(Backend.READY_FOR_QUERY, errors=True)
            case _:
                pipeline = random.randrange(1, 6)
                victim.send((extended() + requests.SYNC + sleep()) * pipeline)
                for _ in range(2 * pipeline):
                    victim.until(Backend.READY_FOR_QUERY)


def mark_of(pid: int) -> str:
    """What is in the text of everything that a restless victim runs."""
    return f"/* {MARKER}, {pid} */"


def be(state: str, address: tuple[str, int]) -> NoReturn:
    """One victim, in its own process, to its end: SIGKILL, or the end of everybody who could send it."""
    signal.alarm(LONGEST)
    # Waited for below. A handler could be called just before a `pause`, which then never ends.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    try:
        victim = Victim(address)
        if state in LOGGED_IN or state == RESTLESS:
            if random.random() < 0.3:
                victim.encrypt()
            victim.log_in()
        if state == RESTLESS:
            os.write(1, f"{os.getpid()} {state}\n".encode())
            restless(victim)
        if state in LOGGED_IN:
            LOGGED_IN[state](victim)
        else:
            IN_LOGIN[state](victim)
    except Exception as error:
        os.write(1, f"{os.getpid()} {state}: {error!r}\n".encode())
        signal.sigwait(ENDS)
        os._exit(0)
    os.write(1, f"{os.getpid()} {state}\n".encode())
    victim.leave(reset=signal.sigwait(ENDS) == signal.SIGUSR2)


def main() -> None:
    address = sys.argv[1], int(sys.argv[2])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the victims
    victims = []
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            random.seed()
            be(line.strip(), address)
        victims.append(pid)
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):  # as it should be
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
