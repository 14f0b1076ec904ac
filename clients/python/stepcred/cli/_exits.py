"""Exit codes (sysexits.h), and how an error is told on one or a few lines of stderr."""

from __future__ import annotations

from stepcred._errors import (
    BrokerUnavailable,
    DeadlineExceeded,
    NoIdentity,
    OperatorRefused,
    Refused,
    SettingsError,
    StepcredError,
    TlsRefused,
    Verdict,
)

FOUND_SOMETHING = 1
USAGE = 64
NO_INPUT = 66
UNAVAILABLE = 69
SOFTWARE = 70
CANNOT_WRITE = 74
RETRY_LATER = 75
DENIED = 77
CONFIG = 78
NOT_EXECUTABLE = 126  # as shells do
NOT_FOUND = 127
SIGNALLED = 128  # + the signal's number

_BY_REASON = {"INVALID_NAME": USAGE, "INVALID_ARGUMENT": USAGE, "INTERNAL": SOFTWARE, "NOT_FOUND": FOUND_SOMETHING}


def exit_code(error: StepcredError) -> int:
    """One code for each thing that a caller can do about it."""
    match error:
        case SettingsError():
            return CONFIG
        case Refused(verdict=Verdict.RETRY_AFTER | Verdict.NEEDS_APPROVAL) | NoIdentity(not_yet=True):
            return RETRY_LATER
        case Refused():
            return _BY_REASON.get(error.reason, DENIED)
        case TlsRefused():
            return DENIED
        case BrokerUnavailable() | DeadlineExceeded() | NoIdentity():
            return UNAVAILABLE
        case _:
            return SOFTWARE


def lines_of(error: StepcredError) -> list[str]:
    """What to print; the notes hold what failed at the step's end."""
    match error:
        case SettingsError():
            problems = error.problems
        case TlsRefused() if not isinstance(error, OperatorRefused):  # doctor looks at the agent's settings
            problems = [f"{error} (more: stepcred doctor)"]
        case _:
            problems = [str(error)]
    told = [f"{name}: {value}" for name, value in error.metadata.items()] if isinstance(error, Refused) else []
    return [*problems, *told, *getattr(error, "__notes__", [])]
