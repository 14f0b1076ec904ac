"""Who the broker is at AWS."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from broker.providers.aws.asks import Asks
from broker.providers.aws.calls import Failure
from broker.providers.aws.denies.iam import safe
from broker.providers.aws.settings import AwsSettings
from broker.providers.base import Findings

SIGNATURE_SKEW = timedelta(minutes=5)  # SigV4 refuses callers whose clock is further off
SESSION = "stepcred-check"  # as CloudTrail shows it
NOT_ALLOWED = 405  # Ceph's STS has no GetCallerIdentity

_ASSUMED = re.compile(r"(arn:[^:]+):sts::([0-9]{12}|):assumed-role/([^/]+)/.+")
_SKEWED = frozenset({"RequestExpired", "RequestTimeTooSkewed", "InvalidSignatureException", "SignatureDoesNotMatch"})
_REFUSED: Mapping[str, str] = {
    "InvalidClientTokenId": "the access key is unknown: was it deleted or made inactive?",
    "UnrecognizedClientException": "the access key is unknown: was it deleted or made inactive?",
    "InvalidAccessKeyId": "the access key is unknown: was it deleted or made inactive?",
    "SignatureDoesNotMatch": "the secret key does not fit the access key",
    "InvalidSignatureException": "the secret key does not fit the access key",
    "ExpiredToken": "they have expired: renew what gives them, or take a source that renews itself",
    "ExpiredTokenException": "they have expired: renew what gives them, or take a source that renews itself",
    "AccessDenied": "check the access key, its secret, and what is denied to it",
    "RegionDisabledException": "STS is not active in this region: activate it in the account, or take another sts_region",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """`account` and `arn` are "" where STS does not say."""

    account: str = ""
    arn: str = ""

    @property
    def is_session(self) -> bool:
        """Of a role: whatever it assumes is chained, and lives an hour at most."""
        return _ASSUMED.fullmatch(self.arn) is not None

    @property
    def principal(self) -> str:
        """As a trust policy names it. A role's path is not in a session's ARN."""
        session = _ASSUMED.fullmatch(self.arn)
        return f"{session[1]}:iam::{session[2]}:role/{session[3]}" if session else self.arn


def through(via: str | None, caller: Caller) -> Caller:
    """Who assumes a scope's role: the broker, or a session of the role that it goes through."""
    if not via:
        return caller
    partition, account, name = via.split(":")[1], via.split(":")[4], via.rpartition("/")[2]
    return Caller(account=account, arn=f"arn:{partition}:sts::{account}:assumed-role/{name}/{SESSION}")


async def who(asks: Asks, settings: AwsSettings, off: timedelta | None, found: Findings) -> Caller | None:
    """None when AWS does not take the broker's credentials; `found` says why."""
    answer = await asks.own("sts", "get_caller_identity")
    where = settings.endpoint_url or f"STS in {settings.sts_region}"
    if isinstance(answer, Failure):
        if answer.status == NOT_ALLOWED:
            found.remarks.append(f"{where} does not say who the broker is")
            return Caller()
        found.append(f"{where} {unasked(answer, off)}")
        return None
    account, arn = str(answer.get("Account", "")), str(answer.get("Arn", ""))
    if not re.fullmatch(r"[0-9]{12}", account) or not re.fullmatch(r"arn:[!-~]{1,400}", arn):
        found.remarks.append(f"{where} does not say who the broker is")
        return Caller()
    caller = Caller(account=account, arn=arn)
    found.remarks.append(f"the broker is {caller.arn} of account {caller.account}")
    if caller.arn.endswith(":root"):
        found.append("the broker is the account's root user, who may do everything: give it an identity of its own")
    elif ":user/" in caller.arn:
        found.remarks.append(
            "that is a user, whose key lives until somebody deletes it: a role (instance profile, web identity,"
            " credential_process) needs no key that is stored"
        )
    return caller


def unasked(failure: Failure, off: timedelta | None) -> str:
    """Why AWS did not take the broker's credentials, or gave no answer; what to do."""
    if failure.why:  # it was not sent
        return f"was not asked: {failure.why}"
    code = safe(failure)
    if skewed(failure, off):
        ahead = "" if off is None else f" by {abs(off).total_seconds():.0f} s"
        return (
            f"refused the broker's signature ({code}): this machine's clock is wrong{ahead}: timedatectl set-ntp true"
        )
    if (why := _REFUSED.get(failure.code)) is not None:
        return f"refused the broker's credentials ({code}): {why}"
    return f"gave no answer ({code}): check region, endpoint, network and credentials"


def skewed(failure: Failure, off: timedelta | None) -> bool:
    """A wrong clock and a wrong secret are refused by the same code: the `Date` of the answer tells."""
    if failure.code in _REFUSED:
        return failure.code in _SKEWED and off is not None and abs(off) > SIGNATURE_SKEW
    return failure.code in _SKEWED
