"""All clients of the process: how many there may be, their keys, and whom a cancel request means."""

from __future__ import annotations

import hmac
import secrets
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from trio_pool.net.client import Client
    from trio_pool.wire.startup import CancelRequest

SECRET_SIZES = {False: 4, True: 32}
"""Bytes of a cancel key by whether the client speaks protocol 3.2. PostgreSQL 18 itself uses 32 there."""


@attrs.define(eq=False)
class Clients:
    """Connected clients.

    `connections` counts sockets from accept to close, `by_id` holds those that have logged in.
    """

    limit: int
    connections: int = 0
    by_id: dict[int, Client] = attrs.field(factory=dict)

    def new_key(self, *, long: bool) -> tuple[int, bytes]:
        """A process id that no other client has, and a secret."""
        while True:
            process_id = secrets.randbelow((1 << 31) - 1) + 1
            if process_id not in self.by_id:
                return process_id, secrets.token_bytes(SECRET_SIZES[long])

    def find(self, request: CancelRequest) -> Client | None:
        """The client that a cancel request names, if its secret is right."""
        client = self.by_id.get(request.process_id)
        if client is not None and hmac.compare_digest(client.secret, request.secret):
            return client
        return None

    def __len__(self) -> int:
        return len(self.by_id)
