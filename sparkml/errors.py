"""The errors a user can see, and the exit code of each class.

Every error says what happened, the value, what is allowed, and the next command to type (the *hint*).
"""

from __future__ import annotations

from typing import ClassVar


class SparkmlError(Exception):
    """Base of all errors that are the user's to solve; anything else is a bug in sparkml and exits with 1.

    Parameters
    ----------
    message
        What happened, with the offending value and what would have been allowed.
    hint
        The next thing to do: a command to type or a setting to change.

    Attributes
    ----------
    failure
        The `sparkml.launch.failure.RankFailure` that brought the error about, if one did.
    """

    exit_code: ClassVar[int] = 1
    failure: object = None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  -> {self.hint}"

    def __reduce__(self) -> tuple[object, ...]:
        # keyword-only arguments do not survive the default pickling that Spark tasks use to report failures
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(kind: type[SparkmlError], message: str, hint: str | None) -> SparkmlError:
    error = kind.__new__(kind)
    SparkmlError.__init__(error, message, hint=hint)
    return error


class ConfigError(SparkmlError):
    """Wrong usage: a flag, a settings file, a name, a missing package."""

    exit_code = 2


class DataError(SparkmlError):
    """The data is not what was promised: missing, empty, corrupt, or too many bad rows."""

    exit_code = 3


class NoInputError(DataError):
    """There is no raw file where the settings say: a partition that has not come yet, or a wrong path."""


class LaunchError(SparkmlError):
    """The cluster or the gang of ranks could not be started or was lost."""

    exit_code = 4


class TrainingError(SparkmlError):
    """Training started and failed."""

    exit_code = 5


class StorageError(SparkmlError):
    """The store refused: no permission, no space, a torn or altered artifact."""

    exit_code = 6


class GateError(SparkmlError):
    """No candidate may be registered: a gate of the pipeline said no."""

    exit_code = 7


class BusyError(SparkmlError):
    """Another run holds what this one needs."""

    exit_code = 8


EXIT_CODES: dict[int, str] = {
    0: "done",
    1: "internal error: a bug in sparkml, please report it with the run's log",
    **{
        kind.exit_code: (kind.__doc__ or "").strip().splitlines()[0]
        for kind in (ConfigError, DataError, LaunchError, TrainingError, StorageError, GateError, BusyError)
    },
    130: "interrupted (Ctrl-C); the resume command is printed",
}
