"""`RankFailure`: why a rank ended, and the error that a user gets to see for it."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Literal

from sparkml import errors
from sparkml.errors import LaunchError, SparkmlError, TrainingError

# raised by a rank because another one went away: never the cause that the user looks for
_SECONDARY = frozenset({"HorovodInternalError", "HorovodShutdownError", "HorovodTimeoutException", "PeerGoneError"})
TAIL_LINES = 20


@dataclass(frozen=True)
class RankFailure:
    """Why a rank ended: what it raised, which signal or exit code ended it, that contact was lost, that it made no headway
    (stalled), or that its host may not take part at all (unfit: trying again cannot help).
    """

    rank: int
    host: str
    kind: Literal["exception", "signal", "exit", "lost", "stalled", "unfit"]
    cause: str
    error_type: str = ""
    hint: str | None = None
    tail: tuple[str, ...] = ()

    @property
    def secondary(self) -> bool:
        # from within a compiled step, TensorFlow passes on what a collective raises as an error of its own
        in_graph = self.error_type == "UnknownError" and ("Horovod" in self.cause or "PeerGoneError" in self.cause)
        return self.error_type in _SECONDARY or in_graph

    @property
    def reason(self) -> str:
        """Rank, host and cause in one line."""
        return f"rank {self.rank} on {self.host} {self.cause}".splitlines()[0]

    def as_error(self) -> SparkmlError:
        """Return the error for the user: its own class if it was ours, `TrainingError` if `fn` raised, else `LaunchError`.

        The error carries this failure as its ``failure``.
        """
        lines = "".join(f"\n    {line}" for line in self.tail)
        message = f"rank {self.rank} on {self.host} {self.cause}" + (f"\n  its last lines:{lines}" if lines else "")
        own = getattr(errors, self.error_type, None) if self.kind == "exception" else None
        if not (isinstance(own, type) and issubclass(own, SparkmlError)):
            own = TrainingError if self.kind == "exception" else LaunchError
        error = own(message, hint=self.hint)
        error.failure = self
        return error


def ended_by(code: int) -> tuple[Literal["signal", "exit"], str, str | None]:
    """Return kind, cause in words, and hint for a process's return code (negative: a signal, as `subprocess` has it)."""
    if code >= 0:
        return "exit", f"ended with exit code {code} before its work was done", None
    name = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
    hint = "the kernel kills with SIGKILL when memory runs out: lower batch_size or the number of ranks" if code == -9 else None
    return "signal", f"was killed by signal {-code} ({name})", hint
