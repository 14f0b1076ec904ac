"""What IAM's answers mean to whoever writes a role's policies."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from broker.model import JsonValue
from broker.providers.aws.calls import BUSY, Failure
from broker.providers.base import Contact

Answer: TypeAlias = Mapping[str, JsonValue] | Failure

_THROTTLES = frozenset({"Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException"})
TOO_MANY_REQUESTS = 429
# Answers after which the policy is certainly as it was.
_REFUSED_WRITES = frozenset(
    {"AccessDenied", "NoSuchEntity", "LimitExceeded", "MalformedPolicyDocument", "UnmodifiableEntity"}
)


class IamCall(Protocol):
    """One IAM request in the revocation lane."""

    def __call__(self, operation: str, **parameters: JsonValue) -> Awaitable[Answer]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Why something was not done. `text` is constant, but for a code."""

    text: str
    contact: Contact


def problem_of(failure: Failure, text: str) -> Problem:
    """One role's refusal says nothing of the others: it is an answer. Being slowed down, and a 5xx, are everybody's."""
    if failure == BUSY:
        contact = Contact.NOT_ASKED
    elif failure.status == 0:
        contact = Contact.NONE
    else:
        contact = Contact.FAILED if throttled(failure) or failure.status >= 500 else Contact.ANSWERED  # noqa: PLR2004 - HTTP's
    return Problem(text=f"{text}: {safe(failure)}", contact=contact)


def throttled(failure: Failure) -> bool:
    """IAM limits the rate of calls."""
    return failure.code in _THROTTLES or failure.status == TOO_MANY_REQUESTS


def refused_write(failure: Failure) -> bool:
    """Is the policy certainly as it was?"""
    definite = throttled(failure) or failure.code in _REFUSED_WRITES
    return not failure.sent or (definite and 400 <= failure.status < 500)  # noqa: PLR2004 - HTTP's


def missing(failure: Failure) -> bool:
    """There is no such policy, or no such role."""
    return failure.status == 404 and failure.code == "NoSuchEntity"  # noqa: PLR2004 - HTTP's


def safe(failure: Failure) -> str:
    """A code is a service's or SDK's identifier; anything else is not repeated."""
    return failure.code if re.fullmatch(r"[A-Za-z0-9.]{1,64}", failure.code, re.ASCII) else "unknown error"
