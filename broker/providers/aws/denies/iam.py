"""What IAM's answers mean to whoever writes a role's policies."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from broker.model import JsonValue
from broker.providers.aws.calls import Failure
from broker.providers.base import Contact

Answer: TypeAlias = Mapping[str, JsonValue] | Failure

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
    if failure.why:
        return Problem(text=f"IAM was not asked: {failure.why}", contact=Contact.NOT_ASKED)
    if failure.status == 0:
        contact = Contact.NONE
    else:
        contact = Contact.FAILED if failure.throttled or failure.status >= 500 else Contact.ANSWERED  # noqa: PLR2004 - HTTP's
    return Problem(text=f"{text}: {safe(failure)}", contact=contact)


def refused_write(failure: Failure) -> bool:
    """Is the policy certainly as it was?"""
    refused = failure.code in _REFUSED_WRITES and 400 <= failure.status < 500  # noqa: PLR2004 - HTTP's
    return not failure.sent or failure.throttled or refused


def missing(failure: Failure) -> bool:
    """There is no such policy, or no such role."""
    return failure.status == 404 and failure.code == "NoSuchEntity"  # noqa: PLR2004 - HTTP's


def safe(failure: Failure) -> str:
    """A code is a service's or SDK's identifier; anything else is not repeated."""
    return failure.code if re.fullmatch(r"[A-Za-z0-9.]{1,64}", failure.code, re.ASCII) else "unknown error"


def told(failure: Failure) -> str:
    """What is known of an answer that decides nothing: for the broker's log and journal."""
    return f"{safe(failure)}, HTTP {failure.status}" if failure.status else safe(failure)
