"""`Worker`: all that a function running on one rank may know about the gang."""

from __future__ import annotations

from typing import Any, Protocol


class Worker(Protocol):
    """One rank of a gang. The same on local processes and on Spark barrier tasks.

    Attributes
    ----------
    rank, size
        This rank and the number of ranks.
    local_rank, local_size
        The same, counted on this rank's host only.
    host
        Name of this rank's host.
    """

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def local_rank(self) -> int: ...
    @property
    def local_size(self) -> int: ...
    @property
    def host(self) -> str: ...

    def barrier(self) -> None:
        """Wait until every rank is here."""

    def all_gather(self, payload: bytes) -> list[bytes]:
        """Return what every rank gave, in rank order. Meant for agreements (addresses, counts, hashes), not for tensors."""

    def log(self, text: str) -> None:
        """Write a line to this rank's log."""

    def note(self, phase: str, step: int) -> None:
        """Say what this rank does from now on: "start", "data", "step", "callback", "checkpoint" ... of which step.

        Costs next to nothing, so it may come several times in every step. By it a gang that hangs is told from one that works,
        and who is to blame: ranks in "step" may wait in a collective, ranks in any other phase never wait for others.
        """

    def report(self, progress: dict[str, Any]) -> None:
        """Send JSON-serialisable progress to whoever started the gang; ``rank`` is added."""
