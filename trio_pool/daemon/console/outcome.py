"""What has come of a command that does something."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from trio_pool.daemon.console.failure import ConsoleError

Notices = list[str]
"""Lines that the operator is told along with the success."""


@attrs.frozen
class Outcome:
    """It is done, and answered with this tag, unless there is a failure."""

    tag: str
    notices: Notices
    failure: ConsoleError | None = None

    def unless_failed(self) -> tuple[str, Notices]:
        """Tag and notices. Raises the failure."""
        if self.failure is not None:
            raise self.failure
        return self.tag, self.notices
