"""A password or a password's stored form, which no log line, traceback or dump shows by accident."""

from __future__ import annotations

from typing import NoReturn


class Secret:
    """Text that shows itself only through ``reveal()``.

    Not an attrs class: ``attrs.asdict(config)`` would walk into it and print what it keeps.
    """

    __slots__ = ("_text",)
    _text: str

    def __init__(self, text: str) -> None:
        object.__setattr__(self, "_text", text)

    def reveal(self) -> str:
        return self._text

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Secret cannot be changed")

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        return Secret, (self._text,)

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __repr__(self) -> str:
        return "***"
