"""The one listening connection of a pool: LISTENs at the origin to every channel that any client of the pool
listens to, and hands each notification to the clients that want it.

Theory of operation. A client's LISTEN runs on the server S that it leases, which then goes back into the
pool, so the client has to be handed over to the connection here, called L, without losing a notification,
repeating one, or changing their order. PostgreSQL keeps the notifications of a database in one queue in the
order of commit, and every listening session reads it in that order, so a notification of ours divides what S
reports from what L reports at the same place:

1. `cover`: L listens to the channels.
2. `admit` with a fresh token, then S sends `NOTIFY marker, 'token'`. S must be listening to the marker by
   then (the same transaction will do), because what another session commits behind the marker may reach S in
   the same read: only the marker's own place among S's notifications tells where to stop.
3. The client gets what S reports in front of the marker; from here it gets what L reports behind it. The two
   are different sockets: whoever integrates this must keep back what L reports after `admit` until S has
   reported the marker too.

Notifications that are sent while L is down are lost, as they are for any client of PostgreSQL that has to
reconnect. L reconnects by itself and listens to everything again; subscriptions stay, and what still waited
for its marker holds from then on.

Bytes. Names of channels, and the messages handed on, are in `encoding`: UTF-8, except that a database in
SQL_ASCII knows no encodings and passes bytes as they are. A client with another client_encoding has to have
its names translated before they come here, and whatever is not ASCII in the messages when they leave; a
client whose encoding cannot be translated needs a server of its own. A name may have 63 bytes, which is
PostgreSQL's own limit if the database is in the same encoding. A database in MULE_INTERNAL cannot be listened
to, since PostgreSQL has no conversion between that and UTF-8.

The connection is one beside those of `pool_size`. It is silent most of the time, and TCP's own keepalive (two
hours on Linux unless set otherwise) would notice a dead peer too late, and not at all behind a proxy; so
after `SILENCE` seconds without a byte it sends an empty query, whose answer has to come within
`connect_timeout`. That also keeps the entry of a NAT or firewall alive.
"""

from __future__ import annotations

import math
import secrets
from typing import TYPE_CHECKING

import attrs
import structlog
import trio

from trio_pool.errors import Reason, ServerFault, internal_fault
from trio_pool.net.backoff import LONGEST_BACKOFF, Backoff
from trio_pool.net.dial import OriginAccess, dial
from trio_pool.net.listening_connection import ListeningConnection, Statement
from trio_pool.net.mailbox import Mailbox
from trio_pool.net.subscriptions import Reservation, Subscriber, Subscriptions
from trio_pool.protocol import link
from trio_pool.wire import messages
from trio_pool.wire.frames import HEADER_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_pool.net.poller import Poller

log = structlog.get_logger()

APPLICATION_NAME = "trio-pool listener"
SILENCE = 30.0
"""Seconds without a byte after which the server is asked whether it is there.

Shorter than any firewall forgets (minutes), long enough to cost nothing.
"""
LINGER = 1.0
"""Seconds until a channel that nobody wants any more is UNLISTENed: most come back with the next client."""
BATCH = 500
"""Channels per transaction of LISTENs; bounds the text, and what is asked again one by one if one is refused.
"""
LONGEST_CHANNEL = 63  # NAMEDATALEN - 1
TOO_LONG = "42622"
INVALID_NAME = "42602"

NO_IDLE_TIMEOUT = (
    b"SELECT pg_catalog.set_config('idle_session_timeout', '0', false)"
    b" WHERE pg_catalog.current_setting('idle_session_timeout', true) IS NOT NULL;"
)
"""For roles that have one set (PostgreSQL 14 and later know it)."""


@attrs.frozen
class ListeningStatistics:
    """`channels` are those that the origin has confirmed; `received` and `delivered` count notifications, of
    which one can be delivered to many or to nobody; `since` is Trio's time at which the present connection
    was ready, None without one.
    """

    channels: int
    subscribers: int
    connected: bool
    reconnects: int
    received: int
    delivered: int
    since: float | None


class Listening:
    """The shared listening connection of one pool.

    Everything but `run` and `cover` is synchronous and takes effect at once. `label` names the pool in the
    log; `connect_timeout` bounds in seconds the login and every later answer; after `idle` seconds without
    anything to listen to the connection is closed until it is wanted again.
    """

    def __init__(
        self, access: OriginAccess, poller: Poller, *, label: str, connect_timeout: float, idle: float
    ) -> None:
        self.marker = b"trio_pool_" + secrets.token_hex(16).encode()
        """A channel of ours, always listened to. Clients cannot guess it, but whoever may look at the
        origin's sessions can read it there, so tokens have to be unguessable too.
        """
        self.encoding = "UTF8"
        """What names and messages are in (PostgreSQL's name): UTF8 or SQL_ASCII; known once connected."""
        self.failure: ServerFault | None = None
        """Why the last attempt to connect failed, None after a success."""
        self._access = _listeners(access)
        self._line: ListeningConnection | None = None
        self._opening = False
        self._paused = False
        self._poller = poller
        self._label = label
        self._connect_timeout = connect_timeout
        self._idle = idle
        self._subscriptions = Subscriptions(self._channel_wanted, self._channel_unwanted)
        self._mailbox = Mailbox()
        self._waiting: dict[Reservation, None] = {}
        # A wanted channel is in one of these, or being asked for.
        self._missing: set[bytes] = set()
        self._listened: set[bytes] = set()
        self._refused: dict[bytes, ServerFault] = {}
        self._surplus: set[bytes] = set()
        """Listened to, and wanted by nobody."""
        self._unlisten_at = math.inf
        self._close_at = math.inf
        self._since: float | None = None
        self._opened = 0.0
        self._ready_for = 0.0
        self._was_lost = False
        self._reconnects = 0
        self._received = 0
        self._delivered = 0

    # -- for clients -----------------------------------------------------------------------------------------

    async def cover(self, subscriber: Subscriber, channels: Iterable[bytes]) -> None:
        """Return when the origin has confirmed that every one of these channels is listened to; connects if
        needed. The caller bounds the time.

        They stay so until the subscriber's next `admit` or `settle`, or until it is forgotten. Raises
        `ServerFault` if a name is none, or the origin refuses a channel or lastingly refuses us; then, and
        when cancelled, nothing is kept.
        """
        wanted = frozenset(channels)
        for channel in wanted:
            _check(channel)
        reservation = self._subscriptions.reserve(subscriber, wanted)
        try:
            if wanted <= self._listened:
                reservation.answer()
                await trio.lowlevel.checkpoint()
                return
            for channel in wanted:
                if self._refused.pop(channel, None) is not None:
                    self._missing.add(channel)
            self._waiting[reservation] = None
            self._mailbox.wake()
            await reservation.answered.wait()
            if reservation.fault is not None:
                raise reservation.fault
        except BaseException:
            self._subscriptions.release(subscriber, reservation)
            raise
        finally:
            self._waiting.pop(reservation, None)

    def admit(self, subscriber: Subscriber, channels: frozenset[bytes], token: bytes) -> None:
        """When the marker's notification with this payload comes, `subscriber` gets exactly these channels,
        from the next notification on; until then what it had before.

        To be called before the notification is sent. Raises ValueError if the token is waited for already.
        """
        self._subscriptions.admit(subscriber, channels, token)

    def settle(self, subscriber: Subscriber, channels: Iterable[bytes]) -> None:
        """The subscriber gets exactly these channels from now on; whatever waited for a marker does not
        matter any more. Without channels it is nobody any more.
        """
        self._subscriptions.settle(subscriber, frozenset(channels))

    def withdraw(self, subscriber: Subscriber, channels: Iterable[bytes]) -> None:
        """The subscriber gets none of these from now on, nor when a marker comes that is waited for; the rest
        is as before.

        What an UNLISTEN needs while a LISTEN is still being handed over.
        """
        self._subscriptions.withdraw(subscriber, frozenset(channels))

    def forget(self, subscriber: Subscriber) -> None:
        """The client is gone; what it reserved is, too."""
        self._subscriptions.forget(subscriber)

    def statistics(self) -> ListeningStatistics:
        return ListeningStatistics(
            channels=len(self._listened - {self.marker}),
            subscribers=len(self._subscriptions),
            connected=self._since is not None,
            reconnects=self._reconnects,
            received=self._received,
            delivered=self._delivered,
            since=self._since,
        )

    # -- what is to be listened to ---------------------------------------------------------------------------

    def _channel_wanted(self, channel: bytes) -> None:
        self._surplus.discard(channel)
        if channel not in self._listened:
            self._missing.add(channel)
        self._mailbox.wake()

    def _channel_unwanted(self, channel: bytes) -> None:
        self._missing.discard(channel)
        self._refused.pop(channel, None)
        if channel in self._listened:
            self._surplus.add(channel)
        self._mailbox.wake()

    # -- what an operator changes ----------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether there is a connection, or one is being opened."""
        return self._opening or self._line is not None

    def pause(self) -> None:
        """Close the connection, and open none until `go_on`."""
        self._paused = True
        self._hang_up("the pool is paused")

    def go_on(self) -> None:
        self._paused = False
        self._mailbox.wake()

    def access_by(self, access: OriginAccess, *, elsewhere: bool) -> None:
        """Log in so from now on; at once, if it leads elsewhere."""
        self._access = _listeners(access)
        if elsewhere:
            self._hang_up("the origin is another")

    def limit_by(self, label: str, connect_timeout: float, idle: float) -> None:
        """Other limits, or another name, from now on."""
        self._label, self._connect_timeout, self._idle = label, connect_timeout, idle
        self._mailbox.wake()

    def _hang_up(self, why: str) -> None:
        if self._line is not None:
            self._line.lose(ServerFault(why, reason=Reason.SERVER_RETIRED))
        self._mailbox.wake()

    # -- what the connection reports -------------------------------------------------------------------------

    def deliver(self, message: bytes) -> None:
        """A NotificationResponse has come. Hot path. Raises `FramingError`."""
        channel, payload = messages.read_notification(message[HEADER_SIZE:])
        if channel == self.marker:
            self._subscriptions.reach(payload)
        else:
            self._received += 1
            self._delivered += self._subscriptions.deliver(channel, message)

    def answered(self, line: ListeningConnection, statement: Statement) -> None:
        """The origin has done, or refused, a statement."""
        channels, fault = statement.channels, statement.fault
        if fault is None:
            self._listened.update(channels)
            self._missing.difference_update(channels)
            self._surplus.update(c for c in channels if c not in self._subscriptions.wanted)
            self._surplus.discard(self.marker)
            if self.marker in channels:
                self._ready(line)
        elif self.marker in channels:
            line.lose(fault)
            self._answer_all(fault)
        elif len(channels) == 1:
            self._refuse(next(iter(channels)), fault)
        else:  # one name spoils the transaction; which one?
            for channel in channels:
                line.ask(b"LISTEN " + messages.quoted(channel), (channel,))
        self._answer_waiting()

    def lost(self) -> None:
        """The connection has ended: nothing is listened to any more, which `cover` must know at once."""
        self._listened.clear()
        self._surplus.clear()
        self._refused.clear()
        if self._since is not None:
            self._ready_for = trio.current_time() - self._since
            self._since = None

    def _ready(self, line: ListeningConnection) -> None:
        """Logged in, set up, and listening to the marker."""
        self.failure = None
        self._since = trio.current_time()
        self._reconnects += self._was_lost
        self._was_lost = False
        log.info(
            "listener connected",
            pool=self._label,
            server_pid=line.dialled.login.process_id,
            seconds=round(self._since - self._opened, 6),
            channels=len(self._subscriptions.wanted),
        )
        self._subscriptions.reach_all()

    def _refuse(self, channel: bytes, fault: ServerFault) -> None:
        if channel in self._subscriptions.wanted:
            self._refused[channel] = fault
            self._missing.discard(channel)
            log.warning(
                "listener cannot listen",
                pool=self._label,
                channel=channel.decode(errors="replace"),
                sqlstate=fault.sqlstate,
                error=fault.message,
            )

    def _answer_waiting(self) -> None:
        """Let those go on who have what they wait for, or cannot get it."""
        for reservation in list(self._waiting):
            refused = self._refused.keys() & reservation.channels
            if refused:
                reservation.answer(self._refused[refused.pop()])
            elif reservation.channels <= self._listened:
                reservation.answer()
            else:
                continue
            del self._waiting[reservation]

    def _answer_all(self, fault: ServerFault) -> None:
        for reservation in self._waiting:
            reservation.answer(fault)
        self._waiting.clear()

    # -- control plane ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the connection while anything is to be listened to; for ever."""
        backoff = Backoff()
        while True:
            while not self._subscriptions.wanted or self._paused:
                await self._mailbox.wait()
            self._opened, self._ready_for = trio.current_time(), 0.0
            ready_for = await self._live()
            if ready_for >= LONGEST_BACKOFF:
                backoff.reset()
            else:
                await backoff.wait()

    async def _live(self) -> float:
        """One connection, from the first SYN to the end; for how many seconds it was of use, `math.inf` if it
        ended because it was not needed.
        """
        try:
            self._opening = True
            line = await self._open_or_fault()
        except ServerFault as fault:
            self._failed(fault)
            return 0.0
        finally:
            self._opening = False
        try:
            self._line = line
            line.attach()
            if self._paused:  # while it was being opened
                self._hang_up("the pool is paused")
                return math.inf
            self._begin(line)
            await self._attend(line)
        except trio.Cancelled:
            line.lose(ServerFault("trio-pool is stopping", reason=Reason.STOPPING))
            raise
        except Exception as error:
            line.on_crash(error)
        finally:
            self._line = None
            ready_for = self._end(line)
        return ready_for

    async def _open_or_fault(self) -> ListeningConnection:
        """`_open`, and the boundary behind which our own bugs in it stay: one must not end every pool."""
        try:
            return await self._open()
        except ServerFault:
            raise
        except Exception as error:
            log.error("internal error in opening a listening connection", pool=self._label, exc_info=error)
            raise internal_fault() from error

    async def _open(self) -> ListeningConnection:
        try:
            with trio.fail_after(self._connect_timeout):
                dialled = await dial(self._access)
        except trio.TooSlowError:
            raise ServerFault(
                f"no connection to {self._access.origin} within server_connect",
                reason=Reason.SERVER_CONNECT_TIMEOUT,
            ) from None
        return ListeningConnection(self, self._poller, self._mailbox, dialled)

    def _begin(self, line: ListeningConnection) -> None:
        """Ask for everything that is wanted, set-up first, without waiting in between."""
        self._missing = set(self._subscriptions.wanted)
        self._unlisten_at = self._close_at = math.inf
        setup = NO_IDLE_TIMEOUT
        self.encoding = "UTF8"
        if line.dialled.login.parameters.get("server_encoding") == "SQL_ASCII":
            self.encoding = "SQL_ASCII"
            setup += b"SET client_encoding = SQL_ASCII;"
        line.ask(setup + b"LISTEN " + messages.quoted(self.marker), (self.marker,))
        self._listen(line)
        if line.dialled.unread:
            line.receive(line.dialled.unread)

    async def _attend(self, line: ListeningConnection) -> None:
        """Until the connection has ended: what is to be asked, and the deadlines."""
        while line.fault is None:
            self._adjust(line, trio.current_time())
            with trio.move_on_at(self._due(line)):
                await self._mailbox.wait()

    def _adjust(self, line: ListeningConnection, now: float) -> None:
        """Ask for what has to change; one round trip at a time, so that whatever is wanted meanwhile goes
        into the next.
        """
        self._unlisten_at = min(self._unlisten_at, now + LINGER) if self._surplus else math.inf
        self._close_at = math.inf if self._subscriptions.wanted else min(self._close_at, now + self._idle)
        if line.asked:
            if now >= self._due(line):
                line.lose(ServerFault("the server does not answer", reason=Reason.SERVER_CONNECT_TIMEOUT))
        elif now >= self._close_at:
            line.lose(ServerFault("nothing is listened to", reason=Reason.SERVER_IDLE_TIMEOUT))
        elif self._missing:
            self._listen(line)
        elif now >= self._unlisten_at:
            self._unlisten(line)
        elif now >= line.heard_at + SILENCE:
            line.ask(b"")
            # Try again what was refused: a standby that is promoted takes LISTEN from then on.
            self._missing.update(self._refused)
            self._refused.clear()

    def _due(self, line: ListeningConnection) -> float:
        """When to look again.

        Bytes that come move it without telling, so it may be too early: then nothing is due yet.
        """
        if line.asked:
            return max(line.asked_at, line.heard_at) + self._connect_timeout
        return min(line.heard_at + SILENCE, self._unlisten_at, self._close_at)

    def _listen(self, line: ListeningConnection) -> None:
        channels = list(self._missing)
        self._missing.clear()
        for start in range(0, len(channels), BATCH):
            batch = channels[start : start + BATCH]
            line.ask(b";".join(b"LISTEN " + messages.quoted(channel) for channel in batch), batch)

    def _unlisten(self, line: ListeningConnection) -> None:
        channels = list(self._surplus)
        self._surplus.clear()
        self._listened.difference_update(channels)
        for start in range(0, len(channels), BATCH):
            line.ask(b";".join(b"UNLISTEN " + messages.quoted(c) for c in channels[start : start + BATCH]))

    def _failed(self, fault: ServerFault) -> None:
        self.failure = fault
        log.warning(
            "listener connect failed",
            pool=self._label,
            reason=fault.reason.value,
            sqlstate=fault.sqlstate,
            error=fault.message,
        )
        if fault.lasting:
            self._answer_all(fault)

    def _end(self, line: ListeningConnection) -> float:
        """Close and say why; for how long it was of use."""
        if line.fault is None:
            line.lose(internal_fault())
        assert line.fault is not None
        fault = line.fault
        line.close()
        if fault.reason in (Reason.STOPPING, Reason.SERVER_IDLE_TIMEOUT, Reason.SERVER_RETIRED):
            self._was_lost = fault.reason is Reason.SERVER_RETIRED
            log.info("listener disconnected", pool=self._label, reason=fault.reason.value)
            return math.inf
        if not self._ready_for:
            self._failed(fault)
        else:
            self._was_lost = True
            log.warning(
                "listener lost",
                pool=self._label,
                reason=fault.reason.value,
                sqlstate=fault.sqlstate,
                error=fault.message,
                subscribers=len(self._subscriptions),
            )
        return self._ready_for


def _listeners(access: OriginAccess) -> OriginAccess:
    parameters = {
        **access.startup_parameters,
        "application_name": APPLICATION_NAME,
        "client_encoding": "UTF8",
    }
    if access.origin.link:
        parameters[link.OPTION] = link.LISTENER
    return attrs.evolve(access, startup_parameters=parameters)


def _check(channel: bytes) -> None:
    """Raises `ServerFault` if it cannot be the name of a channel."""
    if not channel or b"\0" in channel:
        raise ServerFault("invalid channel name", INVALID_NAME, reason=Reason.CLIENT_REFUSED)
    if len(channel) > LONGEST_CHANNEL:
        raise ServerFault("channel name too long", TOO_LONG, reason=Reason.CLIENT_REFUSED)
