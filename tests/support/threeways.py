"""Feeding a machine whole, byte by byte, and otherwise cut: what comes out must not depend on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WAYS: Final = ("whole", "byte by byte", "halves", "header apart")


def cut(data: bytes, way: str) -> Iterator[bytes]:
    """The pieces in which the bytes arrive."""
    match way:
        case "whole":
            size = len(data) or 1
        case "byte by byte":
            size = 1
        case "halves":
            size = len(data) // 2 or 1
        case _:
            size = 5
    return (data[at : at + size] for at in range(0, len(data), size))


def fed(receive: Callable[[bytes], bytes], data: bytes, way: str) -> bytes:
    """All that comes out."""
    return b"".join(receive(piece) for piece in cut(data, way))
