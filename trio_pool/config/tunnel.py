"""Tunnels: an origin that cannot be connected to connects out to its edges, which use those connections.

The edge has ``[tunnel.listen]``, the origin a ``[tunnel.dial.<name>]`` for the edges that it connects to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from trio_pool.config import kinds
from trio_pool.config.kinds import about

if TYPE_CHECKING:
    from pathlib import Path

    from trio_pool.config.address import TcpAddress

MOST_READY = 1000
"""At one edge, from one process of an origin."""


@attrs.frozen
class TunnelListen:
    """An edge's side."""

    address: TcpAddress = attrs.field(
        metadata=about(kinds.TCP_ADDRESS, 'Where origins connect, such as `"0.0.0.0:7432"`.')
    )
    certificate: Path = attrs.field(
        metadata=about(kinds.FILE, "PEM file with the edge's certificate and its chain.")
    )
    client_ca: Path = attrs.field(
        metadata=about(kinds.FILE, "PEM file with the authorities that origins' certificates are signed by.")
    )
    origins: tuple[str, ...] = attrs.field(
        metadata=about(
            kinds.array(kinds.TEXT, "array of strings"),
            "Names of the origins that may connect: a common name or DNS name of their certificates, and "
            "the host in `trio-pool://user@NAME/db?via=tunnel`.",
        )
    )
    key: Path | None = attrs.field(
        default=None,
        metadata=about(
            kinds.FILE, "PEM file with the certificate's key. Default: in the file of `certificate`."
        ),
    )
    ping: float = attrs.field(
        default=10.0,
        metadata=about(
            kinds.LASTING_TIME,
            "How often a tunnel that nobody uses is asked whether it is still there. Whoever is silent for "
            "three times as long is taken for gone, on either side.",
        ),
    )
    max_ready: int = attrs.field(
        default=1000,
        metadata=about(
            kinds.integer(1, 100_000),
            "Tunnels that the origins of one name may have ready here; more are refused. Those in use do not "
            "count.",
        ),
    )


@attrs.frozen
class TunnelDial:
    """An origin's side: edges that are dialled with the same certificate."""

    name: str
    edges: tuple[TcpAddress, ...] = attrs.field(
        metadata=about(
            kinds.array(kinds.TCP_ADDRESS, "array of addresses"),
            'Where the edges listen for tunnels, such as `["edge-1.example:7432", "edge-2.example:7432"]`.',
        )
    )
    certificate: Path = attrs.field(
        metadata=about(
            kinds.FILE,
            "PEM file with the origin's certificate and its chain; one of its names is this origin's for the "
            "edges.",
        )
    )
    ca: Path = attrs.field(
        metadata=about(
            kinds.FILE,
            "PEM file with the authorities that edges' certificates are signed by. The certificate must name "
            "the host that was dialled.",
        )
    )
    key: Path | None = attrs.field(
        default=None,
        metadata=about(
            kinds.FILE, "PEM file with the certificate's key. Default: in the file of `certificate`."
        ),
    )
    ready: int = attrs.field(
        default=4,
        metadata=about(
            kinds.integer(1, MOST_READY),
            "Tunnels kept ready for each edge beyond those in use; while many are in use, up to a quarter of "
            "their number.",
        ),
    )
    max_age: float = attrs.field(
        default=3600.0,
        metadata=about(
            kinds.LASTING_TIME,
            "A tunnel that has been ready for so long is replaced, a tenth earlier or not.",
        ),
    )


@attrs.frozen
class Tunnel:
    """Both sides; a process may well be an edge of some origins and the origin of other edges."""

    listen: TunnelListen | None = None
    dial: dict[str, TunnelDial] = attrs.field(factory=dict, hash=False)
