"""From accept to ReadyForQuery: encryption, StartupMessage, authentication, the greeting.

Everything here waits, one message at a time, under one deadline (`client_login`), and nothing of it touches a
server until the client has proved who it is. What a client does wrong raises `ClientFault`; the caller sends
it and closes.
"""

from __future__ import annotations

import secrets
import ssl
from typing import TYPE_CHECKING

import attrs
import trio

from trio_pool.config.access import AuthMethod, TlsMode
from trio_pool.config.model import CONSOLE_DATABASES, Unpoolable
from trio_pool.config.origin import LINK_TCP
from trio_pool.errors import ClientFault, Reason, ServerFault, SqlState
from trio_pool.net import tls
from trio_pool.net.client import Client
from trio_pool.net.conversation import EndOfStream
from trio_pool.net.errand import SettingsTrial
from trio_pool.net.relayed import relay
from trio_pool.net.sockets import keep_alive
from trio_pool.net.transport import TLSTransport
from trio_pool.protocol import lacking, link
from trio_pool.protocol.auth import Authentication, Credentials
from trio_pool.protocol.client import ClientSession
from trio_pool.protocol.link import NOBODY
from trio_pool.protocol.settings import Settings, intern, needs_no_trial, read_options, spelled
from trio_pool.wire import messages
from trio_pool.wire.frames import FramingError
from trio_pool.wire.startup import CancelRequest, Negotiation, StartupMessage, read_startup
from trio_pool.wire.tags import Frontend

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trio_pool.config.model import Config
    from trio_pool.net.clients import Clients
    from trio_pool.net.conversation import Conversation
    from trio_pool.net.feeds import Feeds
    from trio_pool.net.lookup import Lookup
    from trio_pool.net.origin import OriginPool
    from trio_pool.net.poller import Poller
    from trio_pool.protocol.credentials import OriginSecret

NEWEST_MINOR = 2
MAX_TRIED = 1000
"""Combinations of start-up settings that a pool remembers."""
_NOT_SETTINGS = frozenset({"user", "database", "options", "replication"})
_OF_TRANSACTIONS = frozenset({"transaction_deferrable", "transaction_isolation", "transaction_read_only"})
"""Settings that every transaction begins with anew: at a start they are without effect. They cannot be reset
(GUC_NO_RESET, PostgreSQL 16), so no server may get one as a client's setting.
"""
_FALSE = frozenset({"false", "off", "no", "0", "f", "n"})


@attrs.frozen
class _Known:
    """What is known of a user's password.

    `remembered_by` is the look-up that has found it for an earlier login; None if it was found for this one.
    """

    credentials: Credentials | None
    mostly_scram: bool
    """Whether most users of whom it would be known the same way have SCRAM secrets."""
    remembered_by: Lookup | None = None


@attrs.frozen
class ForConsole:
    """Somebody who has come for the console, and has proved who it is: AuthenticationOk was sent."""

    user: str
    startup: StartupMessage
    key: tuple[int, bytes]
    """What its BackendKeyData is to say."""


@attrs.define(eq=False)
class Reception:
    """What it takes to let a client in.

    `pool_for` gives the pool of a database and user, with what the user's login has shown to log in at the
    origin with, or None if there is no such database. `lookup_for` gives the look-up of a database, or None
    where users are not looked up. `feeds_of` gives what tells edges of writes to the database of a pool.
    """

    config: Config
    poller: Poller
    clients: Clients
    pool_for: Callable[[str, str, OriginSecret | None], OriginPool | None]
    lookup_for: Callable[[str], Lookup | None]
    feeds_of: Callable[[OriginPool], Feeds]
    credentials: Mapping[str, Credentials]
    tls_context: ssl.SSLContext | None
    channel_binding: bytes | None
    mock_key: bytes
    mock_scram: bool
    """Whether most users of the configuration have SCRAM secrets."""

    async def welcome(
        self, conversation: Conversation, host: str | None, peer: str
    ) -> Client | CancelRequest | ForConsole:
        """Everything up to ReadyForQuery; for the console, up to AuthenticationOk.

        `host` is the client's numeric address, None on a Unix socket. The client's part is bounded by
        `client_login`; what it then waits for the pool, by the database's `lease_wait`.
        """
        try:
            with trio.fail_after(self.config.timeouts.client_login):
                request = await self._negotiate(conversation, unix=host is None)
                if isinstance(request, CancelRequest):
                    return request
                user, database = self._who(request)
                # Who comes to see why there are so many must get in.
                if self.clients.connections > self.clients.limit and database not in CONSOLE_DATABASES:
                    raise ClientFault(
                        "sorry, too many clients already",
                        SqlState.TOO_MANY_CONNECTIONS,
                        reason=Reason.TOO_MANY_CLIENTS,
                    )
                secret = await self._authenticate(conversation, user, database, host)
                if database in CONSOLE_DATABASES:
                    return await self._admit_to_console(conversation, user, request)
        except FramingError as error:
            raise ClientFault(str(error)) from error
        except trio.TooSlowError:
            raise ClientFault(
                "client_login timeout: the client did not complete its login in time",
                SqlState.INVALID_AUTHORIZATION,
                reason=Reason.CLIENT_LOGIN_TIMEOUT,
            ) from None
        await self._admit(conversation, user, database)
        origin = self.pool_for(database, user, secret)
        if origin is None:
            raise ClientFault(
                f'database "{database}" does not exist',
                SqlState.UNKNOWN_DATABASE,
                reason=Reason.CLIENT_REFUSED,
            )
        if link.is_listener(request.parameters):
            await self._relay(conversation, request, origin)
            raise EndOfStream
        if link.is_feed(request.parameters):
            await self._feed(conversation, request, origin, peer)
            raise EndOfStream
        origin.arriving += 1
        try:
            return await self._greet(conversation, request, origin, peer)
        finally:
            origin.arriving -= 1

    # -- encryption ------------------------------------------------------------------------------------------

    async def _negotiate(self, conversation: Conversation, *, unix: bool) -> StartupMessage | CancelRequest:
        context = None if unix else self.tls_context
        await conversation.receive()
        if context is not None and conversation.assembler.buffer[0] == tls.HANDSHAKE_RECORD:
            await self._encrypt(conversation, context)
            self._check_alpn(conversation)
        while True:
            request = read_startup(await conversation.startup())
            if not isinstance(request, Negotiation):
                return request
            if (
                request is Negotiation.SSL
                and context is not None
                and not isinstance(conversation.transport, TLSTransport)
            ):
                if conversation.unread:
                    raise ClientFault("received unencrypted data after SSL request")
                await conversation.send(b"S")
                await self._encrypt(conversation, context)
            else:
                await conversation.send(b"N")

    async def _encrypt(self, conversation: Conversation, context: ssl.SSLContext) -> None:
        try:
            await conversation.upgrade(context, server_side=True)
        except ssl.SSLError as error:
            raise ClientFault(
                "could not accept SSL connection",
                reason=Reason.CLIENT_TLS_FAILED,
                detail=error.reason or str(error),
            ) from error

    @staticmethod
    def _check_alpn(conversation: Conversation) -> None:
        """A TLS connection without SSLRequest must name the protocol, so that no other protocol's client can
        be made to speak ours.
        """
        assert isinstance(conversation.transport, TLSTransport)
        if conversation.transport.tls.selected_alpn_protocol() != tls.ALPN:
            raise ClientFault(
                "received direct SSL connection request without ALPN protocol negotiation extension",
                reason=Reason.CLIENT_TLS_FAILED,
            )

    # -- identity --------------------------------------------------------------------------------------------

    @staticmethod
    def _who(request: StartupMessage) -> tuple[str, str]:
        user = request.parameters.get("user", "")
        if not user:
            raise _refused("no PostgreSQL user name specified in startup packet")
        if request.parameters.get("replication", "false").lower() not in _FALSE:
            raise ClientFault(
                "replication connections cannot be pooled: connect to the origin directly",
                SqlState.FEATURE_NOT_SUPPORTED,
                reason=Reason.CLIENT_REFUSED,
            )
        return user, request.parameters.get("database") or user

    async def _authenticate(
        self, conversation: Conversation, user: str, database: str, host: str | None
    ) -> OriginSecret | None:
        """Returns what the client has shown to log in at an origin as itself."""
        transport = conversation.transport
        encrypted = isinstance(transport, TLSTransport)
        if self.config.listen.tls.mode is TlsMode.REQUIRE and not encrypted and host is not None:
            raise _refused("this server accepts only encrypted connections")
        method = self.config.auth.method_for(database, user, host, encrypted)
        if method is AuthMethod.REJECT:
            encryption = "SSL encryption" if encrypted else "no encryption"
            whence = "[local]" if host is None else host
            raise _refused(
                f'auth.rules rejects connection for host "{whence}", user "{user}", database "{database}", '
                f"{encryption}"
            )
        cleartext = method is AuthMethod.PASSWORD and not encrypted and host is not None
        if cleartext and not self.config.auth.allow_cleartext_without_tls:
            raise _refused("password authentication needs an encrypted connection")
        known = await self._known(user, database, method)
        authentication = Authentication(
            method.value,
            user,
            known.credentials,
            salt=secrets.token_bytes(16),
            nonce=secrets.token_urlsafe(18),
            channel_binding=self.channel_binding if encrypted else None,
            tls=encrypted,
            certificate_names=_certificate_names(transport) if isinstance(transport, TLSTransport) else None,
            mock_key=self.mock_key,
            mock_scram=known.mostly_scram,
        )
        challenge = authentication.begin()
        while challenge:
            await conversation.send(challenge)
            if authentication.done:
                break
            tag, body = await conversation.message()
            if tag != Frontend.PASSWORD:
                raise ClientFault(f"expected password response, got message type {tag}")
            try:
                challenge = authentication.receive(body)
            except ClientFault as fault:
                lookup = known.remembered_by
                if lookup is None or fault.reason is not Reason.CLIENT_AUTHENTICATION_FAILED:
                    raise
                lookup.forget(user)  # the password may have been changed since
                if not authentication.renewable:
                    raise
                known = _Known(await self._look_up(lookup, user), known.mostly_scram)
                authentication = authentication.renewed(known.credentials)
                challenge = authentication.receive(body)
        assert authentication.done
        return authentication.origin_secret

    async def _known(self, user: str, database: str, method: AuthMethod) -> _Known:
        """What the configuration knows of the user's password, or the origin."""
        if user in self.credentials or method in (AuthMethod.TRUST, AuthMethod.CERT):
            return _Known(self.credentials.get(user), self.mock_scram)
        lookup = self.lookup_for(database)
        if lookup is None:
            return _Known(None, self.mock_scram)
        remembered = lookup.known(user)
        if remembered is not None:
            return _Known(remembered.usable(trio.current_time()), lookup.mostly_scram, lookup)
        return _Known(await self._look_up(lookup, user), lookup.mostly_scram)

    @staticmethod
    async def _look_up(lookup: Lookup, user: str) -> Credentials | None:
        try:
            found = await lookup.find(user)
        except ServerFault as fault:
            raise ClientFault(
                "cannot look up users at the origin",
                SqlState.CANNOT_CONNECT,
                reason=Reason.CLIENT_REFUSED,
                detail=fault.message,
            ) from fault
        return found.usable(trio.current_time())

    async def _admit(self, conversation: Conversation, user: str, database: str) -> None:
        """Count the client where numbers are limited; whoever closes the connection takes it out again."""
        known, of = self.config.users.get(user), self.config.database(database)
        most_of_database = 0 if of is None else of.max_clients
        most_of_user = 0 if known is None else known.max_clients
        if self.clients.membership is not None:
            await self.clients.membership.admit(
                database,
                user,
                most=self.config.listen.max_clients,
                most_of_database=most_of_database,
                most_of_user=most_of_user,
            )
            most_of_database = most_of_user = 0
        self.clients.admit(
            conversation, database, user, most_of_database=most_of_database, most_of_user=most_of_user
        )

    async def _admit_to_console(
        self, conversation: Conversation, user: str, request: StartupMessage
    ) -> ForConsole:
        if user not in self.config.admin.users:
            raise _refused("not allowed")
        negotiation, minor = _negotiated(request)
        await conversation.send(negotiation + messages.AUTHENTICATION_OK)
        return ForConsole(user, request, self.clients.new_key(long=minor >= 2))

    async def _relay(self, conversation: Conversation, request: StartupMessage, origin: OriginPool) -> None:
        """An edge listens: it gets a connection to the origin of its own, until one of them ends."""
        keep_alive(conversation.transport.fileno(), LINK_TCP)
        settings = {
            name: value
            for name, value in request.parameters.items()
            if name in ("application_name", "client_encoding")
        }
        greeting = _negotiated(request)[0] + messages.AUTHENTICATION_OK
        limit = origin.database.timeouts.server_connect
        await relay(conversation, origin.access, settings, greeting, limit)

    async def _feed(
        self, conversation: Conversation, request: StartupMessage, origin: OriginPool, peer: str
    ) -> None:
        """An edge wants to know what is written, until it goes."""
        keep_alive(conversation.transport.fileno(), LINK_TCP)
        feeds = self.feeds_of(origin)
        strict = link.is_strict(request.parameters)
        if strict and feeds.freshness.counters.rows > 1:
            raise ClientFault(
                "a strict feed needs an origin with one worker",
                SqlState.FEATURE_NOT_SUPPORTED,
                reason=Reason.CLIENT_REFUSED,
            )
        key = messages.backend_key_data(NOBODY, bytes(4))
        greeting = _negotiated(request)[0] + messages.AUTHENTICATION_OK + key + messages.READY[ord("I")]
        await feeds.serve(conversation, greeting, strict=strict, peer=peer)

    # -- the greeting ----------------------------------------------------------------------------------------

    async def _greet(
        self, conversation: Conversation, request: StartupMessage, origin: OriginPool, peer: str
    ) -> Client:
        settings, reported = await self._settings(request, origin)
        negotiation, minor = _negotiated(request)
        key = self.clients.new_key(long=minor >= 2)
        greeting = negotiation + messages.AUTHENTICATION_OK
        greeting += b"".join(messages.parameter_status(name, value) for name, value in reported.items())
        greeting += messages.backend_key_data(*key) + messages.READY[ord("I")]
        limits = self.config.session
        session = ClientSession(
            origin.statements,
            settings,
            reported,
            max_statements=limits.max_prepared_statements,
            shares=origin.releases,
            rejects=origin.releases and limits.unpoolable is Unpoolable.REJECT,
            defers_begin=limits.deferred_begin,
            watch=origin.watch,
        )
        await conversation.send(greeting)
        user = request.parameters["user"]
        known = self.config.users.get(user)
        client = Client(
            self.poller,
            conversation.transport,
            origin,
            session,
            self.config.timeouts_for(origin.database, user),
            key=key,
            user=user,
            peer=peer,
            cached=origin.cached if known is None or known.cache else None,
        )
        if link.is_link(request.parameters):
            client.link = session.is_link = True
            keep_alive(conversation.transport.fileno(), LINK_TCP)
        early = conversation.assembler.rest()
        if early:
            session.receive(early)
        return client

    async def _settings(self, request: StartupMessage, origin: OriginPool) -> tuple[Settings, Settings]:
        """What the client wants set, and everything that is reported to it."""
        wanted = {
            name: value
            for name, value in request.parameters.items()
            if name not in _NOT_SETTINGS and not name.startswith("_pq_.")
        }
        try:
            wanted = read_options(request.parameters.get("options", "")) | wanted
        except ValueError as error:
            raise ClientFault(
                str(error), SqlState.FEATURE_NOT_SUPPORTED, reason=Reason.CLIENT_REFUSED
            ) from error
        wanted = {name: value for name, value in wanted.items() if name.lower() not in _OF_TRANSACTIONS}
        if any(name.lower() == "seed" for name in wanted):  # cannot be reset either
            raise ClientFault(
                'parameter "seed" cannot be set at the start: it would stay with the server connection',
                SqlState.FEATURE_NOT_SUPPORTED,
                reason=Reason.CLIENT_REFUSED,
            )
        wanted = {name: spelled(name, value) for name, value in wanted.items()}
        asis: dict[str, str] = {}
        timeouts = self.config.timeouts_for(origin.database, request.parameters["user"])
        try:
            while True:
                with trio.move_on_after(timeouts.lease_wait):
                    defaults = await origin.known_defaults()
                    encoding = defaults.get("server_encoding")
                    asis = {n: v for n, v in wanted.items() if needs_no_trial(n, v, encoding)}
                    if lacking.lacks(defaults):
                        wanted = {lacking.STAND_IN if n == lacking.NAME else n: v for n, v in wanted.items()}
                    to_try = intern({n: v for n, v in wanted.items() if n not in asis})
                    tried, reported = await self._tried(to_try, origin) if to_try else (to_try, defaults)
                    break
                if origin.resumed_at + timeouts.lease_wait <= trio.current_time():  # a pause is no part of it
                    refusal = origin.refusal(request.parameters["user"])
                    raise ClientFault(refusal.message, refusal.sqlstate, reason=Reason.CLIENT_REFUSED)
        except ServerFault as fault:
            raise ClientFault(fault.message, fault.sqlstate, reason=Reason.CLIENT_REFUSED) from fault
        return tried.but(asis), reported.but({n: v for n, v in asis.items() if n in defaults})

    @staticmethod
    async def _tried(wanted: Settings, origin: OriginPool) -> tuple[Settings, Settings]:
        """Settings as the origin takes them, and what it then reports. A combination that has been tried
        before is known.
        """
        known = origin.tried.get(wanted)
        if known is None:
            known = await SettingsTrial(origin, wanted).run()
            if len(origin.tried) >= MAX_TRIED:
                origin.tried.clear()
            origin.tried[wanted] = known
        return known


def _negotiated(request: StartupMessage) -> tuple[bytes, int]:
    """What says that not everything was understood that the client has asked for, and the minor version that
    is spoken.
    """
    options = [name for name in request.parameters if name.startswith("_pq_.")]
    if link.is_link(request.parameters):
        options.remove(link.OPTION)
    minor = min(request.minor, NEWEST_MINOR)
    if request.minor > NEWEST_MINOR or options:
        return messages.negotiate_protocol_version(minor, options), minor
    return b"", minor


def _certificate_names(transport: TLSTransport) -> frozenset[str] | None:
    certificate = transport.tls.getpeercert()
    return tls.names(certificate) if certificate else None


def _refused(message: str) -> ClientFault:
    return ClientFault(message, SqlState.INVALID_AUTHORIZATION, reason=Reason.CLIENT_REFUSED)
